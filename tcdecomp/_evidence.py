r"""What the values of a batch say about how it was made: doubts, in words for a warning.

Each function returns None, or a sentence that names the argument, how far it is off, and a remedy.

*Is z a sample of N(mu, exp(logvar))?* Under the posterior as given, another reading of logvar (or
of z) is more likely by t nats with a probability of at most e^-t, at any size (Markov's inequality
for a likelihood ratio). A latent whose mean squared residual is x over M rows has a probability of
at most exp(-M (x - 1 - log x) / 2) (Chernoff's bound for a chi-square). Both are told beyond 30.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tcdecomp.posterior import Posterior

__all__ = ["doubt_of_gradient", "doubt_of_logvar", "doubt_of_rows", "doubt_of_sample"]

NATS = 30.0  # a false alarm has a probability below e^-30
VISIBLE = 32.0  # standard deviations count from so many roundings of mu on
FAINT = 1e-3  # a mean square below which rounding may be what makes it small
ROWS = 2**12  # of a batch that are read at a time
FEWEST = 32  # log-variances without a z that are no coincidence when all of them are positive


class _Reading(NamedTuple):
    """Another way in which z, mu and logvar may belong together."""

    nats: Tensor  # its log-likelihood
    explanation: str
    fixed: bool  # whether it has no number that is fitted


@torch.no_grad()
def doubt_of_sample(posterior: Posterior) -> str | None:
    """Doubt that z is a sample of N(mu, exp(logvar)); waits for an accelerator.

    The first :data:`ROWS` rows tell.
    """
    z, mu, logvar = (t.detach()[..., :ROWS, :].double() for t in posterior)
    mu, logvar = mu.expand_as(z), logvar.expand_as(z)
    dtypes = posterior.z.dtype, posterior.mu.dtype
    rounding = max(torch.finfo(dtype).eps for dtype in dtypes)
    visible = (0.5 * logvar).exp() > VISIBLE * rounding * mu.abs()
    if not visible.all():
        logvar = logvar.where(visible, 0)
        z, mu = z.where(visible, 0), mu.where(visible, 0)
    count = visible.flatten(0, -2).sum(0)
    squares = (z - mu).square() * visible
    given = _log_likelihood(squares, 0.5 * logvar)
    gains = [
        reading._replace(nats=(reading.nats - given).nan_to_num(-math.inf))
        for reading in _readings(z, mu, logvar, squares, count.sum(), visible)
    ]
    residuals = (z - mu) * (-0.5 * logvar).exp()
    best = max((reading.nats.item() for reading in gains), default=0.0)
    if best > NATS:
        # Prefer a reading without a fitted number where it explains as much.
        reading = next(
            (r for r in gains if r.fixed and r.nats.item() > max(NATS, best - NATS)),
            max(gains, key=lambda r: r.nats.item()),
        )
        mean = (residuals.square().sum() / count.sum()).item()
        return (
            "z does not look like a sample of N(mu, exp(logvar)): (z - mu)^2 / exp(logvar) "
            f"averages {mean:.3g} where 1 is expected. It is more likely by "
            f"{reading.nats.item():.4g} nats that {reading.explanation}"
        )
    return _doubt_of_a_latent(residuals, count)


def _log_likelihood(squares: Tensor, log_std: Tensor) -> Tensor:
    return -(0.5 * squares * (-2 * log_std).exp() + log_std).sum()


def _readings(
    z: Tensor, mu: Tensor, logvar: Tensor, squares: Tensor, count: Tensor, visible: Tensor
) -> Iterator[_Reading]:
    yield _Reading(
        _log_likelihood(squares, logvar),
        "exp(logvar) is the standard deviation of z. If logvar holds logarithms of standard "
        "deviations, pass 2 * logvar; otherwise draw z = mu + exp(0.5 * logvar) * noise",
        True,
    )
    if (logvar[visible] > 0).all():
        log = logvar.where(visible, 1).log()
        yield _Reading(
            _log_likelihood(squares, log),
            "logvar holds standard deviations. Pass 2 * logvar.log()",
            True,
        )
        yield _Reading(
            _log_likelihood(squares, 0.5 * log),
            "logvar holds variances, squares of a standard deviation. Pass logvar.log()",
            True,
        )
    swapped = (z - logvar).square() * visible
    yield _Reading(
        _log_likelihood(swapped, 0.5 * mu),
        "mu and logvar are swapped. The order of arguments is z, mu, logvar",
        True,
    )
    centre = mu.mean(-2, keepdim=True)
    spread = ((mu - centre).square() + logvar.exp()).mean(-2, keepdim=True)
    yield _Reading(
        _log_likelihood(
            (z - centre).square() * visible, (0.5 * spread.log()).expand_as(z) * visible
        ),
        "z is of other rows than mu and logvar, with a standard deviation beyond a row's own. Keep "
        "the order of the rows: index all three alike",
        True,
    )
    precision = (-logvar).exp() * visible
    # The scale c of z = c * sample that is most likely: A / c^2 - B / c - n = 0.
    a, b = (z.square() * precision).sum(), (z * mu * precision).sum()
    root = (b.square() + 4 * a * count).sqrt()
    inverse = torch.where(b > 0, (b + root) / (2 * a), 2 * count / (root - b))
    yield _Reading(
        _log_likelihood((z * inverse - mu).square() * visible, 0.5 * logvar)
        + count * inverse.log(),
        f"z is a sample that was multiplied by {inverse.reciprocal().item():.4g}. Pass z before it "
        "is scaled, or scale its moments too: mu * c and logvar + 2 * log(c)",
        False,
    )
    mean = ((squares * precision).sum() / count).clamp(min=FAINT)
    yield _Reading(
        _log_likelihood(squares / mean, 0.5 * logvar) - 0.5 * count * mean.log(),
        f"the noise of z has {mean.sqrt().item():.3g} times the standard deviation "
        "exp(0.5 * logvar). If z and mu were multiplied by c, pass logvar + 2 * log(c), too. If "
        "noise was, draw z without it: z = Posterior.from_moments(mu, logvar).z",
        False,
    )


def _doubt_of_a_latent(residuals: Tensor, count: Tensor) -> str | None:
    rows = residuals.flatten(0, -2)
    known = count.clamp(min=1)
    mean, square = rows.sum(0) / known, rows.square().sum(0) / known
    spread = 0.5 * count * (square.clamp(min=FAINT) - 1 - square.clamp(min=FAINT).log())
    shift = 0.5 * count * mean.square()
    rate = torch.where(count > 0, torch.maximum(spread, shift), 0)
    if rate.max() <= NATS + math.log(len(rate)):
        return None
    j = int(rate.argmax())
    return (
        "z does not look like a sample of N(mu, exp(logvar)): in latent "
        f"{j}, (z - mu) / exp(0.5 * logvar) has mean {mean[j].item():.3g} and mean square "
        f"{square[j].item():.3g} over {int(count[j])} rows, where 0 and 1 are expected of a "
        "standard deviation exp(0.5 * logvar). Is z of other rows, clipped, or normalised? "
        "z = Posterior.from_moments(mu, logvar).z draws a sample"
    )


def doubt_of_gradient(posterior: Posterior) -> str | None:
    """Doubt that z is reparameterised, since the means have a gradient, and z has none."""
    if posterior.z.requires_grad or not posterior.mu.requires_grad or not torch.is_grad_enabled():
        return None
    return (
        "z carries no gradient, but mu does: the gradient of the estimated terms is wrong. Draw z "
        "with rsample(), not sample(), or as mu + exp(0.5 * logvar) * noise, and do not detach it"
    )


@torch.no_grad()
def doubt_of_logvar(logvar: Tensor) -> str | None:
    """Doubt that logvar holds log-variances, where no z shows it; waits for an accelerator."""
    lowest = logvar.min().item()
    if lowest <= 0 or logvar.numel() < FEWEST:
        return None
    return (
        f"logvar has no value below 0 (the smallest is {lowest:.3g}), so that every posterior is "
        "wider than the standard normal. Does the encoder return the standard deviation or the "
        "variance? Then pass 2 * std.log() or var.log() as logvar"
    )


@torch.no_grad()
def doubt_of_rows(mu: Tensor, logvar: Tensor) -> str | None:
    """Doubt that all rows are of different items, since some are equal; waits for an accelerator.

    Rows that are all equal say nothing: the encoder has collapsed.
    """
    mu, logvar = mu.detach(), logvar.detach()
    factors = torch.arange(1, 2 * mu.shape[1] + 1, device=mu.device, dtype=torch.float64).sqrt()
    parts = zip(torch.split(mu, ROWS), torch.split(logvar, ROWS), strict=True)
    keys, order = torch.cat([(torch.cat(part, 1) * factors).sum(1) for part in parts]).sort()
    alike = (keys[1:] == keys[:-1]).nonzero().squeeze(1)
    if len(alike) == 0:
        return None
    first, second = order[alike], order[alike + 1]
    equal = (mu[first] == mu[second]).all(1) & (logvar[first] == logvar[second]).all(1)
    repeats = int(equal.sum())
    if repeats in (0, len(mu) - 1):
        return None
    i, k = sorted((int(first[equal][0]), int(second[equal][0])))
    return (
        f"mu and logvar have {repeats} rows that repeat another row (rows {i} and {k} are equal), "
        "but q(z) is estimated as if each row were another item of the data set. If items repeat "
        "in the batch, pass items=, the data-set index of each row; if these are different items, "
        "distinct items= say so"
    )
