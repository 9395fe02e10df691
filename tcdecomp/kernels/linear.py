"""The marginals in linear time and the joint by matrix products: plain torch, any device.

*Marginals.* Each q(z_j) is a mixture of one-dimensional Gaussians, each with a standard deviation
of its own. Components are sorted into bands, from c to at most 3 c, and each band has a regular
grid with 2.3 points in c. A Gaussian of sd is the convolution of two: of variance sd^2 - tau^2, and
of variance tau^2 = c^2 / 2. The trapezoidal rule on the grid gives it to 1e-11::

    sum_k N(z; mu_k, sd_k^2) = step sum_g N(z; x_g, tau^2) G_g
    G_g = sum_k N(x_g; mu_k, sd_k^2 - tau^2)

So every component adds itself to its grid, as far as 6.76 of its standard deviations, and every
point reads 24 grid points of each band: O(M + K) in place of O(M K). The gradient is the
transpose: points add their upstream factor over q to the grid, through the same window, and
components gather its moments of order 0, 1 and 2 under their own Gaussian.

A point's own component has a weight of its own, so the rest of its density is added exactly. This
cancels if a point sees hardly anything else. A point whose q is below 1e-4 of the grid's maximum
nearby is therefore summed over pairs. So log q(z_j) is right to 1e-6.

*Joint.* The square (z - mu)^2 / var is expanded around the mean of mu, in float64. Then products of
matrices sum over the dimensions, in the gradient too.

Where squares would cancel, or grids be too long, the blocked kernel serves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from tcdecomp.kernels import blocked
from tcdecomp.posterior import LOG_2PI, log_normal

__all__ = [
    "log_joint",
    "log_mixture",
    "log_mixture_backward",
    "mean_log_mixture",
]

Gradients = tuple[Tensor, Tensor, Tensor]

PER_BAND = 2.3  # grid points in the smallest standard deviation of a band
WIDTH = 3.0  # of a band: largest standard deviation over the smallest, at most
REACH = 6.76  # standard deviations at which a Gaussian ends
WINDOW = 24  # grid points that a point reads
TAU = PER_BAND * math.sqrt(0.5)  # standard deviation of the window, in grid points
HEIGHT = 1 / (TAU * math.sqrt(2 * math.pi))
BLOCK = 48  # grid points that share a maximum: no error comes from beyond the next block
TRUSTED = 1e-4  # of the maximum nearby
CUT_OFF = 1e-23  # of the sum of all inverse sds: below it, tails count that end before the point
LONGEST = 2**22  # points of all grids
CANCELS = 1e8  # ((z - mean) / sd)^2 of which float64 keeps 8 digits
STRETCH = 2**11  # components at a time, where there are no gradients
CHUNK = 2**17  # elements of an intermediate tensor, which should fit in a cache


def log_mixture(
    z: Tensor, mu: Tensor, logvar: Tensor, log_own: Tensor, log_other: Tensor, *_: None
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D); see :mod:`tcdecomp.kernels.dense`.

    All points have the same weights, and there are no items.
    """
    mixture, grids = _tabulated(z, mu, logvar, log_own[0].item(), log_other[0].item())
    if mixture is None or grids is None:
        return blocked.log_mixture(z, mu, logvar, log_own, log_other)
    return _joint(mixture)[0].to(z.dtype), _marginals(mixture, grids)[0].to(z.dtype)


def log_joint(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the log-sums of all components' densities, shape (M,)."""
    sums = [_log_joint(z, mu[part], logvar[part]) for part in _parts(len(mu), STRETCH)]
    return torch.stack(sums).logsumexp(0).to(z.dtype)


def _log_joint(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    mixture = _mixture(z, mu, logvar, 0.0, 0.0)
    if mixture is None:
        return blocked.log_mixture(z, mu, logvar, *z.new_zeros(2, len(z)))[0].double()
    return _joint(mixture)[0]


def log_mixture_backward(
    grad: Tensor, grad_j: Tensor, log_q: Tensor, log_q_j: Tensor, *inputs: Any
) -> Gradients:
    """Return the gradients of z, mu and logvar from those of :func:`log_mixture`'s results."""
    z, mu, logvar, log_own, log_other = inputs[:5]
    mixture, grids = _tabulated(z, mu, logvar, log_own[0].item(), log_other[0].item())
    if mixture is None or grids is None:
        return blocked.log_mixture_backward(grad, grad_j, log_q, log_q_j, *inputs[:5])
    return _gradients(mixture, grids, grad.double(), grad_j.double())[1]


def mean_log_mixture(
    z: Tensor, mu: Tensor, logvar: Tensor, *options: float, gradients: bool = True
) -> tuple[Tensor, ...]:
    """Return the value, a scalar, and its gradients; see :mod:`tcdecomp.kernels.blocked`."""
    log_own, log_other, joint, marginal, kl = options
    mixture, grids = _tabulated(z, mu, logvar, log_own, log_other)
    if mixture is None or grids is None:
        return blocked.mean_log_mixture(z, mu, logvar, *options, gradients=gradients)
    grad = mixture.z.new_full(z.shape[:1], joint / len(z))
    grad_j = mixture.z.new_full(z.shape, marginal / len(z))
    if gradients:
        value, of = _gradients(mixture, grids, grad, grad_j)
        return blocked.with_kl(value.to(z.dtype), mu, logvar, kl, len(z), of)
    value = grad @ _joint(mixture)[0] + (grad_j * _marginals(mixture, grids)[0]).sum()
    return blocked.with_kl(value.to(z.dtype), mu, logvar, kl, len(z))


class _Mixture(NamedTuple):
    """Points and components in float64, log-weights, and the dtype that they came in."""

    z: Tensor
    mu: Tensor
    logvar: Tensor
    log_ratio: float
    log_other: float
    dtype: torch.dtype


def _mixture(
    z: Tensor, mu: Tensor, logvar: Tensor, log_own: float, log_other: float
) -> _Mixture | None:
    """Return None if squares would cancel, or a value is not finite."""
    dtype, (z, mu, logvar) = z.dtype, (t.double().contiguous() for t in (z, mu, logvar))
    farthest = torch.maximum((z - mu.mean(0)).abs().max(), (mu - mu.mean(0)).abs().max())
    if not (farthest.square() < CANCELS * logvar.min().exp() and logvar.max().isfinite()):
        return None
    return _Mixture(z, mu, logvar, log_own - log_other, log_other, dtype)


def _tabulated(*inputs: Any) -> tuple[_Mixture | None, _Grids | None]:
    """Return a mixture and its grids, each None where it cannot serve."""
    mixture = _mixture(*inputs)
    return mixture, None if mixture is None else _grids(mixture.mu, mixture.logvar)


def _gradients(
    mixture: _Mixture, grids: _Grids, grad: Tensor, grad_j: Tensor
) -> tuple[Tensor, Gradients]:
    """Return the densities times their upstream gradients, added up, and its gradients."""
    (log_q, joint), (log_q_j, marginals) = (
        _joint(mixture, grad),
        _marginals(mixture, grids, grad_j),
    )
    of_z, of_mu, of_logvar = (
        (a + b).to(mixture.dtype) for a, b in zip(joint, marginals, strict=True)
    )
    return grad @ log_q + (grad_j * log_q_j).sum(), (of_z, of_mu, of_logvar)


def _joint(mixture: _Mixture, grad: Tensor | None = None) -> tuple[Tensor, Gradients]:
    """Return log q(z), and its gradients for an upstream one; exponentials are of its dtype."""
    centre, precision = mixture.mu.mean(0), (-mixture.logvar).exp()
    z, mu = mixture.z - centre, mixture.mu - centre
    features, powers = torch.cat([-0.5 * precision, precision * mu], 1), torch.cat([z * z, z], 1)
    height = -0.5 * (mu * mu * precision + mixture.logvar + LOG_2PI).sum(1)
    log_q, of_powers = z.new_empty(len(z)), torch.zeros_like(powers)
    of_features, sums = torch.zeros_like(features), torch.zeros_like(height)
    for rows in _parts(len(z), CHUNK // len(mu)):
        logs = torch.addmm(height, powers[rows], features.T)
        logs.diagonal(rows.start).add_(mixture.log_ratio)
        top = logs.amax(1, keepdim=True)
        log_sum, shares = blocked.softmax(logs.sub_(top).to(mixture.dtype))
        log_q[rows] = log_sum + top[:, 0] + mixture.log_other
        if grad is not None:
            weights = shares.double() * grad[rows, None]
            of_powers[rows] = weights @ features
            of_features += weights.T @ powers[rows]
            sums += weights.sum(0)
    (of_squares, of_z), (squares, firsts) = of_powers.chunk(2, 1), of_features.chunk(2, 1)
    of_mu = precision * (firsts - mu * sums[:, None])
    of_logvar = precision * (squares - 2 * mu * firsts + mu * mu * sums[:, None]) - sums[:, None]
    return log_q, (2 * z * of_squares + of_z, of_mu, 0.5 * of_logvar)


def _marginals(
    mixture: _Mixture, grids: _Grids, grad: Tensor | None = None
) -> tuple[Tensor, Gradients]:
    """Return log q(z_j), and its gradients for an upstream one."""
    z, mu, logvar, log_ratio, log_other, _ = mixture
    of_z, of_mu, of_logvar = (torch.zeros_like(t) for t in (z, mu, logvar))
    log_q, grid, left = torch.empty_like(z), grids.density(), grids.zeros()
    maxima = max_pool1d(grid.view(1, -1, BLOCK).amax(2), 3, 1, 1)[0]
    least = CUT_OFF * (-0.5 * logvar).exp().sum(0)
    for rows in _parts(len(z), CHUNK // (WINDOW * z.shape[1])):
        total, slope, nearby = z.new_zeros(3, *z[rows].shape)
        if log_ratio != 0:
            own = math.expm1(log_ratio) * log_normal(z[rows], mu[rows], logvar[rows]).exp()
            q = (z[rows] - mu[rows]) * (-0.5 * logvar[rows]).exp()
            total, slope = total + own, slope - own * q * (-0.5 * logvar[rows]).exp()
        reads = list(grids.reads(z[rows]))
        for read in reads:
            values = read.window * grid.unfold(0, WINDOW, 1)[read.first]
            total[read.at] += values.sum(1)
            slope[read.at] += (values * read.distance).sum(1) / (TAU**2 * read.step)
            nearby[read.at] += maxima[read.first // BLOCK]
        by_pairs = ~((total > TRUSTED * nearby) & (total > least))
        log_q[rows] = total.log() + log_other
        if grad is not None:
            factor = (grad[rows] / total).masked_fill(by_pairs, 0)
            of_z[rows] = slope.masked_fill(by_pairs, 0) * factor
            for read in reads:
                _add(left, read.first, read.window * factor[read.at][:, None])
            if log_ratio != 0:
                part = (factor * own).masked_fill(by_pairs, 0)
                of_mu[rows] += part * q * (-0.5 * logvar[rows]).exp()
                of_logvar[rows] += 0.5 * part * (q * q - 1)
        for at in by_pairs.nonzero().split(max(1, CHUNK // len(mu))):
            _sum_pairs(
                mixture, at[:, 0] + rows.start, at[:, 1], grad, log_q, (of_z, of_mu, of_logvar)
            )
    if grad is not None:
        grids.collect(left, of_mu, of_logvar)
    return log_q, (of_z, of_mu, of_logvar)


def _sum_pairs(
    mixture: _Mixture, i: Tensor, j: Tensor, grad: Tensor | None, log_q: Tensor, of: Gradients
) -> None:
    """Put log q of points i in dimensions j in its place, and add gradients, by all pairs."""
    x, mu, logvar = mixture.z[i, j, None], mixture.mu.T[j], mixture.logvar.T[j]
    logs = log_normal(x, mu, logvar)
    if mixture.log_ratio != 0:
        logs[torch.arange(len(i), device=i.device), i] += mixture.log_ratio
    log_sum, shares = blocked.softmax(logs)
    log_q[i, j] = log_sum + mixture.log_other
    if grad is not None:
        of_z, of_mu, of_logvar = of
        weights, inverse = shares * grad[i, j, None], (-logvar).exp()
        slopes = weights * (x - mu) * inverse
        of_z[i, j] = -slopes.sum(1)
        of_mu.T.index_put_((j,), slopes, accumulate=True)
        bends = 0.5 * (slopes * (x - mu) - weights)
        of_logvar.T.index_put_((j,), bends, accumulate=True)


class _Read(NamedTuple):
    """What some points read of one band."""

    at: tuple[Tensor, ...]  # which points, and in which dimensions
    first: Tensor  # grid point
    step: Tensor
    distance: Tensor  # (n, WINDOW), in grid points
    window: Tensor  # (n, WINDOW)


class _Grids(NamedTuple):
    """The grids of all bands and dimensions, one after another, and the components on them."""

    origin: Tensor  # (bands, D): the first point
    step: Tensor  # (bands, D)
    offset: Tensor  # (bands, D): its number
    points: Tensor  # (bands, D): how many, or 0
    first: Tensor  # (K D): a component's first grid point
    centre: Tensor  # (K D): its place from there, in grid points
    fall: Tensor  # (K D): half the inverse of its variance, in grid points
    scale: Tensor  # (K D): the step of its grid
    reach: Tensor  # (K D): how many grid points it touches

    def zeros(self) -> Tensor:
        return self.origin.new_zeros(int(self.points.sum()))

    def density(self) -> Tensor:
        """Return G at all grid points."""
        grid = self.zeros()
        for part, _, gaussian in self._components():
            _add(grid, self.first[part], gaussian)
        return grid

    def collect(self, left: Tensor, of_mu: Tensor, of_logvar: Tensor) -> None:
        """Add what points have left on the grids to the gradients, (K, D)."""
        for part, distance, gaussian in self._components():
            values = gaussian * left.unfold(0, gaussian.shape[1], 1)[self.first[part]]
            inverse, scale = 2 * self.fall[part], self.scale[part]
            slope = inverse * (values * distance).sum(1) / scale
            bend = inverse * (values * distance * distance).sum(1) - values.sum(1)
            variance = 1 / inverse + TAU**2
            of_mu.view(-1)[part] += slope
            of_logvar.view(-1)[part] += 0.5 * bend * inverse * variance

    def _components(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield some components, their distances from grid points, and their Gaussians there."""
        for part in torch.split(self.reach.argsort(), CHUNK // int(self.reach.max())):
            distance = _distances(self.centre[part], int(self.reach[part[-1]]))
            fall, scale = self.fall[part], self.scale[part]
            height = (fall / math.pi).sqrt() / scale
            yield part, distance, height[:, None] * (-fall[:, None] * distance.square()).exp()

    def reads(self, x: Tensor) -> Iterator[_Read]:
        """Yield what points, (B, D), read of each band."""
        for origin, step, offset, points in zip(*self[:4], strict=True):
            place = (x - origin) / step
            at = ((place > BLOCK) & (place < points - BLOCK)).nonzero(as_tuple=True)
            place, whole = place[at], place[at].floor()
            distance = _distances(place - whole + (WINDOW // 2 - 1), WINDOW)
            first = offset[at[1]] + whole.long() - (WINDOW // 2 - 1)
            window = HEIGHT * (distance.square() * (-0.5 / TAU**2)).exp()
            yield _Read(at, first, step[at[1]], distance, window)


def _grids(mu: Tensor, logvar: Tensor) -> _Grids | None:
    """Return the grids, unless they are too long."""
    low, columns = logvar.amin(0), torch.arange(mu.shape[1], device=mu.device)
    span = 0.5 * (logvar.amax(0) - low)
    counts = (span / math.log(WIDTH)).long() + 1
    band = (0.5 * (logvar - low) * (counts / span.clamp(min=1e-9))).long().minimum(counts - 1)
    bands = torch.arange(int(counts.max()), device=mu.device)[:, None]
    step = (0.5 * low + span / counts * bands).exp() / PER_BAND
    grid = (band * len(columns) + columns).flatten()
    ends = mu.new_full((2, step.numel()), math.inf)
    both = torch.stack([mu.flatten(), -mu.flatten()])
    low, high = ends.scatter_reduce(1, grid.expand(2, -1), both, "amin").view(2, *step.shape)
    origin = low - 2 * BLOCK * step
    blocks = ((-high - low) / step / BLOCK).floor() + 5
    points = torch.where(low.isfinite(), blocks * BLOCK, 0)
    if not points.sum() < LONGEST:
        return None
    points = points.long()
    offset = (points.flatten().cumsum(0) - points.flatten()).view_as(points)
    scale = step.flatten()[grid]
    variance = (logvar.flatten().exp() / scale.square()) - TAU**2
    place = (mu.flatten() - origin.flatten()[grid]) / scale
    half = (REACH * variance.sqrt()).long() + 1
    first = place.long() - half
    return _Grids(
        origin=origin,
        step=step,
        offset=offset,
        points=points,
        first=first + offset.flatten()[grid],
        centre=place - first,
        fall=0.5 / variance,
        scale=scale,
        reach=2 * half + 2,
    )


def _distances(centre: Tensor, count: int) -> Tensor:
    return torch.arange(count, device=centre.device) - centre[:, None]


def _add(grid: Tensor, first: Tensor, values: Tensor) -> None:
    """Add rows of values to the grid, each from its first point on."""
    index = first[:, None] + torch.arange(values.shape[1], device=first.device)
    if grid.device.type == "cuda":  # sorts, and so adds in one order
        grid.index_put_((index,), values, accumulate=True)
    else:
        grid.index_add_(0, index.flatten(), values.flatten())


def _parts(size: int, length: int) -> Iterator[slice]:
    length = max(1, length)
    return (slice(start, min(start + length, size)) for start in range(0, size, length))
