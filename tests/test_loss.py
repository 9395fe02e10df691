"""The loss: its weights, the identities that it promises, and its life inside a model."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Laplace, Normal, kl_divergence

from strategies import batches, draw_posterior
from tcdecomp import TCDecomposition, decompose, presets
from tolerances import assert_close
from versions import compiles

WEIGHTS = [(0.5, 6.0, 2.0), (-1.0, 3.0, 0.0), (1.0, 6.0, 1.0), (2.0, 0.0, 1.0)]
BATCH = draw_posterior(seed=0, size=16, dim=3)


def kl_of_torch(mu, logvar, prior=None):
    prior = prior or Normal(torch.zeros_like(mu), 1.0)
    return kl_divergence(Normal(mu, (0.5 * logvar).exp()), prior).sum(1)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("estimator", ["mss", "mws", "inclusive"])
def test_value_and_gradients_of_distinct_weights(weights, estimator):
    a, b, c = weights
    ours = [t.clone().requires_grad_() for t in BATCH]
    want = [t.clone().requires_grad_() for t in BATCH]
    criterion = TCDecomposition(alpha=a, beta=b, gamma=c, estimator=estimator)
    loss = criterion(*ours, 100)
    terms = decompose(*want, 100, estimator=estimator)
    formula = (
        c * kl_of_torch(*want[1:]).mean()
        + (a - c) * terms.index_code_mi
        + (b - c) * terms.total_correlation
    )
    assert_close(loss, formula)
    assert_close(criterion.weigh(terms), formula)
    assert_close(criterion.excess(terms), formula - terms.kl)
    loss.backward()
    formula.backward()
    for got, expected in zip(ours, want, strict=True):
        assert_close(got.grad, expected.grad)


@given(batch=batches(), beta=st.floats(0, 10), reduction=st.sampled_from(["mean", "sum", "none"]))
def test_equal_weights_are_the_closed_form_kl_to_the_last_bit(batch, beta, reduction):
    criterion = TCDecomposition(alpha=beta, beta=beta, gamma=beta, reduction=reduction)
    loss = criterion(*batch)
    assert torch.equal(loss, beta * decompose(*batch, reduction=reduction).kl)
    assert torch.equal(loss, criterion.weigh(criterion.decompose(*batch)))
    per_item = beta * kl_of_torch(*batch[1:3])
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda t: t}[reduction]
    assert_close(loss, reduce(per_item))


def test_equal_weights_estimate_nothing(monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("log-sums were computed")

    for function in ("mean_log_mixture", "log_mixture", "log_sums"):
        monkeypatch.setattr(f"tcdecomp.minibatch.mixture.{function}", forbidden)
    for kl in ("closed", "sampled"):
        assert TCDecomposition(alpha=4, beta=4, gamma=4, kl=kl)(*BATCH, 100).isfinite()
    with pytest.raises(AssertionError, match="log-sums were computed"):
        TCDecomposition(beta=4)(*BATCH, 100)


@given(batch=batches(), beta=st.floats(0, 10))
def test_a_sampled_kl_makes_the_loss_the_weighted_sum(batch, beta):
    criterion = TCDecomposition(alpha=0.5, beta=beta, gamma=2, kl="sampled")
    terms = criterion.decompose(*batch)
    mi, tc, dimension_wise_kl, kl = terms
    assert kl is None
    assert_close(criterion(*batch), 0.5 * mi + beta * tc + 2 * dimension_wise_kl)
    assert_close(criterion.excess(terms), criterion.weigh(terms) - terms.sampled_kl)


def test_equal_weights_with_a_sampled_kl():
    criterion = TCDecomposition(alpha=3, beta=3, gamma=3, kl="sampled")
    assert_close(criterion(*BATCH, 100), 3 * criterion.decompose(*BATCH, 100).sampled_kl)


def test_the_expected_loss_is_the_weighted_sum_of_the_terms():
    """Over many samples z, whatever the estimator: the closed KL only removes noise."""
    _, mu, logvar = BATCH
    g = torch.Generator().manual_seed(1)
    criterion = TCDecomposition(alpha=0.5, beta=6, gamma=2, estimator="inclusive")
    differences = []
    for _ in range(400):
        z = mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=g, dtype=mu.dtype)
        mi, tc, dimension_wise_kl, _ = terms = criterion.decompose(z, mu, logvar, 16)
        differences.append(criterion.weigh(terms) - (0.5 * mi + 6 * tc + 2 * dimension_wise_kl))
    differences = torch.stack(differences)
    assert abs(differences.mean()) < 4 * differences.std() / math.sqrt(len(differences))
    assert differences.std() > 0.01


def test_sum_and_none_agree_with_mean():
    mean, total, none = (
        TCDecomposition(beta=6, reduction=r)(*BATCH, 100) for r in ("mean", "sum", "none")
    )
    assert none.shape == (16,)
    assert_close(total, 16 * mean)
    assert_close(none.mean(), mean)


PRIORS = {
    "normal": Normal(torch.tensor([0.5, -1.0, 0.0]).double(), torch.tensor([1.0, 2.0, 0.5])),
    "shared": Normal(0.5, 2.0),
    "independent": Independent(Normal(torch.zeros(3).double(), torch.full((3,), 2.0)), 1),
    "laplace": Laplace(torch.zeros(3).double(), 1.0),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name):
    prior = PRIORS[name]
    base = prior.base_dist if isinstance(prior, Independent) else prior
    terms = decompose(*BATCH, 100, prior=prior)
    assert_close(terms.kl, kl_of_torch(*BATCH[1:], base.expand((16, 3))).mean())
    z, mu, logvar = BATCH
    log_ratio = Normal(mu, (0.5 * logvar).exp()).log_prob(z) - base.log_prob(z)
    assert_close(terms.sampled_kl, log_ratio.sum(1).mean())
    standard = decompose(*BATCH, 100)
    assert_close(terms.index_code_mi, standard.index_code_mi)
    assert_close(terms.total_correlation, standard.total_correlation)


class LearnedPrior(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))
        self.log_scale = nn.Parameter(torch.zeros(3))

    def forward(self):
        return Normal(self.loc, self.log_scale.exp())


def test_a_learned_prior_is_trained_moved_and_saved():
    prior = LearnedPrior()
    criterion = TCDecomposition(beta=6, prior=prior)
    assert {name for name, _ in criterion.named_parameters()} == {"prior.loc", "prior.log_scale"}
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1)
    losses = []
    for _ in range(20):  # more than one backward through the same module
        optimizer.zero_grad()
        losses.append(criterion(*BATCH, 100))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    assert criterion.double()(*BATCH, 100).dtype == torch.float64
    assert prior.loc.dtype == torch.float64


class VAE(nn.Module):
    def __init__(self, criterion=None):
        super().__init__()
        self.encoder = nn.Linear(4, 6)
        if criterion is not None:
            self.criterion = criterion


def test_old_checkpoints_load_strictly():
    VAE(TCDecomposition(beta=6)).load_state_dict(VAE().state_dict(), strict=True)
    assert TCDecomposition().state_dict() == {}


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_pickling_and_copying(clone):
    criterion = clone(TCDecomposition(beta=6, estimator="inclusive", prior=LearnedPrior()))
    assert criterion.beta == 6
    assert criterion.estimator == "inclusive"
    assert criterion(*BATCH, 100).isfinite()


def test_printing_shows_the_options():
    assert repr(TCDecomposition(beta=6)) == "TCDecomposition(alpha=1.0, beta=6, gamma=1.0)"
    shown = repr(TCDecomposition(reduction="sum", kernel="dense", validate=True))
    assert shown.endswith("reduction='sum', validate=True, kernel='dense')")
    assert "Normal(" in repr(TCDecomposition(prior=Normal(0.0, 2.0)))


def test_weights_are_attributes_of_a_schedule():
    criterion = TCDecomposition()
    for beta in (1, 3, 6):
        criterion.beta = beta
        assert torch.equal(criterion(*BATCH, 100), TCDecomposition(beta=beta)(*BATCH, 100))


@compiles
@pytest.mark.parametrize("beta", [1, 6])
def test_a_compiled_loss_is_one_graph_and_the_same(beta):
    criterion = TCDecomposition(beta=beta)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for size, n in itertools.product((16, 12), (100, 200)):
        plain = [t[:size].clone().requires_grad_() for t in BATCH]
        traced = [t[:size].clone().requires_grad_() for t in BATCH]
        want, got = criterion(*plain, n), compiled(*traced, n)
        assert_close(got, want)
        want.backward()
        got.backward()
        for a, b in zip(traced[1:], plain[1:], strict=True):
            assert_close(a.grad, b.grad)
        if beta != 1:
            assert_close(traced[0].grad, plain[0].grad)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_vmap_over_batches(beta):
    criterion = TCDecomposition(beta=beta, validate=False)
    stacked = [torch.stack([t, t.flip(0)]) for t in BATCH]
    losses = torch.func.vmap(lambda *batch: criterion(*batch, 100))(*stacked)
    for i in range(2):
        assert_close(losses[i], criterion(*(t[i] for t in stacked), 100))


@compiles
def test_a_schedule_weighs_compiled_terms():
    criterion = TCDecomposition()
    terms_of = torch.compile(criterion.decompose, fullgraph=True, backend="aot_eager")
    for step in range(20):  # more than torch compiles a function anew
        criterion.beta = 1 + 0.25 * step
        loss = criterion.weigh(terms_of(*(t.clone().requires_grad_() for t in BATCH), 100))
        assert_close(loss, criterion(*BATCH, 100))
        loss.backward()


PRESETS = {
    "vae": (presets.vae(), (1, 1, 1)),
    "beta_vae": (presets.beta_vae(4), (4, 4, 4)),
    "beta_tcvae": (presets.beta_tcvae(6), (1, 6, 1)),
    "factor_vae": (presets.factor_vae(35), (1, 36, 1)),
    "information_dropout": (presets.information_dropout(2), (2, 2, 0)),
    "info_vae": (presets.info_vae(0.2, 10), (0.8, 10, 10)),
    "infomax_vae": (presets.infomax_vae(3), (-2, 1, 1)),
}


@pytest.mark.parametrize("name", presets.__all__)
def test_presets(name):
    criterion, weights = PRESETS[name]
    assert (criterion.alpha, criterion.beta, criterion.gamma) == weights
    mi, tc, dimension_wise_kl, _ = presets.vae(kl="sampled").decompose(*BATCH, 100)
    sampled = TCDecomposition(
        alpha=criterion.alpha, beta=criterion.beta, gamma=criterion.gamma, kl="sampled"
    )
    alpha, beta, gamma = weights
    assert_close(sampled(*BATCH, 100), alpha * mi + beta * tc + gamma * dimension_wise_kl)


def test_information_dropout_is_the_kl_to_the_best_factorised_prior():
    mi, tc, *_ = decompose(*BATCH, 16)
    sampled = presets.information_dropout(1, kl="sampled")
    assert_close(sampled(*BATCH, 16), mi + tc)
