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

__all__ = ["Tiles", "log_mixture", "log_mixture_backward"]


class Tiles(NamedTuple):
    """Owned and walked length of a tile, powers of two, and how many programs share a walk."""

    width: int
    depth: int
    splits: int | None = None

    def split(self, programs: int, walk: int, device: torch.device) -> int:
        """Return into how many programs to split each walk, so that all are under way at once."""
        if self.splits or device.type != "cuda":
            return self.splits or 1
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        return min(max(1, 6 * processors // programs), math.ceil(walk / self.depth))


# 64 elements to each of 64 threads. A longer walk spares the gradient accesses to its sums.
FORWARD, BACKWARD = Tiles(512, 8), Tiles(256, 16)


def _padded(values: Tensor, tiles: Tiles, fill: float = 0.0) -> Tensor:
    """Return values dimension by dimension, padded to whole tiles."""
    multiple = max(tiles.width, tiles.depth)
    return pad(values.t(), (0, -len(values) % multiple), value=fill).contiguous()


def _arguments(
    tiles: Tiles,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: Tensor,
    log_other: Tensor,
    items: Tensor | None,
    ids: Tensor | None,
) -> tuple[kernels.Points, kernels.Table, kernels.Sizes]:
    if items is None or ids is None:
        items, ids = (torch.arange(len(x), device=z.device) for x in (z, mu))
    own, other = (_padded(x.contiguous(), tiles) for x in (log_own, log_other))
    points = kernels.Points(_padded(z, tiles), own, other, _padded(items, tiles, -1))
    height = _padded(-0.5 * (logvar + LOG_2PI), tiles, -math.inf)
    scale = _padded((-0.5 * logvar).exp() * math.sqrt(0.5), tiles, 1.0)
    table = kernels.Table(_padded(mu, tiles), scale, height, height.sum(0), _padded(ids, tiles, -2))
    return points, table, kernels.Sizes(z.shape[1], points.z.shape[1], height.shape[1])


def log_mixture(*inputs: Tensor, tiles: Tiles = FORWARD) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D).

    The arguments are those of :func:`tcdecomp.kernels.dense.log_mixture`, float32.
    """
    z = inputs[0]
    (size, dims), (points, table, sizes) = z.shape, _arguments(tiles, *inputs)
    blocks = sizes.row // tiles.width
    many, few = (tiles.split(n, sizes.column, z.device) for n in (blocks, blocks * dims))
    joint, marginals = z.new_empty(many, sizes.row), z.new_empty(few, dims, sizes.row)
    shape = {"width": tiles.width, "depth": tiles.depth, "num_warps": max(1, tiles.width // 256)}
    with torch.cuda.device_of(z):
        kernels.joint[blocks, many](points, table, joint, sizes, **shape)
        kernels.marginals[blocks, few, dims](points, table, marginals, sizes, **shape)
    joint, marginals = joint.logsumexp(0), marginals.logsumexp(0)
    return joint[:size].contiguous(), marginals[:, :size].t().contiguous()


def log_mixture_backward(
    grad: Tensor,
    grad_j: Tensor,
    joint: Tensor,
    marginals: Tensor,
    *inputs: Tensor,
    tiles: Tiles = BACKWARD,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, mu and logvar from those of :func:`log_mixture`'s results."""
    points, table, sizes = _arguments(tiles, *inputs)
    upstream = [_padded(x.contiguous(), tiles) for x in (grad, grad_j)]
    # A sum without components has no gradient.
    sums = [x.masked_fill(x == -math.inf, math.inf) for x in (joint, marginals)]
    upstream += [_padded(x, tiles, math.inf) for x in sums]

    def add_up(of: str, owned: int, walked: int) -> Tensor:
        blocks = owned // tiles.width
        splits = tiles.split(blocks, walked, grad.device)
        out = grad.new_zeros(2 if of == "components" else 1, splits, sizes.dims, owned)
        with torch.cuda.device_of(grad):
            kernels.gradient[blocks, splits](
                points, table, *upstream, out, sizes, tiles.width, tiles.depth, of,
                num_warps=max(1, tiles.width // 128),
            )  # fmt: skip
        return out.sum(1).mT.contiguous()

    (of_z,) = add_up("points", sizes.row, sizes.column)
    of_mu, of_logvar = add_up("components", sizes.column, sizes.row)
    size, components = len(inputs[0]), len(inputs[1])
    return -2 * of_z[:size], 2 * of_mu[:components], of_logvar[:components].clone()
