"""CUDA kernels in Triton: a log-sum over Gaussian components and its gradient, in linear memory.

With s_ikj = (z_ij - mu_kj) exp(-logvar_kj / 2) / sqrt(2) the log-density of point i under
component k in dimension j is l_ikj = h_kj - s_ikj^2, where h_kj = -(logvar_kj + log 2 pi) / 2, and

    joint_i = log sum_k exp(sum_j l_ikj)        marginals_ij = log sum_k exp(l_ikj)

over the components that count for point i. From their gradients g_i and g_ij, over the same pairs,

    w_ikj = g_i exp(sum_j l_ikj - joint_i) + g_ij exp(l_ikj - marginals_ij)
    dz_ij = -sum_k w_ikj (z_ij - mu_kj) / var_kj        dmu_kj = sum_i w_ikj (z_ij - mu_kj) / var_kj
    dlogvar_kj = sum_i w_ikj (s_ikj^2 - 1/2)

A program owns ``width`` points (or components, for their gradients) and walks through the others
in tiles of ``depth``. The owned axis is a tile's last: so each thread gets whole columns, and sums
along the walk need no exchange between threads. No product of matrices is used: the expanded
square cancels. All is in nats: a change of unit between forward and backward would round
l - marginals, which is fatal where both are large.
"""

# The kernels are in Triton's own language, which mypy does not know.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections import namedtuple

import triton
import triton.language as tl
from triton.language import constexpr
from triton.language.extra import libdevice

__all__ = ["Marks", "Sizes", "Table", "Upstream", "gradient", "joint", "marginals"]

INTERPRETED = constexpr(triton.knobs.runtime.interpret)
NOTHING = constexpr(-math.inf)
FAINT = constexpr(1e-13)  # far from underflow at 1e-38, and l - bound is rounded by 2e-6 at most

# What kernels are given. Tensors have one row for each dimension, row or column long (padded).
Sizes = namedtuple("Sizes", "m k dims row column")
Table = namedtuple("Table", "mu scale height top bound")  # sum over j, maximum over k of height
Upstream = namedtuple("Upstream", "grad grad_j joint marginals")
Marks = namedtuple("Marks", "items ids low high")  # sorted; [low, high): see _spans


@triton.jit
def _exp(x):
    # The plain exponential spends three instructions of twelve on denormal results.
    return tl.exp(x) if INTERPRETED else libdevice.fast_expf(x)


@triton.jit
def _owned(width: constexpr):
    return (tl.program_id(0).to(tl.int64) * width + tl.arange(0, width))[None, :]


@triton.jit
def _walked(tile, depth: constexpr):
    return (tl.cast(tile, tl.int64) * depth + tl.arange(0, depth))[:, None]


@triton.jit
def _walk(marks, size, keep: constexpr, depth: constexpr):
    # Tiles [first, last) of this program, the gap where ids may match, and the number of tiles in
    # which a pair may not count: the gap, and a last one that is not full. All others need no mask.
    first = tl.zeros([], tl.int32)
    last = first + tl.cdiv(size, depth)
    gap_first, gap_last = first, first
    if keep != "all":
        gap_first = tl.load(marks.low + tl.program_id(0)) // depth
        gap_last = tl.cdiv(tl.load(marks.high + tl.program_id(0)), depth)
    if keep == "own":
        first, last = gap_first, gap_last
    share = tl.cdiv(last - first, tl.num_programs(1))
    first += tl.program_id(1) * share
    last = tl.maximum(tl.minimum(first + share, last), first)
    gap_first = tl.minimum(tl.maximum(gap_first, first), last)
    gap = tl.maximum(tl.minimum(gap_last, last), gap_first) - gap_first
    ragged = (last > first) & (last * depth > size) & ((gap == 0) | (gap_first + gap < last))
    return first, last, gap_first, gap, gap + ragged.to(tl.int32)


@triton.jit
def _kept(marks, i, k, sizes, keep: constexpr):
    kept = (i < sizes.m) & (k < sizes.k)
    if keep != "all":
        item = tl.load(marks.items + i, mask=i < sizes.m, other=0)
        own = item == tl.load(marks.ids + k, mask=k < sizes.k, other=0)
        kept = kept & (own if keep == "own" else ~own)
    return kept


@triton.jit
def _add(peak, total, logs):
    """Add a tile to running sums total * exp(peak); a NaN is lost to peak, but not to total."""
    higher = tl.maximum(peak, tl.max(logs, 0, keep_dims=True))
    base = tl.where(higher == NOTHING, 0.0, higher)
    total = total * _exp(peak - base) + tl.sum(_exp(logs - base), 0, keep_dims=True)
    return higher, total


@triton.jit
def _joint_logs(z, table, i, k, sizes):
    mu, scale = table.mu, table.scale
    logs = tl.load(table.top + k) + (0 * i).to(tl.float32)
    for _ in range(sizes.dims):
        s = (tl.load(z + i) - tl.load(mu + k)) * tl.load(scale + k)
        logs -= s * s
        z, mu, scale = z + sizes.row, mu + sizes.column, scale + sizes.column
    return logs


@triton.jit
def joint(z, table, marks, out, sizes, keep: constexpr, width: constexpr, depth: constexpr):
    """Sum exp(sum_j l) with a running maximum, which no bound can replace here."""
    i = _owned(width)
    first, last, _, _, _ = _walk(marks, sizes.k, keep, depth)
    peak = tl.full([1, width], NOTHING, tl.float32)
    total = tl.zeros([1, width], tl.float32)
    for tile in range(first, last):
        k = _walked(tile, depth)
        logs = _joint_logs(z, table, i, k, sizes)
        logs = tl.where(_kept(marks, i, k, sizes, keep), logs, NOTHING)
        peak, total = _add(peak, total, logs)
    tl.store(out + tl.program_id(1).to(tl.int64) * sizes.row + i, peak + tl.log(total))


@triton.jit
def _marginal_logs(z, table, at):
    s = (z - tl.load(table.mu + at)) * tl.load(table.scale + at)
    return tl.load(table.height + at) - s * s


@triton.jit
def marginals(z, table, marks, out, sizes, keep: constexpr, width: constexpr, depth: constexpr):
    """Sum exp(l - bound); where a sum is faint or NaN, once more with a running maximum.

    Without the maximum, exponentials are all that the time goes to. A sum of one dimension stays
    in a register; in one kernel with the joint there would be one for every dimension, loaded and
    stored with every tile, at more bytes than memory moves. So s is computed twice instead.
    """
    i = _owned(width)
    j = tl.program_id(2).to(tl.int64)
    first, last, gap_first, gap, masked = _walk(marks, sizes.k, keep, depth)
    z = tl.load(z + j * sizes.row + i)
    peak = tl.load(table.bound + j) + tl.zeros([1, width], tl.float32)
    total = tl.zeros([1, width], tl.float32)
    for tile in range(first, last - masked):
        k = _walked(tile + tl.where(tile < gap_first, 0, gap), depth)
        logs = _marginal_logs(z, table, j * sizes.column + k)
        total += tl.sum(_exp(logs - peak), 0, keep_dims=True)
    for n in range(masked):
        k = _walked(tl.where(n < gap, gap_first + n, last - 1), depth)
        logs = _marginal_logs(z, table, j * sizes.column + k)
        logs = tl.where(_kept(marks, i, k, sizes, keep), logs, NOTHING)
        total += tl.sum(_exp(logs - peak), 0, keep_dims=True)
    if tl.min(((total > FAINT) | (i >= sizes.m)).to(tl.int32)) == 0:
        peak = tl.full([1, width], NOTHING, tl.float32)
        total = tl.zeros([1, width], tl.float32)
        for tile in range(first, last):
            k = _walked(tile, depth)
            logs = _marginal_logs(z, table, j * sizes.column + k)
            logs = tl.where(_kept(marks, i, k, sizes, keep), logs, NOTHING)
            peak, total = _add(peak, total, logs)
    at = (tl.program_id(1) * tl.num_programs(2) + j) * sizes.row + i
    tl.store(out + at, peak + tl.log(total))


@triton.jit
def _add_to(at, terms, kept, factor):
    if kept is not None:
        terms = tl.where(kept, terms, 0.0)
    tl.store(at, tl.load(at) + factor * tl.sum(terms, 0, keep_dims=True))


@triton.jit
def _gradient_tile(
    z,
    table,
    up,
    marks,
    out,
    sizes,
    owned,
    walked,
    keep: constexpr,
    of: constexpr,
    masked: constexpr,
):
    i, k = (owned, walked) if of == "points" else (walked, owned)
    stride = sizes.row if of == "points" else sizes.column
    second = tl.num_programs(1).to(tl.int64) * sizes.dims * stride
    joint = _joint_logs(z, table, i, k, sizes)
    weight = tl.load(up.grad + i) * _exp(joint - tl.load(up.joint + i))
    kept = _kept(marks, i, k, sizes, keep) if masked else None
    mu, scale, height = table.mu, table.scale, table.height
    grad_j, marginals = up.grad_j, up.marginals
    for _ in range(sizes.dims):
        steep = tl.load(scale + k)
        s = (tl.load(z + i) - tl.load(mu + k)) * steep
        logs = tl.load(height + k) - s * s
        w = weight + tl.load(grad_j + i) * _exp(logs - tl.load(marginals + i))
        if of == "points":
            _add_to(out + owned, w * s * steep, kept, 1.0)
        else:
            _add_to(out + owned, w * s, kept, steep)
            _add_to(out + second + owned, w * (s * s - 0.5), kept, 1.0)
        z, grad_j, marginals = z + sizes.row, grad_j + sizes.row, marginals + sizes.row
        mu, scale, height = mu + sizes.column, scale + sizes.column, height + sizes.column
        out += stride
    # Another thread may hold these sums in the next tile.
    tl.debug_barrier()


@triton.jit
def gradient(
    z, table, up, marks, out, sizes, keep: constexpr, width: constexpr, depth: constexpr,
    of: constexpr,
):  # fmt: skip
    """Add up sum_k w s scale for points, or sum_i w s scale and sum_i w (s^2 - 1/2) for components.

    Here the sums of all dimensions are loaded and stored with every tile: dimension by dimension,
    each would compute the joint densities, of all dimensions, anew.
    """
    size, stride = (sizes.k, sizes.row) if of == "points" else (sizes.m, sizes.column)
    owned = _owned(width)
    first, last, gap_first, gap, masked = _walk(marks, size, keep, depth)
    out += tl.program_id(1).to(tl.int64) * sizes.dims * stride
    for tile in range(first, last - masked):
        walked = _walked(tile + tl.where(tile < gap_first, 0, gap), depth)
        _gradient_tile(z, table, up, marks, out, sizes, owned, walked, keep, of, False)
    for n in range(masked):
        walked = _walked(tl.where(n < gap, gap_first + n, last - 1), depth)
        _gradient_tile(z, table, up, marks, out, sizes, owned, walked, keep, of, True)
