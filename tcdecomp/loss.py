"""The loss that replaces the KL term."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import Tensor, nn

from tcdecomp._processes import Group, check_group
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.batch import KL, Batch, Reduction, check_options
from tcdecomp.minibatch.conditional import DatasetSize, evaluate
from tcdecomp.minibatch.estimators import Estimator, resolve
from tcdecomp.priors import Prior, check_prior
from tcdecomp.terms import Terms

__all__ = ["TCDecomposition"]


class TCDecomposition(nn.Module):
    r"""The KL term of a VAE with a weight on each of its three parts.

    .. math::

        \gamma\,\mathrm{KL} + (\alpha - \gamma)\,\mathrm{MI} + (\beta - \gamma)\,\mathrm{TC}

    with the KL in closed form: in expectation, and in its gradient for a reparameterised z, it is
    :math:`\alpha\,\mathrm{MI} + \beta\,\mathrm{TC} + \gamma\,\mathrm{DWKL}`. With equal weights
    it is the ordinary KL of a (beta-)VAE to the last bit, and nothing is estimated.

    Parameters
    ----------
    alpha, beta, gamma : float
        Weights of index-code MI, total correlation and dimension-wise KL. beta-TCVAE:
        ``beta > 1`` alone. A negative alpha rewards mutual information; beta and gamma are at
        least 0. They are plain attributes, which a schedule may set at any step: to floats where
        the module is compiled, since torch.compile compiles it anew for each int.
    estimator : {"mss", "mss-jackknife", "mws", "inclusive"} or callable
        How a batch stands for the data set; see :mod:`tcdecomp.minibatch.estimators`.
    kl : {"closed", "sampled"}
        "sampled" puts the samples' KL in place of the closed form, for priors that have none.
    prior : Distribution or callable, optional
        A factorised prior, or a callable (an ``nn.Module``, for a learned one) that returns it;
        None is the standard normal.
    reduction : {"mean", "sum", "none"}
        Over the items of the batch.
    process_group : ProcessGroup or "world", optional
        Processes whose rows are one batch; see :func:`tcdecomp.decompose`. With equal weights
        nothing is estimated, and each process returns the mean over its own rows without asking
        the others. A module with a ProcessGroup cannot be copied or pickled, with "world" it can.
    validate : bool, optional
        Whether each call looks for values that are not finite, for z equal to mu, and for items
        that are there twice. None does so on the CPU only: on an accelerator the look would stall
        every step. Under ``torch.compile`` there is none.
    kernel : {"auto", "dense", "blocked", "triton"}
        As in :func:`tcdecomp.decompose`. With reduction "mean", "auto" needs O(M D) memory at any
        size. Nested transforms of torch.func need "dense", and vmap needs ``validate=False``. A
        bank with items and a process group break torch.compile's graph: not with
        ``fullgraph=True``.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type, or out of its range.

    Shape
    -----
    z, mu, logvar
        (M, D), floating point, on one device. Half precision is raised to float32.
    loss
        Scalar, or (M,) with ``reduction="none"``; nats per item with "mean".

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in VAEs. Eq. 2 and
    section 4.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import TCDecomposition
    >>> criterion = TCDecomposition(beta=6)
    >>> mu, logvar = torch.randn(64, 10), torch.zeros(64, 10)
    >>> z = mu + (0.5 * logvar).exp() * torch.randn(64, 10)
    >>> loss = criterion(z, mu, logvar, 10_000)
    >>> loss.shape
    torch.Size([])
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        estimator: str | Estimator = "mss",
        kl: KL = "closed",
        prior: Prior = None,
        reduction: Reduction = "mean",
        process_group: Group = None,
        validate: bool | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        check_options(kl, reduction, kernel)
        check_prior(prior)
        check_group(process_group)
        resolve(estimator)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self._checked_weights()
        self.estimator = estimator
        self.kl = kl
        self.prior = prior
        self.reduction = reduction
        self.process_group = process_group
        self.validate = validate
        self.kernel = kernel

    def forward(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: DatasetSize,
        *,
        items: Tensor | None = None,
        bank: PosteriorBank | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted KL term of one batch, in nats.

        Parameters
        ----------
        z, mu, logvar : Tensor, shape (M, D)
            A sample from each item's posterior N(mu, exp(logvar)), its mean and log-variance.
        dataset_size : int, or mapping of labels to ints
            N, the number of items of the data set that this batch was drawn from.
        items, bank, condition : optional
            As in :func:`tcdecomp.decompose`.

        Raises
        ------
        TypeError, ValueError
            As :func:`tcdecomp.decompose` does, whatever the weights are.
        """
        weights = self._checked_weights()
        return self._weighted_kl(
            weights, z, mu, logvar, dataset_size, items=items, bank=bank, condition=condition
        )

    def decompose(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: DatasetSize,
        *,
        items: Tensor | None = None,
        bank: PosteriorBank | None = None,
        condition: Tensor | None = None,
    ) -> Terms:
        """Return the terms that :meth:`forward` weighs, estimated with this module's options.

        Parameters, errors and result are those of :func:`tcdecomp.decompose`.
        """
        data = {"items": items, "bank": bank, "condition": condition, **self._options(z)}
        return evaluate(Batch.terms, z, mu, logvar, dataset_size, **data)

    def weigh(self, terms: Terms) -> Tensor:
        """Return the loss from terms that are already there, in their shape.

        Parameters
        ----------
        terms : Terms
            As :meth:`decompose` returned them, with their graph if the loss is to be trained.
        """
        return terms.weigh(*self._checked_weights())

    def excess(self, terms: Terms) -> Tensor:
        """Return the loss less the plain KL: what a framework that adds its own KL lacks.

        Times the framework's own weight on its KL, where it has one.

        Parameters
        ----------
        terms : Terms
            As :meth:`decompose` returned them.
        """
        alpha, beta, gamma = self._checked_weights()
        return terms.weigh(alpha - 1, beta - 1, gamma - 1)

    def excess_of(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: DatasetSize,
        *,
        items: Tensor | None = None,
        bank: PosteriorBank | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return ``excess(decompose(...))`` of one batch, at the cost of :meth:`forward`.

        Parameters, errors and result are those of :meth:`forward`. With weights of 1 it is 0.
        """
        alpha, beta, gamma = self._checked_weights()
        weights = alpha - 1, beta - 1, gamma - 1
        return self._weighted_kl(
            weights, z, mu, logvar, dataset_size, items=items, bank=bank, condition=condition
        )

    def extra_repr(self) -> str:
        """Return the options that a printed module shows."""
        names = ("alpha", "beta", "gamma", "estimator", "kl", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _weighted_kl(
        self,
        weights: tuple[float, float, float],
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: DatasetSize,
        **data: Any,
    ) -> Tensor:
        alpha, beta, gamma = weights
        options = {**data, **self._options(z), "estimates": not alpha == beta == gamma}
        return evaluate(
            lambda batch: batch.weighted_kl(*weights), z, mu, logvar, dataset_size, **options
        )

    def _options(self, z: Tensor) -> dict[str, Any]:
        validate = self.validate
        if validate is None:
            validate = isinstance(z, Tensor) and z.device.type == "cpu"
        return {
            "estimator": self.estimator,
            "prior": self.prior,
            "kl": self.kl,
            "reduction": self.reduction,
            "process_group": self.process_group,
            "validate": validate,
            "kernel": self.kernel,
        }

    def _checked_weights(self) -> tuple[float, float, float]:
        for name, low in (("alpha", -math.inf), ("beta", 0), ("gamma", 0)):
            weight = getattr(self, name)
            if isinstance(weight, bool) or not isinstance(weight, Real):
                raise TypeError(f"{name} must be a number; got {type(weight).__name__}")
            if not (-math.inf < float(weight) < math.inf and float(weight) >= low):
                expected = "finite" if name == "alpha" else "finite and at least 0"
                raise ValueError(f"{name} must be {expected}; got {weight}")
        return self.alpha, self.beta, self.gamma
