"""Rows that are not one of each item: several samples of an item, and items with several rows."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from strategies import draw_posterior
from tcdecomp import Bracket, Posterior, PosteriorBank, TCDecomposition, decompose
from tcdecomp.dataset import split_tc
from tolerances import assert_close

N = 100


def several(seed=0, samples=3, size=6, dim=2):
    """Return z of shape (K, M, D), and moments."""
    _, mu, logvar = draw_posterior(seed, size, dim)
    g = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(samples, size, dim, generator=g, dtype=mu.dtype)
    return mu + (0.5 * logvar).exp() * noise, mu, logvar


# K samples of each item


@pytest.mark.parametrize("estimator", ["mss", "mss-jackknife", "mws", "inclusive"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_samples_are_averaged(estimator, reduction):
    z, mu, logvar = several()
    options = {"estimator": estimator, "reduction": reduction}
    got = decompose(z, mu, logvar, N, **options)
    each = [torch.stack(decompose(sample, mu, logvar, N, **options)) for sample in z]
    assert_close(torch.stack(got), torch.stack(each).mean(0))
    assert got.kl.shape == (() if reduction != "none" else (6,))


@pytest.mark.parametrize("weights", [{}, {"beta": 6}, {"beta": 6, "kl": "sampled"}])
def test_the_loss_and_its_gradient_are_averaged(weights):
    z, mu, logvar = several()
    criterion = TCDecomposition(**weights)
    leaves = [t.clone().requires_grad_() for t in (z, mu, logvar)]
    loss = criterion(*leaves, N)
    each = torch.stack([criterion(sample, *leaves[1:], N) for sample in leaves[0]]).mean()
    assert_close(loss, each)
    got, want = (torch.autograd.grad(value, leaves, allow_unused=True) for value in (loss, each))
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b)


def test_samples_go_with_labels_banks_brackets_and_groups():
    z, mu, logvar = several(size=8)
    labels, items = torch.arange(8) % 2, torch.arange(8)
    bank = PosteriorBank(9)
    bank.push(Posterior(*draw_posterior(3, 5, 2)), torch.arange(50, 55))
    for dataset_size, options in (
        ({0: N, 1: N}, {"condition": labels}),
        (N, {"items": items, "bank": bank}),
        (N, {"items": items // 2}),
    ):
        got = decompose(z, mu, logvar, dataset_size, **options)
        each = [torch.stack(decompose(s, mu, logvar, dataset_size, **options)) for s in z]
        assert_close(torch.stack(got), torch.stack(each).mean(0))
    assert_close(Bracket().update(z, mu, logvar, N).kl, decompose(z, mu, logvar, N).kl)
    split = split_tc(z, mu, logvar, N, {"a": [0], "b": [1]})
    assert_close(split.between, decompose(z, mu, logvar, N).total_correlation)


def test_a_posterior_holds_samples():
    z, mu, logvar = several()
    posterior = Posterior(z, mu, logvar)
    assert all(a is b for a, b in zip(posterior, (z, mu, logvar), strict=True))
    assert posterior.sample().z.shape == mu.shape


EXPANDED = several()[1].expand(3, -1, -1)


@pytest.mark.parametrize(
    ("tensors", "remedy"),
    [
        (
            (several()[0], EXPANDED, several()[2].expand(3, -1, -1)),
            r"pass z of shape \(K, M, D\) with mu\[0\] and logvar\[0\]",
        ),
        (
            (several()[0],) * 3,
            r"call decompose_sites; for K samples .* flatten\(1\) of each gives \(M, D\)",
        ),
    ],
)
def test_three_dimensions_have_the_remedy_that_their_values_show(tensors, remedy):
    with pytest.raises(ValueError, match=remedy):
        decompose(*tensors, N)


def test_the_remedy_for_samples_works():
    z, mu, logvar = several()
    expanded = z, mu.expand(3, -1, -1), logvar.expand(3, -1, -1)
    got = decompose(expanded[0], expanded[1][0], expanded[2][0], N)
    assert_close(torch.stack(got), torch.stack(decompose(z, mu, logvar, N)))


# Items with several rows


def weights_of(items, dataset_size):
    """Return the table of the rule: 1/(N r) on own rows, (N - 1)/(N (M - r)) on all others."""

    def row(i, size, _):
        own = items.count(items[i])
        rest = (dataset_size - 1) / (dataset_size * (size - own))
        return [1 / (dataset_size * own) if item == items[i] else rest for item in items]

    return row


@given(
    seed=st.integers(0, 2**31),
    items=st.lists(st.integers(0, 3), min_size=3, max_size=7).filter(lambda x: len(set(x)) > 1),
)
def test_items_with_several_rows_follow_the_rule(seed, items):
    batch = draw_posterior(seed, len(items), 2)
    got = decompose(*batch, 20, items=torch.tensor(items), reduction="none")
    want = reference.terms(*(t.tolist() for t in batch), 20, weights_of(items, 20))
    for term, expected in zip(got[:3], want, strict=True):
        assert_close(term, expected)


@pytest.mark.parametrize("estimator", ["mss", "mws", "inclusive"])
@pytest.mark.parametrize("kernel", ["dense", "blocked"])
def test_rows_of_equal_posteriors_weigh_as_one_row(estimator, kernel):
    """Where all rows of an item are alike, and equally many, q(z) is that of one row each."""
    z, mu, logvar = draw_posterior(0, 5, 3)
    thrice = [t.repeat_interleave(3, 0) for t in (z, mu, logvar)]
    items = torch.arange(5).repeat_interleave(3)
    options = {"estimator": estimator, "kernel": kernel}
    got = decompose(*thrice, N, items=items, **options)
    assert_close(torch.stack(got), torch.stack(decompose(z, mu, logvar, N, **options)))


def test_all_items_with_several_rows_are_the_data_set():
    """M = N in items: q(z) is the mean of the items' own mixtures."""
    z, mu, logvar = draw_posterior(0, 6, 2)
    items = torch.tensor([0, 0, 0, 1, 2, 2])
    terms = decompose(z, mu, logvar, 3, items=items, reduction="none")
    counts = torch.tensor([3.0, 3, 3, 1, 2, 2], dtype=torch.float64)
    pairs = torch.distributions.Normal(mu, (0.5 * logvar).exp()).log_prob(z[:, None]).sum(-1)
    log_qz = (pairs - (3 * counts).log()).logsumexp(1)
    own = pairs.diagonal()
    # Each other row has (N - 1)/(N (M - r)), which is 1/(N r) where all items have as many rows.
    equal = torch.tensor([0, 0, 1, 1, 2, 2])
    even = decompose(z, mu, logvar, 3, items=equal, reduction="none")
    assert_close(even.index_code_mi, own - (pairs - math.log(6)).logsumexp(1))
    assert (terms.index_code_mi - (own - log_qz)).abs().max() < 1


def test_gradients_of_items_with_several_rows():
    inputs = [t.requires_grad_() for t in draw_posterior(0, 5, 2)]
    items = torch.tensor([0, 1, 1, 2, 0])
    criterion = TCDecomposition(beta=6)
    torch.autograd.gradcheck(lambda *batch: criterion(*batch, N, items=items), inputs)


def test_a_bank_beside_items_with_several_rows():
    """Its entries are rows of further items."""
    z, mu, logvar = draw_posterior(0, 6, 2)
    bank = PosteriorBank(9)
    bank.push(Posterior(z[4:], mu[4:], logvar[4:]), torch.tensor([7, 8]))
    items = [0, 0, 1, 2]
    batch = [t[:4] for t in (z, mu, logvar)]
    got = decompose(*batch, 20, items=torch.tensor(items), bank=bank, reduction="none")
    everything = decompose(z, mu, logvar, 20, items=torch.tensor([*items, 7, 8]), reduction="none")
    assert_close(got.index_code_mi, everything.index_code_mi[:4])


@pytest.mark.parametrize(
    ("items", "size", "options", "text"),
    [
        (
            [0, 0, 1],
            20,
            {"estimator": "mss-jackknife"},
            "'mss-jackknife' where an item has several",
        ),
        ([4, 4, 4], 20, {}, "must have M >= 2 rows .* got M = 1"),
        ([0, 1, 1], 1, {}, "at least the batch size M = 2; got 1"),
    ],
)
def test_what_items_refuse(items, size, options, text):
    with pytest.raises(ValueError, match=text):
        decompose(*draw_posterior(0, 3, 2), size, items=torch.tensor(items), **options)


def test_more_rows_than_items_are_served():
    terms = decompose(*draw_posterior(0, 6, 2), 2, items=torch.tensor([0, 1] * 3))
    assert terms.index_code_mi.isfinite()


def test_groups_know_items_with_several_rows_and_warn_once():
    batch, items = draw_posterior(0, 6, 3), torch.arange(6) // 2
    groups = {"a": [0, 2], "b": [1]}
    split = split_tc(*batch, N, groups, items=items)
    whole = decompose(*batch, N, items=items).total_correlation
    assert_close(split.between + split.within["a"], whole)
    assert_close(split.within["b"], torch.zeros(()))
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split_tc(*batch, {0: N, 1: N}, groups, condition=labels)
    assert len(caught) == 1


@pytest.mark.parametrize("estimator", ["mws", "inclusive"])
def test_rows_of_one_item_alone_are_a_mixture_of_them(estimator):
    batch = draw_posterior(0, 4, 2)
    got = decompose(*batch, 10, items=torch.zeros(4, dtype=torch.long), estimator=estimator)
    shift = math.log(10) if estimator == "mws" else 0.0
    want = decompose(*batch, 4)  # of four items: 1 / 4 on each row
    assert_close(got.index_code_mi, want.index_code_mi + shift)


def test_a_bank_takes_no_posterior_that_is_not_finite():
    z, mu, logvar = draw_posterior(0, 3, 2)
    bank = PosteriorBank(5)
    with pytest.raises(ValueError, match="mu must be finite; got nan at row 1"):
        bank.push(
            Posterior(z, mu.index_fill(0, torch.tensor([1]), math.nan), logvar), torch.arange(3)
        )
    assert len(bank) == 0
