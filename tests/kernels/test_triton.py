"""The CUDA kernels against broadcasting in float64: on a GPU, or else in Triton's interpreter."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from strategies import draw_posterior
from tolerances import assert_close

pytest.importorskip("triton", minversion="3.4")
from triton.runtime import interpreter

from tcdecomp.kernels.triton import Tiles, log_sum, log_sum_backward

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# The interpreter's maximum warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
LOG_2PI = math.log(2 * math.pi)
KEEPS = ("all", "own", "others")
FEW = Tiles(64, 128)


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    original = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor, scope):
        original(tensor, scope)
        # NumPy 2.4 converts no array of one element to int, as the interpreter's loops ask it to.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_lang_tensor)
    # Inf - inf and log 0 are meant; a GPU does not warn of them.
    with np.errstate(all="ignore"):
        yield


def run_fresh(*arguments, root, **environment):
    command = [sys.executable, *arguments]
    environment = os.environ | environment
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


COMPILE = """
from types import SimpleNamespace
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver
from tcdecomp.kernels.triton import log_sum, log_sum_backward

run = JITFunction.run
JITFunction.run = lambda self, *args, **kwargs: run(self, *args, **kwargs | {"warmup": True})
target = GPUTarget("cuda", 90, 32)
driver.set_active(SimpleNamespace(
    get_current_target=lambda: target,
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
))
for keep, rows, dims in ("others", 300, 3), ("own", 20, 2), ("all", 1, 1):
    x = torch.ones(rows, dims)
    log_sum(x, None, x, x, None, keep)
    log_sum_backward(x[:, 0], x, x[:, 0], x, x, None, x, x, None, keep)
"""


@pytest.mark.skipif(CUDA, reason="all tests compile")
def test_fresh_kernels_compile_for_a_gpu(request, tmp_path):
    """The interpreter lets pass what the compiler does not; that one needs no GPU."""
    root = request.config.rootpath
    run_fresh("-c", COMPILE, root=root, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


def problem(m, k, dims, *, ids=False, seed=0):
    """(z, items, mu, logvar, ids): points of the first components' posteriors, then of anywhere."""
    _, mu, logvar = draw_posterior(seed, k, dims, torch.float32)
    z, *_ = draw_posterior(seed + 1, m, dims, torch.float32)
    z[:k] = mu[:m] + (0.5 * logvar[:m]).exp() * z[:k]
    g = torch.Generator().manual_seed(seed)
    # Ids 0 to 2 are of points only, and 6 to 8 of components only: some sums have no term.
    items = torch.randint(0, 6, (m,), generator=g) if ids else None
    component_items = torch.randint(3, 9, (k,), generator=g) if ids else None
    return z, items, mu, logvar, component_items


def on_device(tensors):
    return [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in tensors]


def run(case, keep, **options):
    return log_sum(*on_device(case), keep, **options)


def run_backward(grads, sums, case, keep, **options):
    return log_sum_backward(*on_device(grads), *sums, *on_device(case), keep, **options)


def kept(case, keep):
    z, items, mu, _, ids = case
    if items is None:
        items, ids = torch.arange(len(z)), torch.arange(len(mu))
    own = items[:, None] == ids
    return {"all": own | True, "own": own, "others": ~own}[keep]


def dense(z, mu, logvar, mask):
    logs = -0.5 * ((z[:, None] - mu).square() * (-logvar).exp() + logvar + LOG_2PI)
    joint = logs.sum(-1).masked_fill(~mask, -math.inf)
    marginals = logs.masked_fill(~mask[..., None], -math.inf)
    return joint.logsumexp(1), marginals.logsumexp(1)


def dense_sums(case, keep):
    z, _, mu, logvar, _ = case
    return dense(z.double(), mu.double(), logvar.double(), kept(case, keep))


def dense_gradients(grads, case, keep):
    z, mu, logvar = (case[n].double().requires_grad_() for n in (0, 2, 3))
    mask = kept(case, keep)
    rows = mask.any(1)
    sums = dense(z[rows], mu, logvar, mask[rows])
    total = sum((x * grad[rows]).sum() for x, grad in zip(sums, grads, strict=True))
    return torch.autograd.grad(total, (z, mu, logvar))


def draw_grads(case, *, joint=1.0, marginals=1.0):
    z = case[0]
    g = torch.Generator().manual_seed(9)
    return joint * torch.randn(len(z), generator=g), marginals * torch.randn(z.shape, generator=g)


def assert_norms_close(got, want, tolerance=1e-5):
    """Each gradient's error as a vector, over its length."""
    for x, y in zip(got, want, strict=True):
        assert (x.cpu().double() - y).norm() <= tolerance * y.norm()


def check(case, keep, **options):
    sums = run(case, keep, **options)
    for got, want in zip(sums, dense_sums(case, keep), strict=True):
        assert_close(got, want, torch.float32)
    for parts in ({"marginals": 0.0}, {"joint": 0.0}):
        grads = draw_grads(case, **parts)
        got = run_backward(grads, sums, case, keep, **options)
        assert_norms_close(got, dense_gradients(grads, case, keep))


SHAPES = [(1, 1, 1), (1, 3, 2), (4, 2, 1), (5, 5, 3), (17, 33, 7), (64, 64, 10), (33, 130, 65)]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("ids", [False, True], ids=["rows", "ids"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_gradients_are_those_of_the_formula(shape, ids, keep):
    check(problem(*shape, ids=ids), keep, **({"tiles": FEW} if shape[-1] > 9 else {}))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("ids", [False, True], ids=["rows", "ids"])
@pytest.mark.parametrize("tiles", [Tiles(32, 8, 3), Tiles(16, 16), Tiles(32, 16, 5)], ids=str)
def test_any_tiles_will_do(tiles, ids, keep):
    check(problem(35, 50, 2, ids=ids, seed=5), keep, tiles=tiles)


@pytest.mark.parametrize("ids", [False, True], ids=["rows", "ids"])
def test_own_and_others_make_up_all(ids):
    case = problem(20, 30, 3, ids=ids, seed=2)
    together = zip(*(run(case, keep) for keep in KEEPS), strict=True)
    for everything, own, others in together:
        assert_close(torch.logaddexp(own, others), everything, torch.float32)


@pytest.mark.parametrize(("m", "k"), [(0, 3), (3, 0)])
@pytest.mark.parametrize("keep", KEEPS)
def test_no_points_or_no_components(m, k, keep):
    case = (torch.zeros(m, 2), None, torch.zeros(k, 2), torch.zeros(k, 2), None)
    joint, marginals = sums = run(case, keep)
    assert joint.shape == (m,)
    assert marginals.shape == (m, 2)
    assert (joint == -math.inf).all()
    assert (marginals == -math.inf).all()
    for got, like in zip(
        run_backward(draw_grads(case), sums, case, keep), (case[0], *case[2:4]), strict=True
    ):
        assert torch.equal(got.cpu(), torch.zeros_like(like))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 2, 3], ids=["z", "mu", "logvar"])
def test_what_is_not_finite_shows_where_it_counts_and_only_there(place, value, keep):
    case = problem(6, 9, 2)
    case[place][4, 1] = value
    for got, want in zip(run(case, keep), dense_sums(case, keep), strict=True):
        torch.testing.assert_close(got.cpu().double(), want, rtol=2e-5, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("keep", KEEPS)
def test_nan_shows_in_the_gradients_where_it_counts_and_only_there(keep):
    case = problem(6, 9, 2)
    case[2][4, 1] = math.nan
    mask = kept(case, keep)
    dz, dmu, dlogvar = run_backward(draw_grads(case), run(case, keep), case, keep)
    assert torch.equal(dz.isnan().all(1).cpu(), mask[:, 4])
    assert torch.equal(dz.isnan().any(1).cpu(), mask[:, 4])
    reached = mask[mask[:, 4]].any(0)
    for gradient in (dmu, dlogvar):
        assert torch.equal(gradient.isnan().any(1).cpu(), reached)
    case[2][4, 1] = 0.0
    case[0][2, 0] = math.nan
    mask = kept(case, keep)
    dz, dmu, dlogvar = run_backward(draw_grads(case), run(case, keep), case, keep)
    assert dz.isnan().any(1).cpu().tolist() == [i == 2 and bool(mask[2].any()) for i in range(6)]
    for gradient in (dmu, dlogvar):
        assert torch.equal(gradient.isnan().any(1).cpu(), mask[2])


def far_apart(logvar):
    """Posteriors about 100 apart in each dimension, at uneven distances."""
    z, items, mu, spread, ids = problem(6, 6, 3)
    centres = 100 * torch.tensor([0.0, 1.0, 2.5, 4.7, 5.9, 8.0])[:, None]
    logvar = logvar + 0.1 * spread
    return centres + (0.5 * logvar).exp() * z, items, centres + 0 * mu, logvar, ids


def one_sharp():
    """One component's height is far above all others' densities, which must not underflow."""
    z, items, mu, logvar, ids = problem(6, 40, 16)
    logvar[:] = 0.0
    logvar[-1] = -20.0
    return z, items, 0.1 * mu, logvar, ids


def outlier():
    """One point is far from everything, within a block of points that are not."""
    case = problem(6, 9, 2)
    case[0][3] += 60.0
    return case


EXTREMES = {
    "sharp": far_apart(-20.0),
    "plain": far_apart(0.0),
    "wide": far_apart(10.0),
    "one sharp": one_sharp(),
    "outlier": outlier(),
}


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name, keep):
    check(EXTREMES[name], keep)


@pytest.mark.parametrize("keep", KEEPS)
def test_strides_do_not_matter_and_equal_inputs_give_equal_bits(keep):
    case = problem(10, 12, 3, ids=True)
    strided = [
        x.t().contiguous().t() if x.dim() == 2 else x.repeat_interleave(2)[::2] for x in case
    ]
    assert not any(x.is_contiguous() for x in strided)
    grads = torch.ones(10), torch.ones(10, 3)
    expanded = torch.ones(()).expand(10), torch.ones(()).expand(10, 3)
    sums, again = run(case, keep), run(strided, keep)
    gradients = run_backward(grads, sums, case, keep)
    for x, y in zip(
        (*sums, *gradients),
        (*again, *run_backward(expanded, again, strided, keep)),
        strict=True,
    ):
        assert torch.equal(x, y)
        assert x.is_contiguous()
