"""The kernels in linear memory against the dense one in float64, and their other promises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numba import njit

from strategies import draw_posterior
from tcdecomp import decompose, kernels, posterior
from tcdecomp.kernels import (
    Components,
    blocked,
    compiled,
    dense,
    linear,
    log_mixture,
    log_sum,
    mean_log_mixture,
    operators,
)
from tcdecomp.kernels.compiled.arithmetic import exp32, exp64, highest
from tcdecomp.posterior import log_normal
from tolerances import assert_close
from versions import compiles

F32, F64 = torch.float32, torch.float64
NOTHING = -math.inf
# Of a log-density of 1 nat or less, else of its size; and of a gradient's norm.
ERRORS = {F64: (1e-10, 1e-12), F32: (2e-5, 1e-5)}


def errors(kernel, dtype):
    return (1e-6, 1e-5) if kernel is linear else ERRORS[dtype]


def mss(components, size=10**6):
    """The log-weights of the default estimator."""
    others = max(components - 1, 1)
    return -math.log(size), math.log((size - 1) / (size * others))


def distribution(name, points, components, dim, dtype=F32, seed=0):
    """Points of the first components, and components, of one kind."""
    g = torch.Generator().manual_seed(seed)
    noise, mu, spread = torch.randn(3, max(points, components), dim, generator=g, dtype=F64)
    logvar = torch.zeros_like(mu)
    if name == "half dead":
        dead = torch.arange(dim) % 2 == 0
        mu, logvar = torch.where(dead, 0.02, 1.0) * mu, torch.where(dead, 0.02 * spread, -2.3)
    elif name == "sharp":
        logvar = 0.1 * spread - 4.6
    elif name == "mixed":
        logvar = 3 * spread - 4
    elif name == "two clusters":
        mu, logvar = 0.1 * mu + 20 * (spread > 0), spread - 3
    elif name == "far apart":
        mu, logvar = 100 * mu, -20 + spread
    elif name == "constant":
        mu = torch.zeros_like(mu)
    z = mu + (0.5 * logvar).exp() * noise
    return [t.to(dtype) for t in (z[:points], mu[:components], logvar[:components])]


KINDS = ("benign", "half dead", "sharp", "mixed", "two clusters", "far apart", "constant")


def tensors(like, *weights):
    return [torch.full(like.shape[:1], float(w), dtype=like.dtype) for w in weights]


def double(case):
    return [t.double() if t is not None and t.is_floating_point() else t for t in case]


def reference(case):
    """The densities in float64, differentiable by the three leaves."""
    leaves = [t.clone().requires_grad_() for t in double(case[:3])]
    return dense.log_mixture(*leaves, *double(case[3:])), leaves


def assert_values(got, want, kernel=dense):
    dtype = got.dtype
    finite = want.isfinite()
    assert torch.equal(got.double()[~finite], want[~finite])
    error = (got.double() - want)[finite].abs() / want[finite].abs().clamp_min(1)
    assert not (error > errors(kernel, dtype)[0]).any()


def assert_gradients(got, want, kernel=dense):
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).norm() <= errors(kernel, a.dtype)[1] * b.norm()


def check_mixture(kernel, case):
    """Compare values and gradients of a kernel's log q(z) and log q(z_j)."""
    dtype = case[0].dtype
    want, leaves = reference(case)
    got = kernel.log_mixture(*case)
    g = torch.Generator().manual_seed(1)
    for part in range(2):  # each of the two on its own
        assert_values(got[part], want[part].detach(), kernel)
        grads = [torch.rand(t.shape, generator=g) * (i == part) for i, t in enumerate(want)]
        value = sum((a * b)[b.isfinite()].sum() for a, b in zip(grads, want, strict=True))
        of_leaves = torch.autograd.grad(value, leaves, retain_graph=True)
        gradients = kernel.log_mixture_backward(*(t.to(dtype) for t in grads), *got, *case)
        assert_gradients(gradients, of_leaves, kernel)


def check_mean(kernel, posterior, weights):
    """Compare a kernel's mean and its gradients, of the joint and of the marginals alone."""
    dtype = posterior[0].dtype
    for coefficients in ((5.0, 0.0, 0.0), (0.0, -5.0, 0.0), (0.0, 0.0, 2.0), (2.0, -3.0, 1.0)):
        leaves = [t.clone().requires_grad_() for t in double(posterior)]
        want = operators._dense_mean(leaves, *weights, *coefficients)
        value, *gradients = kernel.mean_log_mixture(*posterior, *weights, *coefficients)
        assert (value - want).abs() <= errors(kernel, dtype)[0] * want.abs()
        alone = kernel.mean_log_mixture(*posterior, *weights, *coefficients, gradients=False)[0]
        assert_close(alone, value, dtype)
        if 0 in coefficients:  # of constant components they cancel
            assert_gradients(gradients, torch.autograd.grad(want, leaves), kernel)


def small_blocks(monkeypatch, elements):
    monkeypatch.setattr(blocked, "BLOCK_ON_CPU", elements)


MIXTURES = [
    # kernel, dtype, (M, K, D), log-weights (None: mss), items, kind, elements of a block
    (blocked, F64, (1, 1, 1), (0, 0), False, "benign", 1),
    (blocked, F32, (1, 1, 1), (NOTHING, 0), True, "sharp", 2**17),
    (blocked, F32, (1, 3, 2), (0, NOTHING), False, "mixed", 100),
    (blocked, F64, (5, 5, 3), (NOTHING, 0), False, "half dead", 100),
    (blocked, F32, (5, 5, 3), None, True, "constant", 1),
    (blocked, F64, (17, 33, 7), (0, NOTHING), True, "benign", 2**17),
    (blocked, F32, (17, 33, 7), None, False, "far apart", 1000),
    (blocked, F64, (33, 17, 4), (0, 0), False, "two clusters", 1000),
    (blocked, F32, (33, 17, 4), (NOTHING, 0), True, "half dead", 1),
    (blocked, F64, (64, 64, 10), None, False, "sharp", 2**17),
    (blocked, F32, (300, 300, 5), None, False, "mixed", 2**17),
    (compiled, F32, (1, 1, 1), (-3, -1), False, "benign", 0),
    (compiled, F32, (1, 3, 2), None, False, "mixed", 0),
    (compiled, F32, (5, 5, 3), (100, -3), False, "benign", 0),
    (compiled, F32, (5, 5, 3), (0, 0), False, "half dead", 0),
    (compiled, F32, (17, 33, 7), None, False, "sharp", 0),
    (compiled, F32, (401, 401, 2), None, False, "mixed", 0),
    (compiled, F32, (301, 431, 3), (0, 0), False, "half dead", 0),
    (compiled, F32, (300, 1000, 3), None, False, "two clusters", 0),
    (compiled, F32, (300, 300, 40), (0, 0), False, "sharp", 0),
    (compiled, F32, (300, 300, 3), None, False, "far apart", 0),
    (compiled, F32, (450, 450, 40), (0, 0), False, "sharp", 0),
    (linear, F32, (1, 1, 1), (-3, -1), False, "benign", 0),
    (linear, F64, (5, 8, 3), None, False, "mixed", 0),
    (linear, F64, (301, 131, 3), (0, 0), False, "half dead", 0),
    (linear, F32, (300, 1000, 3), None, False, "two clusters", 0),
    (linear, F64, (300, 300, 40), None, False, "sharp", 0),
]


@pytest.mark.parametrize(("kernel", "dtype", "shape", "weights", "ids", "kind", "block"), MIXTURES)
def test_mixtures_and_gradients(kernel, dtype, shape, weights, ids, kind, block, monkeypatch):
    if kernel is blocked:
        small_blocks(monkeypatch, block)
    posterior = distribution(kind, *shape, dtype)
    items = component_ids = None
    if ids:  # some have no component, and some have only components of their own
        g = torch.Generator().manual_seed(0)
        items, component_ids = (
            torch.randint(low, low + 4, (count,), generator=g)
            for low, count in ((0, shape[0]), (1, shape[1]))
        )
    weights = tensors(posterior[0], *(mss(shape[1]) if weights is None else weights))
    check_mixture(kernel, [*posterior, *weights, items, component_ids])


MEANS = [
    # kernel, dtype, (M, K, D), kind, elements of a block
    (blocked, F64, (1, 1, 5), "benign", 1),
    (blocked, F32, (2, 2, 5), "benign", 100),
    (blocked, F64, (17, 40, 5), "half dead", 1),
    (blocked, F32, (64, 64, 5), "mixed", 2**17),
    (compiled, F32, (1, 1, 5), "benign", 0),
    (compiled, F32, (2, 2, 5), "sharp", 0),
    (compiled, F32, (17, 40, 5), "benign", 0),
    (compiled, F32, (64, 64, 5), "far apart", 0),
    (compiled, F32, (128, 128, 3), "half dead", 0),
    (compiled, F32, (129, 129, 3), "benign", 0),
    (compiled, F32, (257, 500, 3), "sharp", 0),
    (compiled, F32, (1000, 1000, 2), "mixed", 0),
    *((compiled, F32, (size, size, 4), kind, 0) for size in (300, 450) for kind in KINDS),
    *((blocked, F32, (100, 100, 4), kind, 2**17) for kind in KINDS),
    *((linear, F64, (300, 300, 4), kind, 0) for kind in KINDS),
]


@pytest.mark.parametrize(("kernel", "dtype", "shape", "kind", "block"), MEANS)
def test_means_and_gradients(kernel, dtype, shape, kind, block, monkeypatch):
    if kernel is blocked:
        small_blocks(monkeypatch, block)
    check_mean(kernel, distribution(kind, *shape, dtype, seed=3), mss(shape[1]))


@pytest.mark.parametrize("size", [10**3, 10**7])
@pytest.mark.parametrize("kind", KINDS)
def test_marginals_from_grids_are_accurate(kind, size):
    """However few rows stand for however many items, each log q(z_j) is right to 1e-6."""
    posterior = distribution(kind, 500, 500, 3)
    z, mu, logvar = (t.numpy() for t in posterior)
    log_weights = mss(500, size)
    want = dense.log_mixture(*double([*posterior, *tensors(posterior[0], *log_weights)]))[1]
    log_q, (of_z, of_components) = np.empty((500, 3)), (np.empty((0, 3)), np.empty((2, 3, 0)))
    columns, none = compiled.columns_of(mu, logvar), np.empty((0, 0), np.float32)
    compiled.add_marginals(z, columns, log_weights, none, 0.0, (0, 3), log_q, of_z, of_components)
    assert abs(log_q - want.numpy()).max() < 1e-6


def test_weights_that_cannot_count_are_zero():
    """The smallest would be subnormal in float32, with which processors are slow."""
    logs = torch.tensor([0.0, -59.0, -61.0, -90.0, -math.inf])
    log_sum, shares = blocked.softmax(logs.clone())
    assert log_sum == 0
    kept = [True, True, False, False, False]
    assert (shares > 0).tolist() == kept
    assert [_exp32(x) > 0 for x in logs.numpy()] == kept


@njit
def _exp32(x):
    return exp32(x)


@njit
def _exp64(x):
    return exp64(x)


@njit
def _highest(row):
    return highest(row)


@given(st.floats(-59.9, 0))
def test_exponentials_in_float32(x):
    x = np.float32(x)
    assert abs(_exp32(x) / math.exp(x) - 1) < 4e-7


@given(st.floats(-700, 709))
@example(-0.5 * math.log(2))
def test_exponentials_in_float64(x):
    assert abs(_exp64(x) / math.exp(x) - 1) < 1.2e-12


@pytest.mark.parametrize("value", [0.5, -40.0, math.inf, -math.inf, math.nan, -math.nan])
def test_a_look_at_all_values(value):
    for which in range(3):
        batch = [torch.full((5, 3), 2.0 + i) for i in range(3)]
        batch[which][4, 2] = value
        for look_at in (kernels.look_at, posterior.look_at):
            largest, alike = look_at(*batch)
            assert not alike
            assert str(largest) == str(max(4.0, abs(value)) if value == value else math.nan)
            assert look_at(batch[0], batch[0], batch[2])[1] == (value == value or which != 0)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_the_highest(values):
    assert _highest(np.array(values, np.float32)) == max(values)


def test_threads_of_the_compiled_kernel_change_nothing(monkeypatch):
    batch = distribution("benign", 137, 137, 5)
    one = compiled.mean_log_mixture(*batch, -3.0, -1.0, 2.0, -3.0, 1.0)
    monkeypatch.setattr(compiled, "THREADED_ABOVE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three, again = (compiled.mean_log_mixture(*batch, -3.0, -1.0, 2.0, -3.0, 1.0) for _ in range(2))
    for a, b, c in zip(one, three, again, strict=True):
        assert_close(b, a, F32)
        assert torch.equal(b, c)


@pytest.fixture
def fresh_kernels():
    kernels._can_import.cache_clear()
    yield
    kernels._can_import.cache_clear()


def chosen(z, mu=None, *, kernel="auto", weights=(-3.0, -1.0), items=None):
    return kernels._kernel_of_mixture(kernel, z, z if mu is None else mu, *weights, items)


def test_which_kernel_serves(monkeypatch, fresh_kernels):
    small, large = torch.ones(2, 3), torch.ones(300, 3)
    assert chosen(small) == chosen(large) == chosen(small, large) == "compiled"
    assert chosen(large, small, weights=(0.0, 0.0)) == "compiled"
    # Not on grids: other items, an own component without weight, or with hardly any
    assert chosen(large, items=torch.arange(300)) == "blocked"
    assert chosen(large, weights=(NOTHING, 0.0)) == chosen(large, weights=(-99, 0.0)) == "blocked"
    assert chosen(large, weights=(0.0, torch.zeros(300))) == "blocked"
    assert chosen(large.double()) == "blocked"
    assert chosen(small.double()) == "dense"
    assert chosen(small, kernel="blocked") == "blocked"
    assert chosen(small.double(), kernel="linear") == "linear"
    assert chosen(small, kernel="linear", weights=(NOTHING, 0.0)) == "blocked"
    kernels._can_import.cache_clear()
    monkeypatch.setattr(kernels, "find_spec", lambda package: None)
    assert chosen(large) == "blocked"
    assert chosen(torch.ones(4096, 3)) == chosen(small, kernel="linear") == "linear"


def test_triton_is_for_nvidia_only():
    z = torch.ones(2, 3)
    text = "'triton' needs float32.*got torch.float32 on cpu. kernel='blocked' serves any"
    with pytest.raises(ValueError, match=text):
        log_sum(z, Components(z, z), keep="all", kernel="triton")


def test_a_broken_package_costs_speed_and_a_warning_only(monkeypatch, fresh_kernels):
    def broken(name):
        raise ImportError("Numba needs NumPy 1.0 or less")

    monkeypatch.setattr(kernels, "import_module", broken)
    with pytest.warns(RuntimeWarning, match="numba is installed but cannot be used.*NumPy 1.0"):
        assert chosen(torch.ones(300, 3)) == "blocked"
    assert chosen(torch.ones(300, 3)) == "blocked"


@pytest.mark.parametrize("kernel", ["auto", "dense", "blocked", "linear"])
@pytest.mark.parametrize("sizes", [(5, 5), (5, 8), (64, 64)])
def test_the_mean_is_that_of_the_mixture(kernel, sizes):
    """Also of more components than points, with a weight of 0, and without a gradient."""
    z, *_ = draw_posterior(1, sizes[0], 3)
    _, mu, logvar = draw_posterior(2, sizes[1], 3)
    own = torch.eye(*sizes, dtype=torch.bool)
    dtype = F32 if kernel == "linear" else F64  # whose tolerance is asked for
    for log_own, log_other in ((-3.0, -1.0), (NOTHING, 0.0)):
        weights = torch.where(own, log_own, log_other)
        logs = log_normal(z[:, None], mu, logvar)
        want = logs.sum(2).add(weights).logsumexp(1), logs.add(weights[..., None]).logsumexp(1)
        leaf = z.clone().requires_grad_()
        for point in (z, leaf):
            arguments = (point, Components(mu, logvar), log_own, log_other)
            for got, expected in zip(log_mixture(*arguments, kernel=kernel), want, strict=True):
                assert_close(got, expected, dtype)
            mean = mean_log_mixture(*arguments, joint=2.0, marginal=-3.0, kl=4.0, kernel=kernel)
            own_mu, own_logvar = mu[: len(z)], logvar[: len(z)]
            kl = 0.5 * (own_mu**2 + own_logvar.exp() - own_logvar - 1).sum(1).mean()
            assert_close(mean, 2 * want[0].mean() - 3 * want[1].sum(1).mean() + 4 * kl, dtype)


@pytest.mark.parametrize("kernel", ["auto", "dense", "blocked", "linear"])
def test_the_joint_alone(kernel):
    for kind, dtype in (("mixed", F32), ("benign", F64)):
        z, mu, logvar = distribution(kind, 30, 140, 3, dtype)
        want = dense.log_mixture(*double([z, mu, logvar, *tensors(z, 0.0, 0.0)]))[0]
        assert_values(kernels.log_joint(z, Components(mu, logvar), kernel=kernel), want, linear)


def test_components_meet_points_in_stretches(monkeypatch):
    """One stretch has squares that would cancel, another is far from all points."""
    monkeypatch.setattr(linear, "STRETCH", 50)
    z, mu, logvar = distribution("benign", 30, 140, 3, F64)
    mu[60:70], logvar[55], mu[110:] = 1e3, -20.0, 1e6
    want = dense.log_mixture(*double([z, mu, logvar, *tensors(z, 0.0, 0.0)]))[0]
    assert_close(linear.log_joint(z, mu, logvar), want)


def test_each_point_may_have_weights_of_its_own():
    z, mu, logvar = draw_posterior(1, 5, 3)
    weights = -torch.arange(10.0).double().reshape(2, 5)
    together = log_mixture(z, Components(mu, logvar), *weights)
    for i in range(5):
        each = log_mixture(z, Components(mu, logvar), *weights[:, i].tolist())
        for got, want in zip(together, each, strict=True):
            assert_close(got[i], want[i])


def sums(z, mu, logvar, keep="others"):
    return log_sum(z, Components(mu, logvar), keep=keep, kernel="blocked")


def mean(z, mu, logvar):
    arguments = (z, mu, logvar, -3.0, -1.0, 2.0, -3.0, 1.0, "blocked")
    return operators.mean_log_mixture(*arguments, trained=True)


def test_first_and_second_derivatives():
    batch = [t.requires_grad_() for t in draw_posterior(4, 4, 2)]
    for function in (sums, mean):
        assert torch.autograd.gradcheck(function, batch)
        assert torch.autograd.gradgradcheck(function, batch)


@pytest.mark.parametrize("function", [lambda *b: sums(*b)[1].sum(), mean])
def test_higher_derivatives_of_a_reparameterised_sample(function):
    """z depends on mu and logvar in the caller's graph: their derivatives count it once."""
    _, mu, logvar = draw_posterior(4, 6, 3)
    noise = draw_posterior(5, 6, 3)[0]

    def derivatives(function, order):
        moments = [t.clone().requires_grad_() for t in (mu, logvar)]
        value = function(moments[0] + (0.5 * moments[1]).exp() * noise, *moments)
        for _ in range(order):
            grads = torch.autograd.grad(value, moments, create_graph=True)
            value = sum(grad.square().sum() for grad in grads)
        return grads

    def by_dense(*batch):
        if function is mean:
            return operators._dense_mean(batch, -3.0, -1.0, 2.0, -3.0, 1.0)
        return dense.log_mixture(*batch, *tensors(mu, NOTHING, 0.0))[1].sum()

    for order in (1, 2, 3):
        pairs = zip(derivatives(function, order), derivatives(by_dense, order), strict=True)
        for got, want in pairs:
            assert (got - want).norm() < 1e-10 * want.norm()


@pytest.mark.parametrize("function", [lambda *b: sums(*b)[0].sum(), mean])
def test_torch_func(function):
    batch = draw_posterior(4, 6, 2)
    stacked = [torch.stack([t, t.flip(0)]) for t in batch]
    mapped = torch.func.vmap(torch.func.grad(function, argnums=(0, 1, 2)))(*stacked)
    for i in range(2):
        leaves = [t[i].clone().requires_grad_() for t in stacked]
        want = torch.autograd.grad(function(*leaves), leaves)
        for got, expected in zip(mapped, want, strict=True):
            assert_close(got[i], expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_needs_the_dense_kernel():
    z, mu, logvar = draw_posterior(4, 6, 2)

    def tc(mu, kernel):
        return decompose(z, mu, logvar, 50, kernel=kernel, validate=False).total_correlation

    one = torch.ones_like(mu)
    _, slope = torch.func.jvp(lambda m: tc(m, "dense"), (mu,), (one,))
    leaf = mu.clone().requires_grad_()
    assert_close(slope, torch.autograd.grad(tc(leaf, "blocked"), leaf)[0].sum())
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(lambda m: tc(m, "blocked"), (mu,), (one,))


def test_the_operators_keep_torchs_rules():
    posterior = [t.requires_grad_() for t in draw_posterior(5, 4, 2)]
    weights = tensors(posterior[0], -3, -1)
    operator = torch.ops.tcdecomp
    torch.library.opcheck(operator.log_mixture, (*posterior, *weights, None, None, "blocked"))
    arguments = (*posterior, -3.0, -1.0, 2.0, -3.0, 1.0, "blocked")
    torch.library.opcheck(operator.mean_log_mixture, arguments)


def mixture_and_mean(z, mu, logvar):
    components = Components(mu, logvar)
    log_q, log_q_j = log_mixture(z, components, -3.0, -1.0)
    mean = mean_log_mixture(z, components, -3.0, -1.0, joint=2.0, marginal=-3.0)
    return log_q.sum() + log_q_j.square().sum() + mean


@compiles
@pytest.mark.parametrize("dtype", [F32, F64])
def test_everything_compiles_and_exports_whole(dtype):
    class Module(torch.nn.Module):
        def forward(self, *posterior):
            return mixture_and_mean(*posterior)

    batch = distribution("benign", 80, 80, 12, dtype)
    whole = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    leaves = [t.clone().requires_grad_() for t in batch]
    want = [t.clone().requires_grad_() for t in batch]
    whole(*leaves).backward()
    mixture_and_mean(*want).backward()
    for got, expected in zip(leaves, want, strict=True):
        assert_gradients([got.grad], [expected.grad.double()])
    exported = torch.export.export(Module(), tuple(batch)).module()
    assert_close(exported(*batch), mixture_and_mean(*batch), dtype)


SIZES = [(blocked, 6), (compiled, 6), (compiled, 440), (linear, 6)]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize(("kernel", "size"), SIZES)
def test_nan_in_is_nan_out(which, row, kernel, size):
    """A NaN in a component reaches every point, one in a point only that point."""
    batch = distribution("benign", size, size, 2)
    batch[which][row, 1] = math.nan
    joint, marginals = kernel.log_mixture(*batch, *tensors(batch[0], -3.0, -1.0))
    hit = [row] if which == 0 else list(range(size))
    assert joint.isnan().nonzero().flatten().tolist() == hit
    assert marginals[:, 1].isnan().nonzero().flatten().tolist() == hit
    assert marginals[:, 0].isfinite().all()
    for joint, marginal in ((1.0, 0.0), (0.0, 1.0)):
        value, *gradients = kernel.mean_log_mixture(*batch, -3.0, -1.0, joint, marginal, 0.0)
        assert value.isnan()
        assert gradients[1][:, 1].isnan().all()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(("kernel", "size"), SIZES)
def test_infinities_do_not_come_out_as_numbers(which, value, kernel, size):
    batch = distribution("benign", size, size, 2)
    batch[which][3, 1] = value
    case = [*batch, *tensors(batch[0], 0.0, 0.0)]
    for got, want in zip(kernel.log_mixture(*case), dense.log_mixture(*double(case)), strict=True):
        number = got.isfinite()
        assert_values(got[number], want[number])


@pytest.mark.parametrize(("size", "components"), [(4, 4), (5, 5), (5, 450)])
@pytest.mark.parametrize("kernel", [blocked, compiled])
def test_components_too_far_for_float32_have_no_share(kernel, size, components):
    """Their squares overflow: their weight is 0, and so is 0 times the square."""
    z, mu, logvar = distribution("benign", size, components, 3)
    mu, logvar = mu * 1e3, torch.where(mu > 0, 2.0, -80.0)
    z = mu[:size] + z * (0.5 * logvar[:size]).exp()
    check_mixture(kernel, [z, mu, logvar, *tensors(z, -3.0, -1.0), None, None])


@pytest.mark.parametrize("logvar", [80.0, 150.0, 200.0])
@pytest.mark.parametrize(("kernel", "size"), SIZES)
def test_wide_components(kernel, size, logvar):
    """The KL, and exp(-logvar / 2) with all its digits, are beyond float32."""
    z, mu, _ = distribution("benign", size, size, 3)
    batch = z, mu, torch.full_like(mu, logvar)
    case = [*batch, *tensors(z, -3.0, -1.0)]
    for got, want in zip(kernel.log_mixture(*case), dense.log_mixture(*double(case)), strict=True):
        assert_values(got, want)
    value = kernel.mean_log_mixture(*batch, -3.0, -1.0, 0.0, 0.0, 1.0)[0]
    assert value.isinf() == (logvar > 88)


@pytest.mark.parametrize("log_weights", [(-3.0, -1.0), (0.0, 0.0), (0.0, -1.0)])
@pytest.mark.parametrize("kernel", [compiled, linear])
def test_points_between_components(kernel, log_weights):
    """A few wide components are summed directly. The many others end before the point."""
    z, mu, logvar = distribution("constant", 450, 450, 1)
    logvar[:] = 1.9
    logvar[0] = 0.0  # the width of the many
    logvar[1:9], mu[1:9], z[1:9] = 6.0, -445.0, -445.0
    z[9] = 45.0
    check_mixture(kernel, [z, mu, logvar, *tensors(z, *log_weights), None, None])


def test_points_beyond_the_last_component_have_none_of_their_own():
    """A number for one would stand behind those of the components, in another's memory."""
    z, mu, logvar = distribution("benign", 451, 451, 1)
    mu[0], z[450] = -100.0, 0.0
    grad_j = torch.zeros_like(z)
    grad_j[450] = math.inf  # from which any number, times 0 even, makes another
    case = [z, mu[:450], logvar[:450], *tensors(z, -1.0, -1.0)]
    gradients = compiled.log_mixture_backward(torch.zeros(451), grad_j, *case[:2], *case)
    assert gradients[1][0].item() == gradients[2][0].item() == 0


@pytest.mark.parametrize("size", [6, 440])
def test_variances_beyond_float64_raise_nothing(size):
    batch = distribution("benign", size, size, 2)
    case = [*batch[:2], torch.full((size, 2), 2000.0), *tensors(batch[0], 0.0, 0.0)]
    assert not compiled.log_mixture(*case)[1].isfinite().any()


@pytest.mark.parametrize("kernel", [blocked, compiled, linear])
def test_one_sharp_component_does_not_drown_the_others(kernel):
    """At D = 64 a bound in place of the joint's true maximum would underflow every other row."""
    z, mu, _ = draw_posterior(7, 440, 64, F32)
    logvar = torch.zeros(440, 64)
    logvar[0] = -20.0
    case = [z, mu, logvar, *tensors(z, -9.0, -1.0)]
    want = dense.log_mixture(*double(case))
    for got, expected in zip(kernel.log_mixture(*case), want, strict=True):
        assert_values(got, expected)


@given(
    low=st.floats(-20, 10),
    high=st.floats(-20, 10),
    spread=st.sampled_from([0.01, 1.0, 100.0]),
    size=st.sampled_from([12, 440]),
    seed=st.integers(0, 2**31),
)
def test_extremes_in_float32(low, high, spread, size, seed):
    z, mu, _ = draw_posterior(seed, size, 4, F32)
    logvar = torch.linspace(low, high, size)[:, None].expand(size, 4).contiguous()
    mu = mu * spread
    z = mu + (0.5 * logvar).exp() * z
    case = [z, mu, logvar, *tensors(z, -5.0, -1.0)]
    want = dense.log_mixture(*double(case))
    for kernel in (blocked, compiled, linear):
        for got, expected in zip(kernel.log_mixture(*case), want, strict=True):
            assert_values(got, expected)


def test_points_far_from_all_components():
    """Where every density is 0 in float64, its logarithm is not."""
    for size in (140, 440):
        z, mu, logvar = distribution("benign", size, size, 2)
        z[5] = 1e4
        case = [z, mu, logvar, *tensors(z, -5.0, -1.0)]
        for kernel in (blocked, compiled, linear):
            check_mixture(kernel, [*case, None, None])


@pytest.mark.parametrize("kernel", [blocked, compiled, linear])
def test_results_do_not_depend_on_layout_and_repeat_to_the_bit(kernel):
    batch = distribution("benign", 440, 440, 6)
    turned = [t.T.contiguous().T for t in batch]
    results = [
        kernel.mean_log_mixture(*b, -3.0, -1.0, 2.0, -3.0, 1.0) for b in (batch, turned, batch)
    ]
    for one, two, three in zip(*results, strict=True):
        assert_close(one, two, F32)
        assert torch.equal(one, three)


@pytest.mark.parametrize("kernel", [blocked, compiled, linear])
def test_inputs_are_left_alone(kernel):
    batch = distribution("benign", 9, 9, 1)
    before = [t.clone() for t in batch]
    case = [*batch, *tensors(batch[0], -3.0, -1.0)]
    densities = kernel.log_mixture(*case)
    kernel.log_mixture_backward(*densities, *densities, *case)
    kernel.mean_log_mixture(*batch, -3.0, -1.0, 1.0, 1.0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
