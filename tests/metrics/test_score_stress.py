"""The stress table: what its fast scores must say of codes of which the answer is known."""

from pathlib import Path

import pytest

from benchmarks.score_stress import BAD, GOOD, STRUCTURES, measure, mistakes
from tcdecomp.disentanglement.scores import FAST, VALUES

ENCODERS = [encode.__name__ for encode in GOOD + BAD]
PAGE = Path(__file__).parents[2] / "docs/benchmarks/stress.md"


@pytest.fixture(scope="module")
def wrong():
    """The mistakes of the fast scores: score, structure, encoder."""
    with pytest.warns(UserWarning, match="rows are few"):
        found = measure(1000, scores=None)
    return {
        (name, structure, encoder)
        for name, values in found.items()
        for structure, row in zip(STRUCTURES, mistakes(values), strict=True)
        for encoder, flag in zip(ENCODERS, row, strict=True)
        if flag
    }


def test_aligned_and_unrelated_codes_of_independent_factors_are_rated_right(wrong):
    assert not [case for case in wrong if case[1] == "independent" and case[2] == "aligned"]
    assert not [case for case in wrong if case[2] == "unrelated"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_each_kind_of_score_sees(wrong, structure):
    assert ("linear_r2", structure, "rotated") in wrong  # it reads any axes
    assert ("mig", structure, "rotated") not in wrong
    assert ("mcc", structure, "copied") in wrong  # it takes one latent for each factor
    assert ("mig", structure, "copied") not in wrong


def test_related_factors_lower_the_gaps_of_perfect_codes(wrong):
    for name in ("mig", "mig_sup", "dcimig"):
        assert (name, "correlated", "aligned") in wrong
        assert (name, "dependent", "aligned") in wrong
        assert (name, "unbalanced", "aligned") not in wrong


def test_the_page_has_every_score():
    labels = [line.split(" | ")[0].strip("| ") for line in PAGE.read_text().splitlines()[2:]]
    assert labels == [
        value.label for value in VALUES.values() if value.higher and value.label != "density MIG"
    ]
    assert {VALUES[name].label for name in FAST if VALUES[name].higher} <= set(labels)
