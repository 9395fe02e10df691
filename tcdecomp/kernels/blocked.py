"""The blocked kernel: plain torch, any device and float dtype, memory O((M + K) D + one tile).

With q_ikj = (z_ij - mu_kj) / sd_kj and l_ikj = -(q_ikj^2 + logvar_kj + log 2 pi) / 2, over the
components k that are kept for point i,

    joint_i      = log sum_k exp(sum_j l_ikj)
    marginals_ij = log sum_k exp(l_ikj)

The gradient needs the weights that each component has in its sums. With g and h upstream,

    W_ikj       = g_i exp(sum_j l_ikj - joint_i) + h_ij exp(l_ikj - marginals_ij)
    dz_ij       = -sum_k W_ikj q_ikj / sd_kj
    dmu_kj      = sum_i W_ikj q_ikj / sd_kj
    dlogvar_kj  = sum_i W_ikj (q_ikj^2 - 1) / 2

Tiles are laid out (dimensions, points, components): the reduced axis is contiguous, and a tile is
small enough to stay in cache while a dozen elementwise operations pass over it. The joint is
treated as one more dimension, the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, inf

from tcdecomp.posterior import LOG_2PI

__all__ = ["Gradients", "Tile", "log_sum", "log_sum_backward", "softmax", "tiles", "transposed"]

Keep = Literal["all", "own", "others"]

# Elements of a tile on the CPU, where its buffers should fit in a core's cache, and elsewhere; and
# the longest stretch of components in a tile.
TILE_ON_CPU = 2**18
TILE_ELSEWHERE = 2**22
LONGEST = 2**11

# A weight below e^-60 of its row's largest cannot count. From e^-87 on it is subnormal in float32,
# with which processors are slow.
CUT = -60.0


def log_sum(
    z: Tensor,
    items: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    component_items: Tensor | None,
    keep: Keep,
) -> tuple[Tensor, Tensor]:
    """Return the joint log-sums, shape (M,), and the marginal ones, shape (M, D)."""
    sums = z.new_full((z.shape[1] + 1, z.shape[0]), -inf)
    for tile in tiles(z, mu, logvar):
        tile.fill()
        drop(tile, items, component_items, keep)
        sums[:, tile.rows] = torch.logaddexp(sums[:, tile.rows], tile.log_sum())
    return sums[-1].clone(), transposed(sums[:-1])


def log_sum_backward(
    grad: Tensor,
    grad_j: Tensor,
    joint: Tensor,
    marginals: Tensor,
    z: Tensor,
    items: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    component_items: Tensor | None,
    keep: Keep,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, mu and logvar from those of :func:`log_sum`'s two results."""
    upstream = torch.cat([grad_j.T, grad[None]])[..., None]
    sums = torch.cat([marginals.T, joint[None]])[..., None]
    # A sum without components has no gradient: -inf - 0 gives its components weights of 0.
    sums.masked_fill_(sums == -inf, 0)
    gradients = Gradients.like(z, mu)
    for tile in tiles(z, mu, logvar):
        tile.fill()
        drop(tile, items, component_items, keep)
        torch.sub(tile.logs, sums[:, tile.rows], out=tile.weights)
        tile.weights.clamp_min_(CUT).exp_()
        torch.threshold_(tile.weights, math.exp(CUT + 1e-3), 0.0)
        tile.weights.mul_(upstream[:, tile.rows])
        gradients.add(tile)
    return gradients.finish()


class Tile(NamedTuple):
    """Some points against some components, and buffers that the next tile overwrites."""

    rows: slice
    columns: slice
    z: Tensor  # (D, B, 1)
    mu: Tensor  # (D, 1, K)
    inv_std: Tensor  # (D, 1, K)
    log_scale: Tensor  # (D, 1, K)
    residuals: Tensor  # (D, B, K): q
    logs: Tensor  # (D + 1, B, K): l, and its sum over D
    weights: Tensor  # (D + 1, B, K)

    def cut(self, rows: slice, columns: slice) -> Tile:
        """Return the tile of some of the points and components."""
        cut = slice(None), slice(rows.stop - rows.start), slice(columns.stop - columns.start)
        return Tile(
            rows,
            columns,
            self.z[:, rows],
            *(t[..., columns] for t in (self.mu, self.inv_std, self.log_scale)),
            *(buffer[cut] for buffer in (self.residuals, self.logs, self.weights)),
        )

    def fill(self) -> None:
        """Compute the residuals and the log-densities."""
        marginals, joint = self.logs[:-1], self.logs[-1]
        torch.sub(self.z, self.mu, out=self.residuals)
        self.residuals.mul_(self.inv_std)
        torch.addcmul(self.log_scale, self.residuals, self.residuals, value=-0.5, out=marginals)
        torch.sum(marginals, 0, out=joint)

    def log_sum(self) -> Tensor:
        """Return the log-sums of the tile, shape (D + 1, B), and leave the weights in them."""
        return softmax(self.logs, out=self.weights)


class Gradients(NamedTuple):
    """Sums over the tiles, from which the gradients are made."""

    z: Tensor  # (D, M)
    mu: Tensor  # (D, K)
    logvar: Tensor  # (D, K), twice the gradient

    @classmethod
    def like(cls, z: Tensor, mu: Tensor) -> Gradients:
        """Start at 0."""
        return cls(
            *(torch.zeros_like(t.T, memory_format=torch.contiguous_format) for t in (z, mu, mu))
        )

    def add(self, tile: Tile) -> None:
        """Add a tile whose weights have their upstream factors; its buffers are used up."""
        weights = tile.weights[:-1].add_(tile.weights[-1])
        logvar = self.logvar[:, tile.columns]
        logvar -= weights.sum(1)
        weights.mul_(tile.residuals)
        self.z[:, tile.rows] -= torch.bmm(weights, tile.inv_std.transpose(1, 2))[..., 0]
        self.mu[:, tile.columns].addcmul_(weights.sum(1), tile.inv_std[:, 0])
        logvar += weights.mul_(tile.residuals).sum(1)

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of z, mu and logvar, shapes (M, D), (K, D) and (K, D)."""
        return transposed(self.z), transposed(self.mu), transposed(self.logvar).mul_(0.5)


def softmax(logs: Tensor, out: Tensor) -> Tensor:
    """Put the weights of the last axis into ``out``, which may be ``logs``; return its log-sum.

    Weights below the cut are 0. torch's softmax is faster than its exp, and the largest weight
    tells the normaliser.
    """
    top = logs.amax(-1, keepdim=True)
    torch.sub(logs, top, out=out)
    torch.softmax(torch.threshold_(out, CUT, -inf), -1, out=out)
    return torch.where(top == -inf, top, top - out.amax(-1, keepdim=True).log_())[..., 0]


def transposed(t: Tensor) -> Tensor:
    """Turn (M, D) into a contiguous (D, M), and back."""
    return t.T.contiguous()


def tiles(z: Tensor, mu: Tensor, logvar: Tensor, *, whole_rows: bool = False) -> Iterator[Tile]:
    """Cut M points against K components into tiles, all of them on the same buffers."""
    (size, dim), components = z.shape, mu.shape[0]
    length = components if whole_rows else min(components, LONGEST)
    elements = TILE_ON_CPU if z.device.type == "cpu" else TILE_ELSEWHERE
    points = max(1, min(size, elements // (dim * length)))
    half = -0.5 * transposed(logvar)[:, None, :]
    whole = Tile(
        slice(0, size),
        slice(0, components),
        transposed(z)[..., None],
        transposed(mu)[:, None, :],
        half.exp(),
        half.sub_(0.5 * LOG_2PI),
        z.new_empty(dim, points, length),
        *z.new_empty(2, dim + 1, points, length),
    )
    if (points, length) == (size, components):
        yield whole
        return
    for i in range(0, size, points):
        for k in range(0, components, length):
            rows, columns = slice(i, min(i + points, size)), slice(k, min(k + length, components))
            yield whole.cut(rows, columns)


def drop(tile: Tile, items: Tensor | None, component_items: Tensor | None, keep: Keep) -> None:
    """Set the log-densities of the components that are not kept to -inf."""
    if keep == "all":
        return
    if items is None or component_items is None:
        own = tile.logs.diagonal(tile.rows.start - tile.columns.start, 1, 2)
        kept = own.clone()
        own.fill_(-inf)
        if keep == "own":
            tile.logs.fill_(-inf)
            own.copy_(kept)
        return
    is_own = items[tile.rows, None] == component_items[tile.columns]
    tile.logs.masked_fill_(is_own if keep == "others" else ~is_own, -inf)
