"""The posteriors of one batch: a diagonal Gaussian for each item, and one sample from each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Independent, Normal

from tcdecomp._checks import (
    check_finite,
    check_generator,
    check_logvar,
    check_tensors,
    largest_logvar,
)

__all__ = ["Posterior"]

Look = Callable[[Tensor, Tensor, Tensor], tuple[float, bool]]

LOG_2PI = math.log(2 * math.pi)
_WORKING = (torch.float32,) * 3, (torch.float64,) * 3


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z; mu, exp(logvar)), element by element, in nats."""
    return -0.5 * (((z - mu) * (-0.5 * logvar).exp()).square() + logvar + LOG_2PI)


def look_at(z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[float, bool]:
    """Return the largest size of a value, NaN if there is one, and whether z equals mu."""
    low, high = torch.aminmax(torch.cat([z.flatten(0, -2), mu, logvar]))
    return max(-low.item(), high.item()), torch.equal(z, mu.expand_as(z))


def _room(mu: Tensor) -> float:
    """Return how large log(((z - mu) / sd)^2) may be, with room for sums over dimensions."""
    return 0.5 * largest_logvar(mu.dtype) - math.log(4 * mu.shape[1])


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posteriors q(z|n) = N(mu, exp(logvar)) of one batch, and a sample z from each.

    Making one checks shapes, dtypes and devices. :meth:`check_values` checks values, which has to
    wait for an accelerator. It unpacks: ``z, mu, logvar = posterior``.

    Parameters
    ----------
    z : Tensor, shape (M, D) or (K, M, D)
        One sample from each item's posterior, or K samples. A reparameterised sample carries the
        gradient.
    mu : Tensor, shape (M, D)
        Means of the posteriors.
    logvar : Tensor, shape (M, D)
        Logarithms of their variances.

    Raises
    ------
    TypeError
        If one of the three is not a tensor of a floating-point dtype.
    ValueError
        If the shapes are not one shape (M, D) with M, D >= 1, or the devices differ.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import Posterior
    >>> posterior = Posterior.from_moments(torch.zeros(8, 3), torch.zeros(8, 3))
    >>> z, mu, logvar = posterior
    >>> z.shape
    torch.Size([8, 3])
    """

    z: Tensor
    mu: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        check_tensors(z=self.z, mu=self.mu, logvar=self.logvar)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.z, self.mu, self.logvar))

    @classmethod
    def from_moments(
        cls, mu: Tensor, logvar: Tensor, *, generator: Generator | None = None
    ) -> Posterior:
        """Draw z from N(mu, exp(logvar)), reparameterised, and return all three.

        Parameters
        ----------
        mu, logvar : Tensor, shape (M, D)
            Means and log-variances. Half precision is sampled in float32.
        generator : torch.Generator, optional
            Source of the noise, on the device of ``mu``; None takes torch's global one.
        """
        check_tensors(mu=mu, logvar=logvar)
        return cls(mu, mu, logvar).sample(generator=generator)

    @classmethod
    def from_normal(
        cls,
        distribution: Distribution,
        z: Tensor | None = None,
        *,
        generator: Generator | None = None,
    ) -> Posterior:
        """Take the posterior from a torch ``Normal``, or an ``Independent`` one, of shape (M, D).

        Parameters
        ----------
        distribution : torch.distributions.Normal or Independent
            One diagonal Gaussian for each item.
        z : Tensor, shape (M, D) or (K, M, D), optional
            The sample that the model drew. By default a new one is drawn.
        generator : torch.Generator, optional
            Source of the noise of a new z; None takes torch's global one.

        Raises
        ------
        TypeError
            If the distribution is not a (factorised) Normal.
        """
        base = distribution
        while isinstance(base, Independent):
            base = base.base_dist
        if not isinstance(base, Normal):
            raise TypeError(
                "distribution must be a torch Normal, or an Independent one; "
                f"got {type(base).__name__}"
            )
        logvar = 2 * base.scale.log()
        if z is None:
            return cls.from_moments(base.loc, logvar, generator=generator)
        return cls(z, base.loc, logvar)

    def sample(self, *, generator: Generator | None = None) -> Posterior:
        """Return the same posteriors with a newly drawn z of shape (M, D), reparameterised.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of the noise, on the device of ``mu``; None takes torch's global one. A
            generator of your own keeps a sample for a log from changing a training run.
        """
        check_generator(generator)
        working = self.in_working_precision()
        noise = torch.randn(
            working.mu.shape, generator=generator, dtype=working.mu.dtype, device=working.mu.device
        )
        z = working.mu + (0.5 * working.logvar).exp() * noise
        return Posterior(z, self.mu, self.logvar)

    def detach(self) -> Posterior:
        """Return the same values cut from the graph."""
        return Posterior(self.z.detach(), self.mu.detach(), self.logvar.detach())

    def in_working_precision(self) -> Posterior:
        """Return the three promoted to one dtype: float64 if one has it, float32 otherwise."""
        dtypes = self.z.dtype, self.mu.dtype, self.logvar.dtype
        if dtypes in _WORKING:
            return self
        dtype = reduce(torch.promote_types, dtypes, torch.float32)
        return Posterior(self.z.to(dtype), self.mu.to(dtype), self.logvar.to(dtype))

    def check_values(self, *, pairs: bool = False, look: Look = look_at) -> None:
        """Refuse values from which no term can be estimated.

        Parameters
        ----------
        pairs : bool
            Whether to refuse rows so far apart that ((z - mu) / sd)^2 of one under another
            overflows, too.
        look : callable
            ``look_at`` of this module, or what does the same faster.

        Raises
        ------
        ValueError
            If a value is not finite, or exp(logvar / 2) or its inverse is not. Or if z equals mu,
            as most VAEs return it in eval mode: total correlation and mutual information would be
            wrong by nats.
        """
        z, mu, logvar = (t.detach() for t in self.in_working_precision())
        largest, alike = look(z, mu, logvar)
        # The largest of all values tells that there is no fault, or else it is looked for.
        if not 2 * math.log(max(largest, 1.0)) + largest <= _room(mu):
            self._refuse_extremes(z, mu, logvar, pairs=pairs)
        if alike and self._noise_is_visible():
            raise ValueError(
                "z must be a sample from N(mu, exp(logvar)); got z equal to mu, as a VAE in eval "
                "mode returns it. Draw one with z = Posterior.from_moments(mu, logvar).z"
            )

    def _refuse_extremes(self, z: Tensor, mu: Tensor, logvar: Tensor, *, pairs: bool) -> None:
        check_finite("z", self.z)
        check_finite("mu", self.mu)
        check_logvar(logvar)
        farthest, lowest = max(z.abs().max().item(), mu.abs().max().item()), logvar.min().item()
        if pairs and 2 * math.log(max(farthest, 1.0)) - lowest > _room(mu):
            self._refuse_distance(mu, logvar, farthest, lowest)

    def _refuse_distance(self, mu: Tensor, logvar: Tensor, farthest: float, lowest: float) -> None:
        place = int(torch.maximum(logvar, 2 * mu.abs().log()).argmax())
        row, column = divmod(place, mu.shape[1])
        raise ValueError(
            f"z, mu and logvar must be closer together for {mu.dtype}: ((z - mu) / sd)^2 overflows "
            f"between rows. The largest |z| or |mu| is {farthest:.3g}, the smallest logvar "
            f"{lowest:.3g}; logvar is {logvar[row, column].item():.3g} at row {row}, column "
            f"{column}. Clamp logvar in the encoder, or pass float64"
        )

    def _noise_is_visible(self) -> bool:
        """Tell whether a sample in z's dtype can be told from the mean."""
        resolution = torch.finfo(self.z.dtype).eps * self.mu.abs()
        return bool(((0.5 * self.logvar).exp() > resolution).any())
