"""Terms against loops over the paper's formulas, closed forms, and the laws that they obey."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import reference
from strategies import batches, draw_posterior, grids, separated
from tcdecomp import Posterior, decompose
from tolerances import TOLERANCES, assert_close

ESTIMATORS = ["mss", "mws", "inclusive"]
KERNELS = pytest.mark.parametrize("kernel", ["dense", "blocked"])
TERMS = ["index_code_mi", "total_correlation", "dimension_wise_kl"]


def triple(terms):
    return torch.stack([getattr(terms, name) for name in TERMS])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(batch=batches())
def test_terms_match_the_loops_of_the_paper(estimator, batch):
    z, mu, logvar, n = batch
    terms = decompose(z, mu, logvar, n, estimator=estimator, reduction="none")
    loops = reference.terms(*(t.tolist() for t in (z, mu, logvar)), n, reference.ROWS[estimator])
    assert_close(triple(terms), loops)
    assert_close(terms.kl, reference.kl(mu.tolist(), logvar.tolist()))


def test_terms_match_torch_mixtures():
    """torch.distributions' own mixture, with each row's weights, is another implementation."""
    z, mu, logvar = draw_posterior(seed=0, size=9, dim=3)
    n, m = 100, len(z)
    weights = torch.full((m, m), (n - 1) / (n * (m - 1)), dtype=z.dtype).fill_diagonal_(1 / n)
    std = (0.5 * logvar).exp()
    mixture = MixtureSameFamily(Categorical(weights), Independent(Normal(mu, std), 1))
    log_qz = mixture.log_prob(z)
    log_qz_j = MixtureSameFamily(Categorical(weights[:, None, :]), Normal(mu.T, std.T)).log_prob(z)
    terms = decompose(z, mu, logvar, n, reduction="none")
    assert_close(terms.total_correlation, log_qz - log_qz_j.sum(1))
    assert_close(terms.index_code_mi, Normal(mu, std).log_prob(z).sum(1) - log_qz)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(batch=batches(min_size=2))
def test_terms_sum_to_the_sampled_kl(estimator, batch):
    z, mu, logvar, n = batch
    terms = decompose(z, mu, logvar, n, estimator=estimator)
    log_ratio = Normal(mu, (0.5 * logvar).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    assert_close(triple(terms).sum(), log_ratio.sum(1).mean())
    assert_close(terms.sampled_kl, log_ratio.sum(1).mean())
    assert_close(terms.aggregate_kl, terms.total_correlation + terms.dimension_wise_kl)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(batch=batches(), data=st.data())
def test_order_of_batch_and_of_dimensions_changes_nothing(estimator, batch, data):
    z, mu, logvar, n = batch
    rows = data.draw(st.permutations(range(z.shape[0])))
    columns = data.draw(st.permutations(range(z.shape[1])))
    shuffled = [t[rows][:, columns] for t in (z, mu, logvar)]
    assert_close(
        triple(decompose(*shuffled, n, estimator=estimator)),
        triple(decompose(z, mu, logvar, n, estimator=estimator)),
    )


@given(batch=batches())
def test_whole_data_set_as_batch_is_exact(batch):
    """At M = N both unbiased and inclusive weights are the data set's own, 1/N."""
    z, mu, logvar, _ = batch
    n = len(z)
    mss = triple(decompose(z, mu, logvar, n, estimator="mss"))
    assert_close(mss, triple(decompose(z, mu, logvar, n, estimator="inclusive")))
    exact = reference.terms(*(t.tolist() for t in (z, mu, logvar)), n, reference.inclusive_row)
    assert_close(mss, torch.tensor(exact, dtype=torch.float64).mean(1))


@given(batch=batches())
def test_mws_is_inclusive_shifted_by_known_constants(batch):
    z, mu, logvar, n = batch
    d = z.shape[1]
    shift = torch.tensor([1.0, d - 1, -d], dtype=torch.float64) * math.log(n)
    inclusive = triple(decompose(z, mu, logvar, n, estimator="inclusive"))
    assert_close(triple(decompose(z, mu, logvar, n, estimator="mws")), inclusive + shift)


@pytest.mark.parametrize(
    ("estimator", "own"),
    [
        ("mss", lambda m, n: 1 / n),
        ("mws", lambda m, n: 1 / (n * m)),
        ("inclusive", lambda m, n: 1 / m),
    ],
)
@given(problem=separated())
def test_far_apart_posteriors_show_the_own_weight(estimator, own, problem):
    z, mu, logvar, d = problem
    n = 50
    log_own = math.log(own(len(z), n))
    terms = decompose(z, mu, logvar, n, estimator=estimator)
    assert_close(terms.index_code_mi, -log_own)
    assert_close(terms.total_correlation, -(d - 1) * log_own)


@given(problem=grids())
def test_full_grid_has_no_total_correlation(problem):
    z, mu, logvar = problem
    terms = decompose(z, mu, logvar, len(z))
    assert_close(terms.index_code_mi, math.log(len(z)))
    assert_close(terms.total_correlation, 0.0)


@given(size=st.integers(1, 6), dim=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_posteriors_equal_to_the_prior_have_no_terms(size, dim, seed):
    z, *_ = draw_posterior(seed, size, dim)
    zero = torch.zeros_like(z)
    terms = decompose(z, zero, zero, size)
    assert_close(triple(terms), torch.zeros(3))
    assert terms.kl == 0


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_total_correlation_of_a_gaussian_pair(rho):
    """Means on a line give an aggregate with correlation rho: TC = -log(1 - rho^2) / 2."""
    n, draws = 1000, 20
    centre = Normal(0.0, 1.0).icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    mu = centre[:, None].expand(n, 2) * math.sqrt(rho)
    logvar = torch.full((n, 2), math.log(1 - rho), dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    posterior = Posterior(mu, mu, logvar)
    tc = torch.cat(
        [
            decompose(posterior.sample(generator=g).z, mu, logvar, n, reduction="none")[1]
            for _ in range(draws)
        ]
    )
    standard_error = tc.std() / math.sqrt(len(tc))
    # The line has n points for a continuum, which costs up to 0.002 nats at rho = 0.95.
    assert abs(tc.mean() + 0.5 * math.log(1 - rho**2)) < 4 * standard_error + 2e-3


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_mss_estimates_the_mixture_without_bias(batch_size):
    """Over all batches of a tiny data set that hold the point's item, q_hat averages to q."""
    n = 6
    z, mu, logvar = draw_posterior(seed=1, size=n, dim=2)
    for item in range(n):
        exact = sum(reference.density(z[item], mu[k], logvar[k]) for k in range(n)) / n
        estimates = []
        for batch in reference.batches_with(item, n, batch_size):
            rows = torch.tensor(batch)
            terms = decompose(z[rows], mu[rows], logvar[rows], n, reduction="none")
            own = batch.index(item)
            own_density = reference.density(z[item], mu[item], logvar[item])
            estimates.append(own_density / terms.index_code_mi[own].exp().item())
        assert_close(sum(estimates) / len(estimates), exact)


@pytest.mark.parametrize("name", [*TERMS, "kl"])
@KERNELS
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradcheck(estimator, name, kernel):
    z, mu, logvar = (t.requires_grad_() for t in draw_posterior(seed=2, size=4, dim=2))

    def term(*batch):
        return getattr(decompose(*batch, 30, estimator=estimator, kernel=kernel), name)

    assert torch.autograd.gradcheck(term, (z, mu, logvar))
    assert torch.autograd.gradgradcheck(term, (z, mu, logvar))


@KERNELS
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("shift", [0, -12])
def test_dtypes_agree_with_float64(dtype, shift, kernel):
    z, mu, logvar = draw_posterior(seed=3, size=33, dim=5, dtype=dtype)
    logvar = logvar + shift  # of which z is no sample any more
    terms = decompose(z, mu, logvar, 1000, kernel=kernel, validate=False)
    want = decompose(z.double(), mu.double(), logvar.double(), 1000, validate=False)
    assert terms.kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(triple(terms), triple(want), dtype)


def test_mixed_dtypes_are_promoted():
    z, mu, logvar = draw_posterior(seed=3, size=8, dim=2, dtype=torch.float32)
    mixed = decompose(z, mu.bfloat16(), logvar.half(), 50)
    rounded = decompose(z, mu.bfloat16().float(), logvar.half().float(), 50)
    assert torch.equal(triple(mixed), triple(rounded))
    assert decompose(z, mu.double(), logvar, 50).kl.dtype == torch.float64


@pytest.mark.parametrize("reduction", ["mean", "none"])
@KERNELS
def test_autocast_changes_neither_values_nor_gradients(kernel, reduction):
    plain = [t.requires_grad_() for t in draw_posterior(3, 16, 4, torch.float32)]
    cast = [t.detach().clone().requires_grad_() for t in plain]
    options = {"kernel": kernel, "reduction": reduction}
    want = decompose(*plain, 100, **options).total_correlation
    want.sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = decompose(*cast, 100, **options).total_correlation
        got.sum().backward()
    assert torch.equal(got, want)
    for a, b in zip(cast, plain, strict=True):
        assert torch.equal(a.grad, b.grad)


@KERNELS
def test_non_contiguous_input_gives_the_same(kernel):
    batch = draw_posterior(seed=4, size=6, dim=6)
    turned = [t.T.contiguous().T for t in batch]
    assert not turned[0].is_contiguous()
    assert_close(triple(decompose(*turned, 40, kernel=kernel)), triple(decompose(*batch, 40)))


@pytest.mark.parametrize(("reduction", "shape"), [("mean", ()), ("sum", ()), ("none", (6,))])
def test_reductions(reduction, shape):
    batch = draw_posterior(seed=5, size=6, dim=2)
    per_item = decompose(*batch, 40, reduction="none")
    terms = decompose(*batch, 40, reduction=reduction)
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda t: t}[reduction]
    for got, want in zip(terms, per_item, strict=True):
        assert got.shape == shape
        assert_close(got, reduce(want))


def test_an_estimator_of_the_users_own():
    batch = draw_posterior(seed=6, size=6, dim=2)
    terms = decompose(*batch, 40, estimator=lambda others, size: (1 / size, 1 / (others + 3)))

    def row(i, batch_size, dataset_size):
        return [1 / dataset_size if k == i else 1 / (batch_size + 2) for k in range(batch_size)]

    want = reference.terms(*(t.tolist() for t in batch), 40, row)
    assert_close(triple(terms), torch.tensor(want, dtype=torch.float64).mean(1))


@KERNELS
def test_extremes_stay_finite_and_right(kernel):
    """Means 100 apart and log-variances from -20 to 10, against float64."""
    z, mu, logvar = draw_posterior(seed=7, size=12, dim=8, dtype=torch.float32)
    mu = mu * 100
    logvar = torch.linspace(-20, 10, 12)[:, None].expand(12, 8).contiguous()
    z = mu + (0.5 * logvar).exp() * z
    terms = decompose(z, mu, logvar, 500, kernel=kernel)
    want = decompose(z.double(), mu.double(), logvar.double(), 500)
    for got, expected in zip(terms, want, strict=True):
        assert torch.isfinite(got)
        assert_close(got / expected, 1.0, torch.float32)


@KERNELS
@pytest.mark.parametrize("which", [0, 1, 2])
def test_unchecked_nan_comes_out_as_nan(which, kernel):
    batch = list(draw_posterior(seed=8, size=5, dim=2))
    batch[which][3, 1] = math.nan
    terms = decompose(*batch, 40, validate=False, kernel=kernel)
    assert all(term.isnan() for term in terms[:3])


def test_terms_are_a_pytree_that_pickles_and_copies():
    terms = decompose(*draw_posterior(seed=9, size=5, dim=2), 40)
    leaves, spec = torch.utils._pytree.tree_flatten(terms)
    assert len(leaves) == 4
    assert torch.utils._pytree.tree_unflatten(leaves, spec) == terms
    assert pickle.loads(pickle.dumps(terms)) == copy.deepcopy(terms) == terms
    with pytest.raises(AttributeError):
        terms.kl = None


def test_detached_terms_have_no_graph():
    z, mu, logvar = (t.requires_grad_() for t in draw_posterior(seed=9, size=5, dim=2))
    assert not any(t.requires_grad for t in decompose(z, mu, logvar, 40).detach())
    assert decompose(z, mu, logvar, 40, kl="sampled").detach().kl is None


@pytest.mark.parametrize("estimator", ["mws", "inclusive"])
def test_one_row_is_enough_where_no_other_is_needed(estimator):
    terms = decompose(*draw_posterior(seed=9, size=1, dim=2), 40, estimator=estimator)
    assert torch.isfinite(triple(terms)).all()


def test_one_item_is_its_own_mixture():
    batch = [t.requires_grad_() for t in draw_posterior(seed=9, size=1, dim=2)]
    terms = decompose(*batch, 1)
    assert_close(triple(terms)[:2], torch.zeros(2))
    terms.sampled_kl.backward()
    assert all(t.grad.isfinite().all() for t in batch)


@KERNELS
def test_torch_func_grad_works(kernel):
    z, mu, logvar = draw_posterior(seed=9, size=5, dim=2)
    grad = torch.func.grad(lambda m: decompose(z, m, logvar, 40, kernel=kernel)[1])(mu)
    mu.requires_grad_()
    decompose(z, mu, logvar, 40).total_correlation.backward()
    assert_close(grad, mu.grad)
