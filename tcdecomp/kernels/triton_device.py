"""CUDA kernels in Triton: mixtures of Gaussians and their gradients, in linear memory.

With s_ikj = (z_ij - mu_kj) exp(-logvar_kj / 2) / sqrt(2) the log-density of point i under
component k in dimension j is l_ikj = h_kj - s_ikj^2, where h_kj = -(logvar_kj + log 2 pi) / 2, and

    joint_i = log sum_k w_ik exp(sum_j l_ikj)        marginals_ij = log sum_k w_ik exp(l_ikj)

with one weight for the point's own components and another for all others. From their gradients
g_i and g_ij,

    u_ikj = g_i w_ik exp(sum_j l_ikj - joint_i) + g_ij w_ik exp(l_ikj - marginals_ij)
    dz_ij = -sum_k u_ikj (z_ij - mu_kj) / var_kj        dmu_kj = sum_i u_ikj (z_ij - mu_kj) / var_kj
    dlogvar_kj = sum_i u_ikj (s_ikj^2 - 1/2)

A program owns ``width`` points (or components, for their gradients) and walks through the others
in tiles of ``depth``. The owned axis is a tile's last: so each thread gets whole columns, and sums
along the walk need no exchange between threads. Padding needs no mask: a padded component has the
height -inf, and a padded point the sum inf. No product of matrices is used: the expanded square
cancels.
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

__all__ = ["Points", "Sizes", "Table", "gradient", "joint", "marginals"]

INTERPRETED = constexpr(triton.knobs.runtime.interpret)
NOTHING = constexpr(-math.inf)

# What kernels are given. Tensors have one row for each dimension, row or column long (padded).
Sizes = namedtuple("Sizes", "dims row column")
Table = namedtuple("Table", "mu scale height top ids")  # top is the sum of height over dimensions
Points = namedtuple("Points", "z own other items")  # own and other are log-weights


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
def _walk(length, depth: constexpr):
    """Return the tiles [first, last) of this program."""
    share = tl.cdiv(tl.cdiv(length, depth), tl.num_programs(1))
    first = tl.program_id(1) * share
    return first, tl.minimum(first + share, tl.cdiv(length, depth))


@triton.jit
def _weights(points, table, i, k):
    own = tl.load(points.items + i) == tl.load(table.ids + k)
    return tl.where(own, tl.load(points.own + i), tl.load(points.other + i))


@triton.jit
def _weighted(logs, weights):
    """Add weights; a component without weight does not count, not even if it is NaN."""
    return tl.where(weights == NOTHING, NOTHING, logs + weights)


@triton.jit
def _add(peak, total, logs):
    """Add a tile to running sums total * exp(peak); a NaN is lost to peak, but not to total."""
    higher = tl.maximum(peak, tl.max(logs, 0, keep_dims=True))
    base = tl.where(higher == NOTHING, 0.0, higher)
    total = total * _exp(peak - base) + tl.sum(_exp(logs - base), 0, keep_dims=True)
    return higher, total


@triton.jit
def _joint_logs(points, table, i, k, sizes):
    z, mu, scale = points.z, table.mu, table.scale
    logs = tl.load(table.top + k) + (0 * i).to(tl.float32)
    for _ in range(sizes.dims):
        s = (tl.load(z + i) - tl.load(mu + k)) * tl.load(scale + k)
        logs -= s * s
        z, mu, scale = z + sizes.row, mu + sizes.column, scale + sizes.column
    return _weighted(logs, _weights(points, table, i, k))


@triton.jit
def joint(points, table, out, sizes, width: constexpr, depth: constexpr):
    """Sum w exp(sum_j l) with a running maximum."""
    i = _owned(width)
    peak = tl.full([1, width], NOTHING, tl.float32)
    total = tl.zeros([1, width], tl.float32)
    first, last = _walk(sizes.column, depth)
    for tile in range(first, last):
        peak, total = _add(peak, total, _joint_logs(points, table, i, _walked(tile, depth), sizes))
    tl.store(out + tl.program_id(1).to(tl.int64) * sizes.row + i, peak + tl.log(total))


@triton.jit
def marginals(points, table, out, sizes, width: constexpr, depth: constexpr):
    """Sum w exp(l) of one dimension with a running maximum.

    In one kernel with the joint there would be a sum for every dimension, loaded and stored with
    every tile, at more bytes than memory moves. So s is computed twice instead.
    """
    i, j = _owned(width), tl.program_id(2).to(tl.int64)
    z = tl.load(points.z + j * sizes.row + i)
    peak = tl.full([1, width], NOTHING, tl.float32)
    total = tl.zeros([1, width], tl.float32)
    first, last = _walk(sizes.column, depth)
    for tile in range(first, last):
        k = _walked(tile, depth)
        at = j * sizes.column + k
        s = (z - tl.load(table.mu + at)) * tl.load(table.scale + at)
        logs = _weighted(tl.load(table.height + at) - s * s, _weights(points, table, i, k))
        peak, total = _add(peak, total, logs)
    at = (tl.program_id(1) * tl.num_programs(2) + j) * sizes.row + i
    tl.store(out + at, peak + tl.log(total))


@triton.jit
def _add_to(at, terms):
    tl.store(at, tl.load(at) + tl.sum(terms, 0, keep_dims=True))


@triton.jit
def gradient(
    points, table, grad, grad_j, joint, marginals, out, sizes, width: constexpr, depth: constexpr,
    of: constexpr,
):  # fmt: skip
    """Add up sum_k u s scale for points, or sum_i u s scale and sum_i u (s^2 - 1/2) for components.

    Here the sums of all dimensions are loaded and stored with every tile: dimension by dimension,
    each would compute the joint densities, of all dimensions, anew.
    """
    length, stride = (sizes.column, sizes.row) if of == "points" else (sizes.row, sizes.column)
    out += tl.program_id(1).to(tl.int64) * sizes.dims * stride
    second = tl.num_programs(1).to(tl.int64) * sizes.dims * stride
    owned = _owned(width)
    first, last = _walk(length, depth)
    for tile in range(first, last):
        walked = _walked(tile, depth)
        i, k = (owned, walked) if of == "points" else (walked, owned)
        logs = _joint_logs(points, table, i, k, sizes)
        share = tl.load(grad + i) * _exp(logs - tl.load(joint + i))
        weights = _weights(points, table, i, k)
        for j in range(sizes.dims):
            j = tl.cast(j, tl.int64)
            row, column = j * sizes.row + i, j * sizes.column + k
            scale = tl.load(table.scale + column)
            s = (tl.load(points.z + row) - tl.load(table.mu + column)) * scale
            logs = _weighted(tl.load(table.height + column) - s * s, weights)
            u = share + tl.load(grad_j + row) * _exp(logs - tl.load(marginals + row))
            at = out + j * stride + owned
            _add_to(at, u * s * scale)
            if of == "components":
                _add_to(at + second, u * (s * s - 0.5))
        # Another thread may hold these sums in the next tile.
        tl.debug_barrier()
