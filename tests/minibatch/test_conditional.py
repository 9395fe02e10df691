"""Conditions: a decomposition for each label."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

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


@pytest.mark.parametrize("estimator", ["mss", "mss-jackknife"])
def test_a_label_with_too_few_rows_counts_with_its_kl(estimator):
    """With the rest of the rows as they would be alone, and one warning for a criterion."""
    fewest = {"mss": 2, "mss-jackknife": 3}[estimator]
    labels = torch.tensor([0] * (8 - fewest + 1) + [7] * (fewest - 1))
    sizes = {0: 100, 7: 30}
    with pytest.warns(UserWarning, match=rf"too few rows of the labels \[7\] .* needs {fewest}"):
        terms = decompose(*BATCH, sizes, condition=labels, estimator=estimator, reduction="none")
    few = labels == 7
    z, mu, logvar = (t[few] for t in BATCH)
    assert_close(terms.index_code_mi[few], torch.zeros(fewest - 1))
    assert_close(terms.total_correlation[few], torch.zeros(fewest - 1))
    sampled = (Normal(mu, (0.5 * logvar).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1)
    assert_close(terms.dimension_wise_kl[few], sampled)
    assert_close(terms.kl, decompose(*BATCH, 100, reduction="none").kl)
    rest = decompose(*(t[~few] for t in BATCH), 100, estimator=estimator, reduction="none")
    assert_close(terms.total_correlation[~few], rest.total_correlation)

    criterion = TCDecomposition(beta=6, gamma=2, estimator=estimator)
    with pytest.warns(UserWarning, match="KL only"):
        loss = criterion(*BATCH, sizes, condition=labels)
    for _ in range(3):
        assert_close(criterion(*BATCH, sizes, condition=labels), loss)
    assert_close(loss, criterion.weigh(terms).mean())


def test_a_value_that_is_not_finite_is_found_in_the_whole_batch():
    mu = BATCH[1].clone()
    mu[6, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^mu must be finite; got nan at row 6, column 1"):
        decompose(BATCH[0], mu, BATCH[2], SIZES, condition=LABELS)


def test_a_mapping_without_a_condition_is_refused():
    with pytest.raises(TypeError, match="dataset_size must be an int"):
        decompose(*BATCH, SIZES)
