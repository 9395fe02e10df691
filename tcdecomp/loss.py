"""The loss that replaces the KL term."""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from tcdecomp._checks import WarnOnce, doubting
from tcdecomp._evidence import doubt_of_gradient
from tcdecomp._processes import Group
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.batch import Batch
from tcdecomp.minibatch.conditional import DatasetSize
from tcdecomp.minibatch.estimators import Weights
from tcdecomp.minibatch.options import KL, Options, Reduction
from tcdecomp.priors import Prior
from tcdecomp.terms import Terms

__all__ = ["TCDecomposition"]

_DEFAULTS = {field.name: field.default for field in fields(Options)} | {"validate": None}


class TCDecomposition(nn.Module):
    r"""The KL term of a VAE with a weight on each of its three parts.

    .. math::

        \gamma\,\mathrm{KL} + (\alpha - \gamma)\,\mathrm{MI} + (\beta - \gamma)\,\mathrm{TC}

    with the KL in closed form. In expectation this is
    :math:`\alpha\,\mathrm{MI} + \beta\,\mathrm{TC} + \gamma\,\mathrm{DWKL}`, and so is its
    gradient for a reparameterised z. With equal weights it is the ordinary KL of a (beta-)VAE to
    the last bit, and nothing is estimated.

    Parameters
    ----------
    alpha, beta, gamma : float
        Weights of index-code MI, total correlation and dimension-wise KL. beta-TCVAE:
        ``beta > 1`` alone. A negative alpha rewards mutual information; beta and gamma are at
        least 0. The weights are plain attributes, which a schedule may set at any step. In a
        compiled module set them to floats: torch.compile compiles anew for each int.
    estimator : {"mss", "mss-jackknife", "mws", "inclusive"} or callable
        How a batch stands for the data set; see :mod:`tcdecomp.minibatch.estimators`.
    kl : {"closed", "sampled"}
        "sampled" puts the samples' KL in place of the closed form, for priors that have none.
    prior : Distribution or callable, optional
        As in :func:`tcdecomp.decompose`; a learned prior is an ``nn.Module``. None is the standard
        normal.
    reduction : {"mean", "sum", "none"}
        Over the items of the batch.
    process_group : ProcessGroup or "world", optional
        Processes whose rows are one batch; see :func:`tcdecomp.decompose`. With equal weights the
        processes do not communicate: each returns the mean over its own rows. A module with a
        ProcessGroup cannot be copied or pickled, with "world" it can.
    validate : bool, optional
        Whether each call looks at values; see :func:`tcdecomp.decompose`. None looks on the CPU
        only: on an accelerator the look would stall every step. Under ``torch.compile`` there is
        no look. Doubts are looked for in the first 10 calls and in every 1000th, and each kind is
        warned of once.
    kernel : {"auto", "dense", "blocked", "linear", "triton"}
        As in :func:`tcdecomp.decompose`. Nested transforms of torch.func need "dense", and vmap
        needs ``validate=False``. A bank, items and a process group break torch.compile's graph:
        not with ``fullgraph=True``.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type, or out of its range.

    Shape
    -----
    z
        (M, D), floating point; or (K, M, D), K samples of each item, over which the loss is the
        mean. Half precision is raised to float32.
    mu, logvar
        (M, D), on the device of z.
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
        estimator: str | Weights = "mss",
        kl: KL = "closed",
        prior: Prior = None,
        reduction: Reduction = "mean",
        process_group: Group = None,
        validate: bool | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self._checked_weights()
        self.estimator = estimator
        self.kl = kl
        self.prior = prior
        self.reduction = reduction
        self.process_group = process_group
        self.validate = validate
        self.kernel = kernel
        self._given: tuple[Any, ...] = ()
        self.options  # noqa: B018 (raises for a wrong option)
        self._doubt = WarnOnce()

    @property
    def options(self) -> Options:
        """The options of its estimates, as its attributes hold them now."""
        kind = self.estimator, self.prior, self.kl, self.reduction
        given = *kind, self.process_group, self.validate, self.kernel
        if given != self._given:
            self._options, self._given = Options(*given), given
        return self._options

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
        return self._weighted_kl(weights, z, mu, logvar, dataset_size, items, bank, condition)

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

        Parameters, result and errors are those of :func:`tcdecomp.decompose`, with values checked
        where this module's ``validate`` says so.
        """
        return self._batch(z, mu, logvar, dataset_size, items, bank, condition).terms()

    def weigh(self, terms: Terms) -> Tensor:
        """Return the loss from terms that are already there, in their shape.

        Parameters
        ----------
        terms : Terms
            As :meth:`decompose` returned them, with their graph if the loss is to be trained.
        """
        return terms.weigh(*self._checked_weights())

    def excess(self, terms: Terms) -> Tensor:
        """Return the loss minus the plain KL: add it to a loss that already contains the KL.

        If that loss multiplies its KL by a weight, multiply the excess by it, too.

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
        return self._weighted_kl(weights, z, mu, logvar, dataset_size, items, bank, condition)

    def extra_repr(self) -> str:
        """Return the weights and the options that are not the default's."""
        shown = {name: getattr(self, name) for name in ("alpha", "beta", "gamma")}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            # A learned prior is a submodule, which a printed module shows anyway.
            if value is not default and value != default and not isinstance(value, nn.Module):
                shown[name] = value
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def _weighted_kl(self, weights: tuple[float, float, float], *batch: Any) -> Tensor:
        alpha, beta, gamma = weights
        estimates = not alpha == beta == gamma
        made = self._batch(*batch, estimates=estimates)
        if estimates and not torch.compiler.is_compiling() and doubting():
            self._doubt("gradient", doubt_of_gradient(made.posterior))
        return made.weighted_kl(*weights)

    def _batch(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: DatasetSize,
        items: Tensor | None,
        bank: PosteriorBank | None,
        condition: Tensor | None,
        *,
        estimates: bool = True,
    ) -> Batch:
        options = self.options
        seek = options.looks_at(z) and doubting() and self._doubt.is_due()
        return Batch(
            z,
            mu,
            logvar,
            dataset_size,
            options,
            items=items,
            bank=bank,
            condition=condition,
            doubt=self._doubt,
            seek=seek,
            estimates=estimates,
        )

    def _checked_weights(self) -> tuple[float, float, float]:
        for name, low in (("alpha", -math.inf), ("beta", 0), ("gamma", 0)):
            weight = getattr(self, name)
            if isinstance(weight, bool) or not isinstance(weight, Real):
                raise TypeError(f"{name} must be a number; got {type(weight).__name__}")
            if not (-math.inf < float(weight) < math.inf and float(weight) >= low):
                expected = "finite" if name == "alpha" else "finite and at least 0"
                raise ValueError(f"{name} must be {expected}; got {weight}")
        return self.alpha, self.beta, self.gamma
