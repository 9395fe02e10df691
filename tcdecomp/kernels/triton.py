"""Launches the CUDA kernels of :mod:`tcdecomp.kernels.triton_device`, which has their mathematics.

Float32, memory O((M + K) D); deterministic, since no two programs add to one sum.
"""

# Launching a kernel is an untyped call.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tcdecomp.kernels import triton_device as kernels
from tcdecomp.posterior import LOG_2PI

__all__ = ["Tiles", "log_sum", "log_sum_backward"]


class Tiles(NamedTuple):
    """Owned and walked length of a tile, powers of two, and how many programs share a walk."""

    width: int
    depth: int
    splits: int | None = None

    def fit(self, count: int) -> int:
        """Return the width for ``count`` rows."""
        return min(self.width, max(32, 1 << (count - 1).bit_length()))


# 64 elements to each of 64 threads. A longer walk spares the gradient accesses to its sums.
FORWARD, BACKWARD = Tiles(512, 8), Tiles(256, 16)


def _sort(ids: Tensor | None, rows: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the order that sorts by item (None: it is), and the sorted ids.

    Then the pairs of an item stand together, and nearly all tiles count whole or not at all.
    """
    if ids is None:
        return None, torch.arange(len(rows), device=rows.device)
    order = ids.argsort(stable=True)
    return order, ids[order]


def _pack(values: Tensor, order: Tensor | None, tiles: Tiles) -> Tensor:
    """Return values in order, dimension by dimension, padded to whole tiles."""
    values = values if order is None else values[order]
    multiple = max(tiles.fit(len(values)), tiles.depth)
    return pad(values.t(), (0, -len(values) % multiple)).contiguous()


def _unpack(values: Tensor, count: int, order: Tensor | None) -> Tensor:
    values = values[..., :count].t().contiguous()
    return values if order is None else torch.empty_like(values).index_copy_(0, order, values)


def _table(mu: Tensor, logvar: Tensor) -> kernels.Table:
    height = -0.5 * (logvar + LOG_2PI)
    return kernels.Table(
        mu, (-0.5 * logvar).exp() * math.sqrt(0.5), height, height.sum(0), height.amax(1)
    )


def _spans(owned: Tensor, walked: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return what of the sorted walk may match each block of sorted owned ids: [low, high)."""
    first = owned[::width].contiguous()
    last = torch.cat([owned[width - 1 :: width], owned[-1:]])[: len(first)]
    low = torch.searchsorted(walked, first, out_int32=True)
    return low, torch.searchsorted(walked, last, right=True, out_int32=True)


def _splits(programs: int, walk: int, tiles: Tiles, device: torch.device) -> int:
    """Into how many programs to split each walk, so that all are under way at once."""
    if tiles.splits or device.type != "cuda":
        return tiles.splits or 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return min(max(1, 6 * processors // programs), math.ceil(walk / tiles.depth))


def log_sum(
    z: Tensor, items: Tensor | None, mu: Tensor, logvar: Tensor, component_items: Tensor | None,
    keep: str, *, tiles: Tiles = FORWARD,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the log-sums over the components that count for each point, in nats.

    Parameters
    ----------
    z : Tensor, shape (M, D), float32
        Points.
    items, component_items : Tensor, shapes (M,) and (K,), int64, or both None
        The item of each point and of each component. None: component i is point i's own.
    mu, logvar : Tensor, shape (K, D), float32
        Means and log-variances of the components.
    keep : {"all", "own", "others"}
        Which components count: all, those of the point's item, those of other items.

    Returns
    -------
    joint : Tensor, shape (M,)
        Log of the sum of the densities at z.
    marginals : Tensor, shape (M, D)
        The same for each dimension. A sum of nothing is -inf; one with a NaN in it is NaN.
    """
    m, k, dims = len(z), len(mu), z.shape[1]
    if 0 in (m, k):
        return z.new_full((m,), -math.inf), z.new_full((m, dims), -math.inf)
    (points, items), (components, ids) = _sort(items, z), _sort(component_items, mu)
    z, mu, logvar = _pack(z, points, tiles), *(_pack(x, components, tiles) for x in (mu, logvar))
    sizes, width = kernels.Sizes(m, k, dims, z.shape[1], mu.shape[1]), tiles.fit(m)
    marks = None if keep == "all" else kernels.Marks(items, ids, *_spans(items, ids, width))
    blocks, table = math.ceil(m / width), _table(mu, logvar)
    many, few = (_splits(n, k, tiles, z.device) for n in (blocks, blocks * dims))
    joint, marginals = z.new_empty(many, sizes.row), z.new_empty(few, dims, sizes.row)
    shape = {"keep": keep, "width": width, "depth": tiles.depth, "num_warps": max(1, width // 256)}
    with torch.cuda.device_of(z):
        kernels.joint[blocks, many](z, table, marks, joint, sizes, **shape)
        kernels.marginals[blocks, few, dims](
            z, table, marks, marginals, sizes, maxnreg=128, **shape
        )
    return _unpack(joint.logsumexp(0), m, points), _unpack(marginals.logsumexp(0), m, points)


def log_sum_backward(
    grad: Tensor, grad_j: Tensor, joint: Tensor, marginals: Tensor,
    z: Tensor, items: Tensor | None, mu: Tensor, logvar: Tensor, component_items: Tensor | None,
    keep: str, *, tiles: Tiles = BACKWARD,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients for z, mu and logvar, (M, D) and twice (K, D); nothing is atomic.

    Parameters
    ----------
    grad, grad_j : Tensor, shapes (M,) and (M, D)
        Gradients for ``joint`` and ``marginals``.
    joint, marginals : Tensor, shapes (M,) and (M, D)
        What :func:`log_sum` returned for the other arguments, which are its own.
    """
    m, k, dims = len(z), len(mu), z.shape[1]
    if 0 in (m, k):
        return torch.zeros_like(z), torch.zeros_like(mu), torch.zeros_like(mu)
    (points, items), (components, ids) = _sort(items, z), _sort(component_items, mu)
    z, *up = (_pack(x, points, tiles) for x in (z, grad, grad_j, joint, marginals))
    table = _table(*(_pack(x, components, tiles) for x in (mu, logvar)))
    sizes = kernels.Sizes(m, k, dims, z.shape[1], table.mu.shape[1])

    def add_up(of: str, owned: Tensor, walked: Tensor, stride: int) -> Tensor:
        width = tiles.fit(len(owned))
        blocks = math.ceil(len(owned) / width)
        marks = None if keep == "all" else kernels.Marks(items, ids, *_spans(owned, walked, width))
        splits = _splits(blocks, len(walked), tiles, z.device)
        out = z.new_zeros(2 if of == "components" else 1, splits, dims, stride)
        with torch.cuda.device_of(z):
            kernels.gradient[blocks, splits](
                z, table, kernels.Upstream(*up), marks, out, sizes, keep, width, tiles.depth, of,
                num_warps=max(1, width // 128), maxnreg=168,
            )  # fmt: skip
        return out.sum(1)

    (dz,) = add_up("points", items, ids, sizes.row)
    dmu, dlogvar = add_up("components", ids, items, sizes.column)
    unpacked = _unpack(dz, m, points), _unpack(dmu, k, components), _unpack(dlogvar, k, components)
    return -2 * unpacked[0], 2 * unpacked[1], unpacked[2]
