"""Conditions: a decomposition for each label."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import draw_posterior
from tcdecomp import TCDecomposition, Terms, decompose
from tcdecomp.minibatch.bank import PosteriorBank
from tolerances import assert_close

SIZES = {0: 100, 3: 5, 7: 1}
LABELS = torch.tensor([3, 0, 0, 7, 3, 0, 3, 0])
BATCH = draw_posterior(0, 8, 2)


def by_hand(**options):
    """Return each label's share of the rows and its terms."""
    for label, size in SIZES.items():
        rows = label == LABELS
        terms = decompose(*(t[rows] for t in BATCH), size, **options)
        yield rows, terms


def test_mean():
    terms = decompose(*BATCH, SIZES, condition=LABELS)
    want = sum(rows.sum() / 8 * torch.stack(part) for rows, part in by_hand())
    assert_close(torch.stack(terms), want)
    assert isinstance(terms, Terms)


def test_sum():
    terms = decompose(*BATCH, SIZES, condition=LABELS, reduction="sum")
    want = sum(torch.stack(part) for _, part in by_hand(reduction="sum"))
    assert_close(torch.stack(terms), want)


def test_none_keeps_the_order_of_the_rows():
    terms = decompose(*BATCH, SIZES, condition=LABELS, reduction="none")
    for rows, part in by_hand(reduction="none"):
        assert_close(terms.total_correlation[rows], part.total_correlation)
        assert_close(terms.kl[rows], part.kl)


def test_sampled_kl():
    terms = decompose(*BATCH, SIZES, condition=LABELS, kl="sampled")
    assert terms.kl is None
    assert_close(terms.sampled_kl, decompose(*BATCH, 8, kl="sampled").sampled_kl)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_weighs_the_terms(reduction):
    criterion = TCDecomposition(alpha=0.5, beta=6, reduction=reduction)
    terms = criterion.decompose(*BATCH, SIZES, condition=LABELS)
    loss = criterion(*BATCH, SIZES, condition=LABELS)
    assert_close(loss, criterion.weigh(terms))
    excess = criterion.excess_of(*BATCH, SIZES, condition=LABELS)
    assert_close(excess, criterion.excess(terms))


@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([0, 10]))
def test_one_label_is_no_condition(seed, size, more):
    batch = draw_posterior(seed, size, 2)
    labels = torch.full((size,), 4)
    got = decompose(*batch, {4: size + more}, condition=labels)
    assert_close(torch.stack(got), torch.stack(decompose(*batch, size + more)))


@given(st.permutations(range(8)))
def test_the_order_of_the_rows_changes_nothing(order):
    got = decompose(*(t[list(order)] for t in BATCH), SIZES, condition=LABELS[list(order)])
    want = decompose(*BATCH, SIZES, condition=LABELS)
    assert_close(torch.stack(got), torch.stack(want))


def test_gradients():
    inputs = [t.clone().requires_grad_() for t in BATCH]
    criterion = TCDecomposition(beta=6)
    torch.autograd.gradcheck(lambda *batch: criterion(*batch, SIZES, condition=LABELS), inputs)


ERRORS = {
    "no tensor": ({"condition": [0] * 8}, TypeError, "condition must be a torch.Tensor of int"),
    "floats": ({"condition": LABELS.float()}, TypeError, "condition must have an integer dtype"),
    "length": ({"condition": LABELS[:3]}, ValueError, r"condition must have shape \(8,\)"),
    "int size": ({"dataset_size": 100}, TypeError, "dataset_size must map each label"),
    "no size": ({"dataset_size": {0: 9, 3: 9}}, ValueError, "got none for 7"),
    "small": ({"dataset_size": {**SIZES, 0: 2}}, ValueError, "label 0: .*batch size M = 4; got 2"),
    "float size": ({"dataset_size": {**SIZES, 0: 9.5}}, TypeError, "label 0: .* must be an int"),
    "lonely": ({"dataset_size": {**SIZES, 7: 30}}, ValueError, "label 7: .* got 1 row for 30"),
    "bank": ({"bank": PosteriorBank(4)}, ValueError, "bank must be None where a condition"),
    "items": ({"items": LABELS}, ValueError, "items must be None where a condition is given"),
}


@pytest.mark.parametrize("weights", [{}, {"beta": 6}])
@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, weights):
    change, error, text = ERRORS[case]
    options = {"dataset_size": SIZES, "condition": LABELS, **change}
    with pytest.raises(error, match=text):
        TCDecomposition(**weights)(*BATCH, options.pop("dataset_size"), **options)


def test_a_label_too_small_for_the_estimator_is_named():
    labels = torch.tensor([3, 0, 0, 7, 3, 0, 0, 0])
    with pytest.raises(ValueError, match=r"label 3: .* M >= 3 rows"):
        decompose(*BATCH, SIZES, condition=labels, estimator="mss-jackknife")


def test_a_value_that_is_not_finite_is_found_in_the_whole_batch():
    mu = BATCH[1].clone()
    mu[6, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^mu must be finite; got nan at row 6, column 1"):
        decompose(BATCH[0], mu, BATCH[2], SIZES, condition=LABELS)


def test_a_mapping_without_a_condition_is_refused():
    with pytest.raises(TypeError, match="dataset_size must be an int"):
        decompose(*BATCH, SIZES)
