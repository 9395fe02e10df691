"""What is read from a batch: the model's inputs, the factors, and why there are none."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcdecomp.scoring.loaders import (
    absence_of,
    check_reading,
    factors_of,
    inputs_of,
    usable_factors,
)

X = torch.arange(24.0).reshape(8, 3)
FACTORS = torch.stack([torch.arange(8) % 2, torch.arange(8) // 4], 1)


# Inputs


class Graph:
    """A batch of a kind of its own, whose entries have keys."""

    def __getitem__(self, key):
        return {"x": X, "y": FACTORS}[key]


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        (X, None),
        ((X, FACTORS), None),
        ([X], None),
        ({"image": X, "label": 3}, "image"),
        (Graph(), "x"),
        ((FACTORS, X), lambda batch: batch[1]),
    ],
)
def test_inputs(batch, inputs):
    assert inputs_of(batch, inputs) is X


@pytest.mark.parametrize("batch", [{"image": X}, "text", Graph()])
def test_other_batches_are_the_inputs_whole(batch):
    assert inputs_of(batch) is batch


def test_a_sequence_whole():
    pair = (X, FACTORS)
    assert inputs_of(pair, lambda batch: batch) is pair


@pytest.mark.parametrize("read", [inputs_of, lambda *a: factors_of(*a, rows=8)])
@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        ({"image": X, "label": 1}, "a dict with the keys 'image', 'label'"),
        ((X, FACTORS), "a tuple of 2: Tensor (8, 3) of float32, Tensor (8, 2) of int64"),
        (X, "a Tensor (8, 3) of float32"),
        (Graph(), "a Graph"),
    ],
)
def test_a_key_that_is_not_there(read, batch, kind):
    message = f"='colour' must be a key of the batches; got {kind}"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(batch, "colour")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((3, None), "inputs must be a function of a batch, or a key of batches that .*; got 3"),
        ((False, None), "inputs must be a function .*; got False"),
        ((None, 3), "factors must be a function of a batch, .*, or False for none; got 3"),
        ((None, True), "factors must be .*; got True"),
    ],
)
def test_other_ways_to_read_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        check_reading(*options)


def test_the_ways_to_read():
    for way in (None, "key", len):
        check_reading(way, way)
    check_reading(None, False)


# Factors


@pytest.mark.parametrize(
    ("batch", "factors"),
    [
        ((X, FACTORS), None),
        ([X, FACTORS.bool()], None),
        ({"x": X, "factors": FACTORS}, None),
        ({"x": X, "factors": FACTORS.tolist()}, None),
        ({"x": X, "labels": FACTORS}, "labels"),
        ((X, X, FACTORS), lambda batch: batch[2]),
        ((X, FACTORS.double()), lambda batch: batch[1]),
    ],
)
def test_factors(batch, factors):
    np.testing.assert_array_equal(factors_of(batch, factors, rows=8), FACTORS)


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X,),
        (X, X),
        (X, FACTORS, X),
        (X, "label"),
        (X, FACTORS[..., None]),
        (X, FACTORS.T),  # as a list of edges
        (X, torch.tensor(3)),
        {"x": X},
        {"x": X, "labels": FACTORS},
    ],
)
def test_what_may_be_no_factors_is_not_taken_for_them(batch):
    assert factors_of(batch, rows=8) is None
    told = absence_of(batch)
    assert told.startswith("no factors found in the batches, each a ")
    assert "factors=" in told


def test_the_remedies_that_are_told_lead_to_factors():
    assert 'factors="labels"' in absence_of({"x": X, "labels": FACTORS})
    assert factors_of({"x": X, "labels": FACTORS}, "labels", rows=8).shape == (8, 2)
    assert "factors=lambda batch: batch[1]" in absence_of((X, FACTORS, X))
    assert factors_of((X, FACTORS, X), lambda batch: batch[1], rows=8).shape == (8, 2)


def test_no_factors():
    batch = {"x": X, "factors": FACTORS}
    assert factors_of(batch, False, rows=8) is None
    assert absence_of(batch, False) == "factors=False"
    assert factors_of(batch, lambda batch: None, rows=8) is None
    assert absence_of(batch, lambda batch: None) == "factors= returned None for a batch"


@pytest.mark.parametrize("factors", [FACTORS[:3], torch.tensor(1), FACTORS[..., None]])
def test_named_factors_must_have_a_row_for_each_item(factors):
    message = r"factors must have shape \(8,\) or \(8, K\) in a batch of 8 items; got shape"
    with pytest.raises(ValueError, match=message):
        factors_of((X, factors), lambda batch: batch[1], rows=8)


def test_factors_are_copies():
    batch = (X, FACTORS.clone())
    found = factors_of(batch, rows=8)
    batch[1].zero_()
    np.testing.assert_array_equal(found, FACTORS)


# What a MIG can use


@given(size=st.integers(22, 80), seed=st.integers(0, 99))
def test_an_index_is_left_out_with_a_warning(size, seed):
    rng = np.random.default_rng(seed)
    factors = np.column_stack([rng.integers(0, 10, size), 7 * rng.permutation(size)])
    factors[:2, 0] = 0, 1
    with pytest.warns(UserWarning, match=rf"score leaves the factors \[1\] .* {size} values for"):
        assert usable_factors(factors, "score").tolist() == [True, False]


def test_an_index_of_rows_drawn_with_replacement():
    index = np.random.default_rng(0).integers(0, 500, 500)
    with pytest.warns(UserWarning, match="like the index of an item"):
        assert not usable_factors(index, "TCMonitor").any()


def test_names_of_files_are_an_index():
    with pytest.warns(UserWarning, match="like the index of an item"):
        assert not usable_factors(np.array([f"{n}.png" for n in range(50)]), "score").any()


def test_a_factor_of_one_value_is_left_out_with_a_warning():
    factors = np.column_stack([np.ones(8), FACTORS])
    with pytest.warns(
        UserWarning, match=r"TCMonitor leaves the factors \[0\] out of the MIG: they"
    ):
        assert usable_factors(factors, "TCMonitor").tolist() == [False, True, True]


@pytest.mark.parametrize(
    "factors",
    [
        FACTORS.numpy(),
        np.arange(8),  # too few to tell
        np.arange(100) % 40,
        np.random.default_rng(0).random(100),  # real numbers, which mig_score bins or refuses
        np.array(["disc", "square"] * 4, dtype=object),
    ],
)
def test_other_factors_are_used_without_a_word(factors):
    assert usable_factors(factors, "score").all()
