"""FactorVAE's estimate of total correlation: the density ratio that a discriminator learns."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from tcdecomp._checks import check_finite, checked_int

__all__ = ["DensityRatioTC", "permute_dimensions"]


class DensityRatioTC(nn.Module):
    r"""The total correlation by a discriminator, as in FactorVAE.

    The discriminator learns to tell samples of q(z) from samples of :math:`\prod_j q(z_j)`. The
    latter are z with each dimension permuted across the batch. The discriminator's best logit is
    :math:`\log q(z) - \sum_j \log q(z_j)`, and the mean of this logit over q(z) is the total
    correlation.

    Use it in two steps for each batch. First train the VAE with :meth:`estimate` in its loss. Then
    train the discriminator with :meth:`loss`, by an optimizer of its own. Each step leaves the
    parameters of the other alone.

    z may have another dtype than the discriminator: it is cast to that of the discriminator's
    parameters, and its gradient comes back in its own dtype. Under autocast the discriminator
    runs as every network does. The means of its logits are taken in float32 or more.

    The estimate needs no dataset size and is not biased by the batch size. It is wrong by as much
    as the discriminator is. If the discriminator lags behind the encoder, the estimate is wrong,
    mostly too low. The estimate is not a bound. To measure a total correlation use
    :func:`tcdecomp.decompose_dataset`.

    Parameters
    ----------
    latents : int
        D, the number of latent dimensions.
    width, depth : int
        Units of a hidden layer, and number of hidden layers. The defaults are those of the paper.

    Attributes
    ----------
    discriminator : torch.nn.Module
        Takes z of shape (M, D), returns a logit for each row, of shape (M,) or (M, 1). You may
        put a network of your own in its place.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an int of at least 1.

    References
    ----------
    Kim, Mnih (2018). Disentangling by Factorising. Algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import DensityRatioTC
    >>> _ = torch.manual_seed(0)
    >>> ratio = DensityRatioTC(10, width=64, depth=2)
    >>> optimizer = torch.optim.Adam(ratio.parameters(), lr=1e-4, betas=(0.5, 0.9))
    >>> z, z_other = torch.randn(64, 10, requires_grad=True), torch.randn(64, 10)
    >>> tc = ratio.estimate(z)  # add gamma * tc to the VAE's loss
    >>> tc.backward()
    >>> optimizer.zero_grad()
    >>> ratio.loss(z, z_other).backward()
    >>> optimizer.step()
    """

    def __init__(self, latents: int, *, width: int = 1000, depth: int = 6) -> None:
        super().__init__()
        self.latents = checked_int("latents", latents, 1)
        width, depth = checked_int("width", width, 1), checked_int("depth", depth, 1)
        layers = OrderedDict[str, nn.Module]()
        for index in range(depth):
            layers[f"linear{index}"] = nn.Linear(width if index else self.latents, width)
            layers[f"relu{index}"] = nn.LeakyReLU(0.2)
        layers["logit"] = nn.Linear(width, 1)
        self.discriminator: nn.Module = nn.Sequential(layers)

    def estimate(self, z: Tensor) -> Tensor:
        """Return the estimated total correlation, in nats.

        Its gradient reaches z. It does not reach the discriminator. The discriminator's buffers,
        such as the running means of a batch norm, stay as they are, too. In train mode a batch
        norm still normalizes by this batch.

        Parameters
        ----------
        z : Tensor, shape (M, D)
            A sample of each item's posterior.

        Returns
        -------
        Tensor
            A scalar in the dtype of the discriminator, or float32 if that is a half precision.

        Raises
        ------
        TypeError, ValueError
            If z is not a floating-point tensor of shape (M, D), or if the discriminator does not
            return one logit for each row. On a CPU also if a value is not finite.
        """
        self._check("z", z, 1)
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        frozen |= {name: value.clone() for name, value in self.discriminator.named_buffers()}
        return self._logits(functional_call(self.discriminator, frozen, self._cast(z)), z).mean()

    def loss(self, z: Tensor, z_other: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Return the discriminator's loss. Its gradient reaches the discriminator only.

        Parameters
        ----------
        z : Tensor, shape (M, D)
            Samples of q(z).
        z_other : Tensor, shape (K, D)
            Samples of q(z) from another batch, which are permuted. K is at least 2.
        generator : torch.Generator, optional
            Source of the permutations, on the device of ``z_other``. None takes torch's global one.

        Returns
        -------
        Tensor
            A scalar in the dtype of an estimate: the mean of the two binary cross-entropies. It is
            log 2 for a discriminator that knows nothing.

        Raises
        ------
        TypeError, ValueError
            As :meth:`estimate` does, for both tensors.
        """
        self._check("z", z, 1)
        self._check("z_other", z_other, 2)
        permuted = permute_dimensions(z_other.detach(), generator)
        joint = self._logits(self.discriminator(self._cast(z.detach())), z)
        product = self._logits(self.discriminator(self._cast(permuted)), permuted)
        return 0.5 * (F.softplus(-joint).mean() + F.softplus(product).mean())

    def _check(self, name: str, z: Tensor, rows: int) -> None:
        if not isinstance(z, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(z).__name__}")
        if not z.is_floating_point():
            raise TypeError(f"{name} must have a floating-point dtype; got {z.dtype}")
        if z.dim() != 2 or z.shape[1] != self.latents or len(z) < rows:
            raise ValueError(
                f"{name} must have shape (M, {self.latents}) with M >= {rows}; got {tuple(z.shape)}"
            )
        if z.device.type == "cpu" and not torch.compiler.is_compiling():
            check_finite(name, z.detach())

    def _cast(self, z: Tensor) -> Tensor:
        dtypes = (p.dtype for p in self.discriminator.parameters() if p.is_floating_point())
        return z.to(next(dtypes, z.dtype))

    @staticmethod
    def _logits(output: Tensor, z: Tensor) -> Tensor:
        if output.shape not in ((len(z),), (len(z), 1)):
            raise ValueError(
                "discriminator must return one logit for each row, of shape (M,) or (M, 1); got "
                f"{tuple(output.shape)} for M = {len(z)}"
            )
        return output.flatten().to(torch.promote_types(output.dtype, torch.float32))


def permute_dimensions(z: Tensor, generator: Generator | None = None) -> Tensor:
    """Permute each dimension of z across the batch, independently of the other dimensions.

    The result has the same values in each dimension. The dimensions are independent of each other.

    Parameters
    ----------
    z : Tensor, shape (M, D)
        Samples.
    generator : torch.Generator, optional
        Source of the permutations, on the device of z. None takes torch's global one.

    References
    ----------
    Kim, Mnih (2018). Disentangling by Factorising. Algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp.density_ratio import permute_dimensions
    >>> z = torch.arange(6.0).reshape(3, 2)
    >>> permute_dimensions(z, torch.Generator().manual_seed(0)).sum(dim=0)
    tensor([6., 9.])
    """
    order = torch.rand(z.shape, generator=generator, device=z.device).argsort(dim=0)
    return z.gather(0, order)
