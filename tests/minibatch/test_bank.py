"""Banks: earlier posteriors among the components."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import draw_posterior
from tcdecomp import Posterior, TCDecomposition, decompose
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.posterior import log_normal
from tolerances import assert_close

N, D = 7, 2
Z, MU, LOGVAR = draw_posterior(0, N, D)


def posteriors(rows):
    return Posterior(Z[rows], MU[rows], LOGVAR[rows])


def bank_of(*pushes, capacity=100):
    bank = PosteriorBank(capacity)
    for rows in pushes:
        bank.push(posteriors(rows), torch.tensor(rows))
    return bank


def log_qz(rows, bank, **options):
    """Return the estimated log q(z) of a batch."""
    batch = posteriors(rows)
    given = {"items": torch.tensor(rows), "bank": bank, "reduction": "none", **options}
    terms = decompose(batch.z, batch.mu, batch.logvar, N, **given)
    return log_normal(batch.z, batch.mu, batch.logvar).sum(1) - terms.index_code_mi


def test_q_is_unbiased_over_all_batches_and_banks():
    """Item 0's q(z), over the batches of 2 that hold it and banks of 2 of the other items."""
    estimates = [
        log_qz([0, other], bank_of(list(held)))[0].exp()
        for other in range(1, N)
        for held in itertools.combinations([i for i in range(1, N) if i != other], 2)
    ]
    exact = log_normal(Z[0], MU, LOGVAR).sum(1).exp().mean()
    assert_close(torch.stack(estimates).mean(), exact)


def test_batch_and_bank_of_all_items_are_exact():
    got = log_qz([2, 4], bank_of([0, 1, 3], [5, 6]))
    want = log_normal(Z[[2, 4], None], MU, LOGVAR).sum(2).exp().mean(1).log()
    assert_close(got, want)


def test_items_of_the_batch_are_left_out():
    assert_close(log_qz([2, 4], bank_of([0, 2, 1, 4])), log_qz([2, 4], bank_of([0, 1])))


def test_an_item_is_held_once_and_newest():
    bank = PosteriorBank(10)
    bank.push(posteriors([5, 1]), torch.tensor([0, 1]))  # as item 0 was, an epoch ago
    bank.push(posteriors([0]), torch.tensor([0]))
    assert len(bank) == 2
    assert_close(log_qz([2, 4], bank), log_qz([2, 4], bank_of([0, 1])))


def test_the_oldest_make_room():
    bank = bank_of([0, 1], [3], [5, 6], capacity=3)
    assert len(bank) == 3
    assert_close(log_qz([2, 4], bank), log_qz([2, 4], bank_of([3, 5, 6])))


def test_an_item_repeated_in_a_push_counts_once():
    bank = PosteriorBank(10)
    bank.push(posteriors([1, 0, 1]), torch.tensor([1, 0, 1]))
    assert len(bank) == 2


def test_an_empty_bank_is_none():
    assert_close(log_qz([2, 4], PosteriorBank(10)), log_qz([2, 4], None))


def test_entries_carry_no_graph_and_do_not_change_with_their_source():
    mu, logvar = MU[:2].clone().requires_grad_(), LOGVAR[:2].clone().requires_grad_()
    bank = PosteriorBank(10)
    bank.push(Posterior(Z[:2], mu, logvar), torch.arange(2))
    with torch.no_grad():
        mu.zero_()
    batch = posteriors([2, 4])
    loss = TCDecomposition(beta=6)(
        batch.z, batch.mu, batch.logvar, N, items=torch.tensor([2, 4]), bank=bank
    )
    assert not loss.requires_grad
    assert_close(log_qz([2, 4], bank), log_qz([2, 4], bank_of([0, 1])))


@pytest.mark.parametrize("estimator", ["mss", "mss-jackknife", "mws", "inclusive"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_weighs_the_terms(estimator, reduction):
    criterion = TCDecomposition(alpha=0.5, beta=6, estimator=estimator, reduction=reduction)
    batch = Z[:3], MU[:3], LOGVAR[:3], 100
    given = {"items": torch.arange(3), "bank": bank_of([4, 5, 0])}
    loss = criterion(*batch, **given)
    assert_close(loss, criterion.weigh(criterion.decompose(*batch, **given)))


def test_gradient_of_z():
    z, mu, logvar = (t[:3] for t in (Z, MU, LOGVAR))
    given = {"items": torch.arange(3), "bank": bank_of([4, 5])}
    for estimator in ("mss", "mss-jackknife"):
        criterion = TCDecomposition(beta=6, estimator=estimator)
        torch.autograd.gradcheck(
            lambda points, c=criterion: c(points, mu, logvar, 50, **given),
            z.clone().requires_grad_(),
        )


def expectation(mu, logvar, batches):
    """Return MI and DWKL of D = 1, over batches and noise, the rest of the items in the bank.

    Each row's terms know its own noise only, so that one quadrature serves all rows.
    """
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(80))
    total = torch.zeros(2, dtype=mu.dtype)
    for rows in batches:
        rest = [item for item in range(len(mu)) if item not in rows]
        bank = PosteriorBank(len(mu))
        if rest:
            bank.push(Posterior(mu[rest], mu[rest], logvar[rest]), torch.tensor(rest))
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            z = mu[rows] + (0.5 * logvar[rows]).exp() * node
            given = {"items": torch.tensor(rows), "bank": bank, "validate": False}
            terms = decompose(z, mu[rows], logvar[rows], len(mu), **given)
            total = total + weight * torch.stack([terms.index_code_mi, terms.dimension_wise_kl])
    return total / len(batches)


def test_the_expected_gradient_is_the_exact_one():
    """Entries lack a gradient whose expectation is 0, if the own component's is in proportion."""
    mu = torch.tensor([[0.0], [0.7], [1.5], [2.2], [3.0]], dtype=torch.float64)
    logvar = torch.tensor([[-0.5], [0.0], [0.3], [-0.8], [0.1]], dtype=torch.float64)
    leaves = mu.requires_grad_(), logvar.requires_grad_()
    exact = expectation(*leaves, [list(range(5))])
    banked = expectation(*leaves, list(map(list, itertools.combinations(range(5), 2))))
    assert_close(banked, exact)
    for term in range(2):
        want, got = (
            torch.cat(torch.autograd.grad(value[term], leaves, retain_graph=True))
            for value in (exact, banked)
        )
        assert (got - want).abs().max() < 1e-6 * want.abs().max()


@given(st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=4, unique=True), max_size=5))
def test_a_checkpoint_holds_all_of_it(pushes):
    bank, loaded = bank_of(*pushes, capacity=4), PosteriorBank(4)
    loaded.load_state_dict(bank.state_dict())
    assert len(loaded) == len(bank)
    assert_close(log_qz([2, 4], loaded), log_qz([2, 4], bank))


def test_a_smaller_bank_loads_the_newest():
    loaded = PosteriorBank(2)
    loaded.load_state_dict(bank_of([0, 1], [3, 5]).state_dict())
    assert_close(log_qz([2, 4], loaded), log_qz([2, 4], bank_of([3, 5])))


def test_a_checkpoint_survives_torch_save(tmp_path):
    torch.save(bank_of([0, 1]).state_dict(), tmp_path / "bank.pt")
    PosteriorBank(2).load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))


def test_items_of_a_narrow_dtype_meet_those_of_a_wide_one():
    bank = PosteriorBank(10)
    bank.push(posteriors([0, 1]), torch.tensor([300, 301]))  # 44 and 45 modulo 256
    batch = posteriors([2, 4])
    items = torch.tensor([44, 45], dtype=torch.uint8)
    banked = decompose(batch.z, batch.mu, batch.logvar, N, items=items, bank=bank)
    want = decompose(batch.z, batch.mu, batch.logvar, N, items=items.long(), bank=bank)
    alone = decompose(batch.z, batch.mu, batch.logvar, N)
    assert_close(torch.stack(banked), torch.stack(want))
    assert (banked.index_code_mi - alone.index_code_mi).abs() > 0.01


def test_half_precision_entries_are_raised():
    bank = PosteriorBank(10)
    half = [t[:2].to(torch.bfloat16) for t in (Z, MU, LOGVAR)]
    bank.push(Posterior(*half), torch.arange(2))
    assert log_qz([2, 4], bank).dtype == torch.float64


# Bad input, which leaves the bank as it was


@pytest.mark.parametrize(
    ("push", "error", "text"),
    [
        (
            lambda b: b.push((MU, LOGVAR), torch.arange(2)),
            TypeError,
            "posterior must be a Posterior; got tuple",
        ),
        (lambda b: b.push(posteriors([2]), [2]), TypeError, "items must be a torch.Tensor"),
        (lambda b: b.push(posteriors([2]), torch.ones(1)), TypeError, "an integer dtype"),
        (lambda b: b.push(posteriors([2]), torch.arange(2)), ValueError, r"shape \(1,\)"),
        (
            lambda b: b.push(Posterior(Z[:2, :1], MU[:2, :1], LOGVAR[:2, :1]), torch.arange(2)),
            ValueError,
            "bank must hold posteriors of the batch's D = 1; its own have D = 2",
        ),
        (lambda b: b.load_state_dict({"mu": MU}), ValueError, "state_dict must be a bank's own"),
        (
            lambda b: b.load_state_dict({"mu": 1, "logvar": MU, "items": torch.arange(2)}),
            ValueError,
            "state_dict must be a bank's own",
        ),
        (lambda b: log_qz([2, 4], b, items=None), ValueError, "items must be given with a bank"),
    ],
)
def test_errors(push, error, text):
    bank = bank_of([0, 1])
    with pytest.raises(error, match=text):
        push(bank)
    assert len(bank) == 2
    assert_close(log_qz([2, 4], bank), log_qz([2, 4], bank_of([0, 1])))


def test_more_components_than_items_are_refused():
    batch, rows = posteriors([2, 4]), torch.tensor([2, 4])
    with pytest.raises(ValueError, match=r"in the bank and the batch, 3 \+ 2; got 4"):
        decompose(batch.z, batch.mu, batch.logvar, 4, items=rows, bank=bank_of([0, 1, 3]))


@pytest.mark.parametrize(
    ("capacity", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_capacity(capacity, error):
    with pytest.raises(error, match="capacity must be"):
        PosteriorBank(capacity)
