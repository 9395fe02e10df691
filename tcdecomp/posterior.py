"""The posteriors of one batch: a diagonal Gaussian for each item, and one sample from each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Independent, Normal

from tcdecomp._checks import check_finite, check_logvar, check_tensors

__all__ = ["Posterior"]

LOG_2PI = math.log(2 * math.pi)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z; mu, exp(logvar)), element by element, in nats."""
    return -0.5 * (((z - mu) * (-0.5 * logvar).exp()).square() + logvar + LOG_2PI)


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posteriors q(z|n) = N(mu, exp(logvar)) of one batch, and a sample z from each.

    Shapes, dtypes and devices are checked when it is made; values only by
    :meth:`check_values`, which has to wait for an accelerator.

    Parameters
    ----------
    z : Tensor, shape (M, D)
        One sample from each item's posterior. A reparameterised one carries the gradient.
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
    >>> posterior.z.shape
    torch.Size([8, 3])
    """

    z: Tensor
    mu: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        check_tensors(z=self.z, mu=self.mu, logvar=self.logvar)

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
        z : Tensor, shape (M, D), optional
            The sample that the model already drew; by default a new one is drawn.
        generator : torch.Generator, optional
            Source of the noise where z is drawn; None takes torch's global one.

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
        """Return the same posteriors with a newly drawn z, reparameterised.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of the noise, on the device of ``mu``; None takes torch's global one.
            With one of your own, sampling for a log does not change a training run.
        """
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
        dtypes = {self.z.dtype, self.mu.dtype, self.logvar.dtype}
        dtype = reduce(torch.promote_types, dtypes, torch.float32)
        if dtypes == {dtype}:
            return self
        return Posterior(self.z.to(dtype), self.mu.to(dtype), self.logvar.to(dtype))

    def check_values(self) -> None:
        """Refuse values from which no term can be estimated.

        Raises
        ------
        ValueError
            If z, mu or logvar has a value that is not finite, logvar one whose exp(-logvar / 2) is
            not, or z is not a sample but mu itself, as most VAEs give it in eval mode: total
            correlation and mutual information would be wrong by nats.
        """
        check_finite("z", self.z)
        check_finite("mu", self.mu)
        check_logvar(self.in_working_precision().logvar)
        if torch.equal(self.z, self.mu.to(self.z.dtype)) and self._noise_is_visible():
            raise ValueError(
                "z must be a sample from N(mu, exp(logvar)); got z equal to mu, as a VAE in eval "
                "mode returns it. Draw one with Posterior(z, mu, logvar).sample()"
            )

    def _noise_is_visible(self) -> bool:
        """Tell whether a sample in z's dtype can be told from the mean."""
        resolution = torch.finfo(self.z.dtype).eps * self.mu.abs()
        return bool(((0.5 * self.logvar).exp() > resolution).any())
