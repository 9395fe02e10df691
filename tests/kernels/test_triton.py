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

from tcdecomp.kernels import dense
from tcdecomp.kernels.triton import Tiles, log_mixture, log_mixture_backward

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# The interpreter's maximum warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")


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
from tcdecomp.kernels.triton import log_mixture, log_mixture_backward

run = JITFunction.run
JITFunction.run = lambda self, *args, **kwargs: run(self, *args, **kwargs | {"warmup": True})
target = GPUTarget("cuda", 90, 32)
driver.set_active(SimpleNamespace(
    get_current_target=lambda: target,
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
))
for rows, dims in (300, 3), (1, 1):
    x = torch.ones(rows, dims)
    inputs = (x, x, x, x[:, 0], x[:, 0], None, None)
    log_mixture(*inputs)
    log_mixture_backward(x[:, 0], x, x[:, 0], x, *inputs)
"""


@pytest.mark.skipif(CUDA, reason="all tests compile")
def test_fresh_kernels_compile_for_a_gpu(request, tmp_path):
    """The interpreter lets pass what the compiler does not; that one needs no GPU."""
    root = request.config.rootpath
    run_fresh("-c", COMPILE, root=root, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


WEIGHTS = {"all": (0.0, 0.0), "own": (0.0, -math.inf), "others": (-math.inf, 0.0), "mss": (-9, -4)}


def problem(m, k, dims, *, weights="all", ids=False, seed=0):
    """Points of the first components' posteriors, then of anywhere, and the mixture."""
    _, mu, logvar = draw_posterior(seed, k, dims, torch.float32)
    z, *_ = draw_posterior(seed + 1, m, dims, torch.float32)
    z[:k] = mu[:m] + (0.5 * logvar[:m]).exp() * z[:k]
    g = torch.Generator().manual_seed(seed)
    # Ids 0 to 2 are of points only, and 6 to 8 of components only: some sums have no term.
    items = torch.randint(0, 6, (m,), generator=g) if ids else None
    component_ids = torch.randint(3, 9, (k,), generator=g) if ids else None
    own, other = (torch.full((m,), float(w)) for w in WEIGHTS[weights])
    return [z, mu, logvar, own, other, items, component_ids]


def on_device(tensors):
    return [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in tensors]


def run(case, **options):
    return log_mixture(*on_device(case), **options)


def run_backward(grads, sums, case, **options):
    return log_mixture_backward(*on_device(grads), *sums, *on_device(case), **options)


def in_float64(case):
    return [
        x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in case
    ]


def dense_sums(case):
    return dense.log_mixture(*in_float64(case))


def counting(case):
    """Which points have a component."""
    return dense.log_weights(*case[3:5], len(case[1]), *case[5:]).isfinite().any(1)


def dense_gradients(grads, case):
    case = in_float64(case)
    leaves = [t.requires_grad_() for t in case[:3]]
    kept = counting(case)
    total = sum(
        (x * grad)[kept].sum() for x, grad in zip(dense.log_mixture(*case), grads, strict=True)
    )
    return [g.nan_to_num() for g in torch.autograd.grad(total, leaves)]


def draw_grads(case, *, joint=1.0, marginals=1.0):
    z = case[0]
    g = torch.Generator().manual_seed(9)
    return joint * torch.randn(len(z), generator=g), marginals * torch.randn(z.shape, generator=g)


def assert_norms_close(got, want, tolerance=1e-5):
    """Each gradient's error as a vector, over its length."""
    for x, y in zip(got, want, strict=True):
        assert (x.cpu().double() - y).norm() <= tolerance * y.norm()


def check(case, **options):
    sums = run(case, **options)
    for got, want in zip(sums, dense_sums(case), strict=True):
        assert_close(got, want, torch.float32)
    for parts in ({"marginals": 0.0}, {"joint": 0.0}):
        grads = draw_grads(case, **parts)
        got = run_backward(grads, sums, case, **options)
        assert_norms_close(got, dense_gradients(grads, case))


TABLE = [
    # (M, K, D), weights, ids, tiles
    ((1, 1, 1), "mss", False, Tiles(32, 8)),
    ((1, 3, 2), "others", False, Tiles(32, 8, 3)),
    ((4, 2, 1), "all", False, Tiles(16, 16)),
    ((5, 5, 3), "own", True, Tiles(32, 8)),
    ((17, 33, 7), "mss", True, Tiles(32, 16, 5)),
    ((35, 50, 2), "others", True, Tiles(16, 16)),
    ((35, 50, 2), "all", True, Tiles(32, 8, 3)),
    ((64, 64, 10), "mss", False, Tiles(64, 128)),
    ((33, 130, 65), "own", False, Tiles(64, 128)),
    ((33, 130, 65), "others", False, Tiles(64, 128)),
]


@pytest.mark.parametrize(("shape", "weights", "ids", "tiles"), TABLE, ids=str)
def test_sums_and_gradients_are_those_of_the_formula(shape, weights, ids, tiles):
    check(problem(*shape, weights=weights, ids=ids), tiles=tiles)


SMALL = Tiles(32, 8)


@pytest.mark.parametrize("weights", ["others", "mss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(3), ids=["z", "mu", "logvar"])
def test_what_is_not_finite_shows_where_it_counts_and_only_there(place, value, weights):
    case = problem(6, 9, 2, weights=weights)
    case[place][4, 1] = value
    for got, want in zip(run(case, tiles=SMALL), dense_sums(case), strict=True):
        torch.testing.assert_close(got.cpu().double(), want, rtol=2e-5, atol=2e-5, equal_nan=True)


def far_apart(logvar):
    """Posteriors about 100 apart in each dimension, at uneven distances."""
    z, mu, spread, *rest = problem(6, 6, 3, weights="mss")
    centres = 100 * torch.tensor([0.0, 1.0, 2.5, 4.7, 5.9, 8.0])[:, None]
    logvar = logvar + 0.1 * spread
    return [centres + (0.5 * logvar).exp() * z, centres + 0 * mu, logvar, *rest]


def one_sharp():
    """One component's height is far above all others' densities, which must not underflow."""
    z, mu, logvar, *rest = problem(6, 40, 16, weights="others")
    logvar[:] = 0.0
    logvar[-1] = -20.0
    return [z, 0.1 * mu, logvar, *rest]


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


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name):
    check(EXTREMES[name], tiles=SMALL)


def test_strides_do_not_matter_and_equal_inputs_give_equal_bits():
    case = problem(10, 12, 3, ids=True, weights="mss")
    strided = [
        x.t().contiguous().t() if x.dim() == 2 else x.repeat_interleave(2)[::2] for x in case
    ]
    assert not any(x.is_contiguous() for x in strided)
    grads = torch.ones(10), torch.ones(10, 3)
    expanded = torch.ones(()).expand(10), torch.ones(()).expand(10, 3)
    sums, again = run(case), run(strided)
    gradients = run_backward(grads, sums, case)
    for x, y in zip(
        (*sums, *gradients),
        (*again, *run_backward(expanded, again, strided)),
        strict=True,
    ):
        assert torch.equal(x, y)
        assert x.is_contiguous()
