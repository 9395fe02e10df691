"""The kernels in linear memory against the dense one, and what they promise beside their values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import draw_posterior
from tcdecomp import decompose, kernels
from tcdecomp.kernels import (
    Components,
    blocked,
    compiled,
    dense,
    log_mixture,
    log_sum,
    mean_log_mixture,
    onepass,
    operators,
)
from tcdecomp.posterior import log_normal
from tolerances import TOLERANCES, assert_close
from versions import compiles

# (M, K, D), with odd sizes, more points than components, and the reverse.
SHAPES = [(1, 1, 1), (1, 3, 2), (5, 5, 3), (17, 33, 7), (33, 17, 4), (64, 64, 10)]
KEEPS = ["all", "own", "others"]
GRADIENT_ERROR = {torch.float64: 1e-12, torch.float32: 1e-5}  # norm-wise


DISTRIBUTIONS = ("half dead", "sharp", "mixed", "constant")


def small_tiles(monkeypatch, elements):
    """Have tiles of a row each, of several rows, or of everything at once."""
    monkeypatch.setattr(blocked, "TILE_ON_CPU", elements)
    monkeypatch.setattr(onepass, "AT_ONCE", 0 if elements < 2**18 else 2**15)
    if elements == 1:
        monkeypatch.setattr(blocked, "LONGEST", 4)


@pytest.fixture(params=[1, 2**18])
def tiles(request, monkeypatch):
    small_tiles(monkeypatch, request.param)


def distribution(name, size, dim, dtype=torch.float32):
    """A batch whose posteriors are of one kind."""
    noise, mu, spread = torch.randn(
        3, size, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    if name == "half dead":
        dead = torch.arange(dim) % 2 == 0
        mu, logvar = torch.where(dead, 0.02, 1.0) * mu, torch.where(dead, 0.02 * spread, -2.3)
    elif name == "sharp":
        logvar = 0.1 * spread - 4.6
    elif name == "mixed":
        logvar = 3 * spread - 4
    else:
        mu, logvar = torch.zeros_like(mu), torch.zeros_like(mu)
    z = mu + (0.5 * logvar).exp() * noise
    return [t.to(dtype) for t in (z, mu, logvar)]


def problem(shape, ids, dtype, seed=0):
    """z, items, mu, logvar, component items."""
    m, k, d = shape
    z, *_ = draw_posterior(seed, m, d, dtype)
    _, mu, logvar = draw_posterior(seed + 1, k, d, dtype)
    if not ids:
        return z, None, mu, logvar, None
    g = torch.Generator().manual_seed(seed)
    # Ids of which some have no component, and some only components of their own.
    items, component_items = (
        torch.randint(0, 4, (m,), generator=g),
        torch.randint(1, 5, (k,), generator=g),
    )
    return z, items, mu, logvar, component_items


def reference(arguments, keep):
    z, items, mu, logvar, component_items = arguments
    leaves = [t.double().clone().requires_grad_() for t in (z, mu, logvar)]
    sums = dense.log_sum(leaves[0], items, *leaves[1:], component_items, keep)
    return sums, leaves


def norm_wise(got, want):
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-300)).item()


# Each row of the tables has one value of every column, so that each pair of values meets.
BLOCKED = [
    # shape, ids, keep, dtype, elements of a tile
    ((1, 1, 1), False, "all", torch.float64, 1),
    ((1, 1, 1), True, "others", torch.float32, 2**18),
    ((1, 3, 2), False, "own", torch.float32, 100),
    ((1, 3, 2), True, "all", torch.float64, 2**18),
    ((5, 5, 3), False, "others", torch.float64, 100),
    ((5, 5, 3), True, "own", torch.float32, 1),
    ((17, 33, 7), False, "others", torch.float32, 1),
    ((17, 33, 7), True, "own", torch.float64, 2**18),
    ((17, 33, 7), True, "all", torch.float32, 100),
    ((33, 17, 4), False, "own", torch.float64, 1),
    ((33, 17, 4), True, "others", torch.float64, 100),
    ((33, 17, 4), False, "all", torch.float32, 2**18),
    ((64, 64, 10), False, "others", torch.float32, 2**18),
    ((64, 64, 10), False, "own", torch.float64, 100),
]


@pytest.mark.parametrize(("shape", "ids", "keep", "dtype", "elements"), BLOCKED)
def test_blocked_values_and_gradients(shape, ids, keep, dtype, elements, monkeypatch):
    small_tiles(monkeypatch, elements)
    arguments = problem(shape, ids, dtype)
    (joint, marginals), leaves = reference(arguments, keep)
    sums = blocked.log_sum(*arguments, keep)
    assert_close(sums[0], joint, dtype)
    assert_close(sums[1], marginals, dtype)
    g = torch.Generator().manual_seed(1)
    for weights in ((1.0, 0.0), (0.0, 1.0)):  # each of the two sums on its own
        grad, grad_j = (
            w * torch.rand(t.shape, generator=g) for w, t in zip(weights, sums, strict=True)
        )
        kept = joint.isfinite()
        value = (grad * joint)[kept].sum() + (grad_j * marginals)[kept].sum()
        want = torch.autograd.grad(value, leaves, retain_graph=True)
        got = blocked.log_sum_backward(grad.to(dtype), grad_j.to(dtype), *sums, *arguments, keep)
        for a, b in zip(got, want, strict=True):
            assert norm_wise(a, b) < GRADIENT_ERROR[dtype]


ONE_PASS = [
    # kernel, dtype, size, coefficients, elements of a tile
    (onepass, torch.float64, 1, (5.0, -5.0), 2**18),
    (onepass, torch.float64, 17, (-2.0, 0.0), 1),
    (onepass, torch.float32, 2, (0.0, 1.0), 100),
    (onepass, torch.float32, 64, (5.0, -5.0), 1),
    (onepass, torch.float64, 64, (0.0, 1.0), 100),
    (onepass, torch.float32, 17, (5.0, -5.0), 2**18),
    (compiled, torch.float32, 1, (-2.0, 0.0), 1),
    (compiled, torch.float32, 2, (5.0, -5.0), 1),
    (compiled, torch.float32, 17, (0.0, 1.0), 1),
    (compiled, torch.float32, 64, (5.0, -5.0), 1),
]


@pytest.mark.parametrize(("kernel", "dtype", "size", "coefficients", "elements"), ONE_PASS)
def test_one_pass_values_and_gradients(kernel, dtype, size, coefficients, elements, monkeypatch):
    small_tiles(monkeypatch, elements)
    check_mean(kernel, draw_posterior(3, size, 5, dtype), coefficients)


def check_mean(kernel, batch, coefficients=(5.0, -5.0)):
    """Compare the value and the three gradients with those of the formula in float64."""
    arguments = (math.log(0.01), math.log(0.3), *coefficients)
    leaves = [t.double().clone().requires_grad_() for t in batch]
    want = operators._dense_mean(leaves, *arguments)
    value, *gradients = kernel.mean_log_mixture(*batch, *arguments)
    dtype = batch[0].dtype
    assert_close(value, want, dtype)
    for got, expected in zip(gradients, torch.autograd.grad(want, leaves), strict=True):
        assert norm_wise(got, expected) < GRADIENT_ERROR[dtype]


@pytest.mark.parametrize("kernel", [onepass, compiled])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_one_pass_on_many_kinds_of_batches(kernel, name):
    """On the sharp and the mixed ones, most weights are below the cut."""
    for coefficients in ((5.0, 0.0), (0.0, -5.0)):  # of constant components their sum is 0
        check_mean(kernel, distribution(name, 300, 5), coefficients)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_blocked_on_many_kinds_of_batches(name):
    z, mu, logvar = distribution(name, 300, 5)
    arguments = (z, None, mu, logvar, None)
    (joint, marginals), leaves = reference(arguments, "all")
    sums = blocked.log_sum(*arguments, "all")
    assert_close(sums[0], joint, torch.float32)
    assert_close(sums[1], marginals, torch.float32)
    grad, grad_j = torch.ones_like(sums[0]), torch.zeros_like(sums[1])
    got = blocked.log_sum_backward(grad, grad_j, *sums, *arguments, "all")
    for a, b in zip(got, torch.autograd.grad(joint.sum(), leaves), strict=True):
        assert norm_wise(a, b) < GRADIENT_ERROR[torch.float32]


def test_weights_that_cannot_count_are_zero():
    """The smallest would be subnormal in float32, with which processors are slow."""
    logs = torch.tensor([0.0, -59.0, -61.0, -90.0, -math.inf])
    weights = torch.empty_like(logs)
    assert blocked.softmax(logs, weights) == 0
    assert (weights > 0).tolist() == [True, True, False, False, False]
    row = logs.numpy().copy()
    assert compiled._weigh(row, np.float32(1)) == 0
    assert (row > 0).tolist() == [True, True, False, False, False]


def test_threads_of_the_compiled_kernel_change_nothing(monkeypatch):
    batch = draw_posterior(3, 37, 5, torch.float32)
    one = compiled.mean_log_mixture(*batch, -3.0, -1.0, 2.0, -3.0)
    monkeypatch.setattr(compiled, "THREADED_ABOVE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three, again = (compiled.mean_log_mixture(*batch, -3.0, -1.0, 2.0, -3.0) for _ in range(2))
    for a, b, c in zip(one, three, again, strict=True):
        assert_close(b, a, torch.float32)
        assert torch.equal(b, c)


@pytest.mark.parametrize("kernel", [onepass, compiled])
@pytest.mark.parametrize("logvar", [-20.0, 10.0])
def test_one_pass_at_extremes(kernel, logvar):
    z, mu, spread = draw_posterior(4, 20, 6, torch.float32)
    mu, logvar = 100 * mu, logvar + spread
    z = mu + (0.5 * logvar).exp() * z
    leaves = [t.double().requires_grad_() for t in (z, mu, logvar)]
    want = operators._dense_mean(leaves, -3.0, -1.0, 2.0, -3.0)
    value, *gradients = kernel.mean_log_mixture(z, mu, logvar, -3.0, -1.0, 2.0, -3.0)
    assert abs(value / want - 1) < 1e-5
    for got, expected in zip(gradients, torch.autograd.grad(want, leaves), strict=True):
        assert norm_wise(got, expected) < GRADIENT_ERROR[torch.float32]


@pytest.fixture
def fresh_kernels():
    kernels._is_usable.cache_clear()
    yield
    kernels._is_usable.cache_clear()


def mean_kernel(z, *, kernel="auto", weights=(-3.0, -1.0)):
    return kernels._kernel_of_mean(kernel, z, z, z, *weights)


def test_which_kernel_serves_the_mean(monkeypatch, fresh_kernels):
    z = torch.ones(2, 3, requires_grad=True)
    assert mean_kernel(z) == mean_kernel(z, kernel="blocked") == "compiled"
    assert mean_kernel(z.double()) == "onepass"
    assert mean_kernel(z, kernel="dense") is mean_kernel(z.detach()) is None
    assert mean_kernel(z, weights=(-3.0, -math.inf)) is None
    kernels._is_usable.cache_clear()
    monkeypatch.setattr(kernels, "find_spec", lambda package: None)
    assert mean_kernel(z) == "onepass"


def test_which_kernel_serves_the_sums():
    small, large = torch.ones(2, 3), torch.ones(300, 3)
    assert kernels._kernel_of_sums("auto", small, small) == "dense"
    assert kernels._kernel_of_sums("auto", large, large) == "blocked"
    assert kernels._kernel_of_sums("blocked", small, small) == "blocked"


def test_triton_is_for_nvidia_only():
    z = torch.ones(2, 3)
    text = "'triton' needs float32.*got torch.float32 on cpu. kernel='blocked' serves any"
    with pytest.raises(ValueError, match=text):
        log_sum(z, Components(z, z), keep="all", kernel="triton")


def test_a_broken_package_costs_speed_and_a_warning_only(monkeypatch, fresh_kernels):
    def broken(name):
        raise ImportError("Numba needs NumPy 1.0 or less")

    monkeypatch.setattr(kernels, "import_module", broken)
    z = torch.ones(2, 3, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="numba is installed but cannot be used.*NumPy 1.0"):
        assert mean_kernel(z) == "onepass"
    assert mean_kernel(z) == "onepass"


@pytest.mark.parametrize("kernel", ["auto", "dense", "blocked"])
@pytest.mark.parametrize("sizes", [(5, 5), (5, 8), (64, 64)])
def test_the_mean_is_that_of_the_mixture(kernel, sizes):
    """Also of more components than points, with a weight of 0, and without a gradient."""
    z, *_ = draw_posterior(1, sizes[0], 3)
    _, mu, logvar = draw_posterior(2, sizes[1], 3)
    own = torch.eye(*sizes, dtype=torch.bool)
    for log_own, log_other in ((-3.0, -1.0), (-math.inf, 0.0)):
        weights = torch.where(own, log_own, log_other)
        logs = log_normal(z[:, None], mu, logvar)
        want = logs.sum(2).add(weights).logsumexp(1), logs.add(weights[..., None]).logsumexp(1)
        leaf = z.clone().requires_grad_()
        for point in (z, leaf):
            arguments = (point, Components(mu, logvar), log_own, log_other)
            for got, expected in zip(log_mixture(*arguments, kernel=kernel), want, strict=True):
                assert_close(got, expected)
            mean = mean_log_mixture(*arguments, joint=2.0, marginal=-3.0, kernel=kernel)
            assert_close(mean, 2 * want[0].mean() - 3 * want[1].sum(1).mean())


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
    arguments = (z, mu, logvar, -3.0, -1.0, 2.0, -3.0)
    return operators.differentiable_mean_log_mixture(*arguments, "onepass")


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
            return operators._dense_mean(batch, -3.0, -1.0, 2.0, -3.0)
        z, mu, logvar = batch
        return dense.log_sum(z, None, mu, logvar, None, "others")[1].sum()

    for order in (1, 2, 3):
        pairs = zip(derivatives(function, order), derivatives(by_dense, order), strict=True)
        for got, want in pairs:
            assert norm_wise(got, want) < 1e-10


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


def test_the_operator_keeps_torchs_rules():
    z, mu, logvar = draw_posterior(5, 4, 2)
    torch.library.opcheck(operators.log_sum, (z, None, mu, logvar, None, "others", "blocked"))


@compiles
@pytest.mark.parametrize("keep", ["all", "own", "others"])
def test_the_operator_compiles_and_exports_whole(keep):
    def compiled(*batch):
        return sum(part.sum() for part in sums(*batch, keep))

    class Module(torch.nn.Module):
        def forward(self, z, mu, logvar):
            return compiled(z, mu, logvar)

    batch = draw_posterior(5, 8, 3, torch.float32)
    whole = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    leaves = [t.clone().requires_grad_() for t in batch]
    want = [t.clone().requires_grad_() for t in batch]
    whole(*leaves).backward()
    compiled(*want).backward()
    for got, expected in zip(leaves, want, strict=True):
        assert_close(got.grad, expected.grad, torch.float32)
    exported = torch.export.export(Module(), batch).module()
    assert_close(exported(*batch), compiled(*batch), torch.float32)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("position", [(0, 0), (4, 1)])
def test_nan_in_is_nan_out(which, position, tiles):
    """A NaN in a component reaches every point, one in a point only that point."""
    batch = list(draw_posterior(6, 6, 2))
    batch[which][position] = math.nan
    row, column = position
    for kernel in (blocked, dense):
        joint, marginals = kernel.log_sum(batch[0], None, *batch[1:], None, "all")
        hit = [row] if which == 0 else list(range(6))
        assert joint.isnan().nonzero().flatten().tolist() == hit
        assert marginals[:, column].isnan().nonzero().flatten().tolist() == hit
        assert marginals[:, 1 - column].isfinite().all()
    assert onepass.mean_log_mixture(*batch, -3.0, -1.0, 1.0, 1.0)[0].isnan()
    batch = [t.float() for t in batch]
    assert compiled.mean_log_mixture(*batch, -3.0, -1.0, 1.0, 1.0)[0].isnan()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("which", range(3))
def test_infinities_are_treated_as_by_the_dense_kernel(which, value, tiles):
    batch = list(draw_posterior(6, 6, 2))
    batch[which][3, 1] = value
    got = blocked.log_sum(batch[0], None, *batch[1:], None, "all")
    want = dense.log_sum(batch[0], None, *batch[1:], None, "all")
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **TOLERANCES[torch.float64])


@pytest.mark.parametrize("kernel", [blocked, dense])
def test_one_sharp_component_does_not_drown_the_others(kernel):
    """At D = 64 a bound in place of the joint's true maximum would underflow every other row."""
    z, mu, _ = draw_posterior(7, 256, 64, torch.float32)
    logvar = torch.zeros(256, 64)
    logvar[0] = -20.0
    want = dense.log_sum(z.double(), None, mu.double(), logvar.double(), None, "others")
    for got, expected in zip(
        kernel.log_sum(z, None, mu, logvar, None, "others"), want, strict=True
    ):
        assert ((got - expected).abs() / expected.abs().clamp_min(1)).max() < 2e-5


@given(
    low=st.floats(-20, 10),
    high=st.floats(-20, 10),
    spread=st.sampled_from([0.01, 1.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_extremes_in_float32(low, high, spread, seed):
    z, mu, _ = draw_posterior(seed, 12, 4, torch.float32)
    logvar = torch.linspace(low, high, 12)[:, None].expand(12, 4).contiguous()
    mu = mu * spread
    z = mu + (0.5 * logvar).exp() * z
    want = dense.log_sum(z.double(), None, mu.double(), logvar.double(), None, "others")
    for got, expected in zip(
        blocked.log_sum(z, None, mu, logvar, None, "others"), want, strict=True
    ):
        assert ((got - expected).abs() / expected.abs().clamp_min(1)).max() < 2e-5


def test_results_do_not_depend_on_layout_and_repeat_to_the_bit():
    batch = draw_posterior(8, 40, 6, torch.float32)
    turned = [t.T.contiguous().T for t in batch]
    assert torch.equal(sums(*batch)[1], sums(*turned)[1])
    one, two = (
        torch.autograd.grad(mean(*b), b)
        for b in ([t.clone().requires_grad_() for t in batch] for _ in range(2))
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_inputs_are_left_alone(tiles):
    batch = draw_posterior(8, 9, 1)
    before = [t.clone() for t in batch]
    sums = blocked.log_sum(batch[0], None, *batch[1:], None, "own")
    blocked.log_sum_backward(*sums, *sums, batch[0], None, *batch[1:], None, "own")
    onepass.mean_log_mixture(*batch, -3.0, -1.0, 1.0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
