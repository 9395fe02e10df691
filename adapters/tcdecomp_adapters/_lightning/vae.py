"""A VAE that is ready to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tcdecomp import DensityRatioTC, Posterior, TCDecomposition
from tcdecomp.plugins import as_posterior, check_criterion, checked_int
from tcdecomp_adapters._lightning.step import doubt_size

__all__ = ["TCVAEMixin"]


def _bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum")


def _gaussian(mean: Tensor, x: Tensor) -> Tensor:
    return F.gaussian_nll_loss(mean, x, torch.ones_like(mean), full=True, reduction="sum")


_NEGATIVE_LOG_LIKELIHOODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bernoulli": _bernoulli,
    "gaussian": _gaussian,
}


class TCVAEMixin(nn.Module):
    """What makes a LightningModule a VAE; see :class:`tcdecomp_adapters.lightning.TCVAE`."""

    trainer: Any
    log_dict: Callable[..., Any]
    optimizers: Callable[..., Any]
    manual_backward: Callable[..., Any]
    automatic_optimization: bool
    save_hyperparameters: Callable[..., Any]

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        criterion: TCDecomposition,
        dataset_size: int,
        likelihood: str = "bernoulli",
        lr: float = 1e-3,
        *,
        density_ratio: DensityRatioTC | None = None,
        density_ratio_lr: float = 1e-4,
    ) -> None:
        super().__init__()
        check_criterion(criterion, "Lightning")
        if likelihood not in _NEGATIVE_LOG_LIKELIHOODS:
            names = ", ".join(map(repr, _NEGATIVE_LOG_LIKELIHOODS))
            raise ValueError(f"likelihood must be one of {names}; got {likelihood!r}")
        if density_ratio is not None and not isinstance(density_ratio, DensityRatioTC):
            got = type(density_ratio).__name__
            raise TypeError(f"density_ratio must be a DensityRatioTC or None; got {got}")
        self.encoder = encoder
        self.decoder = decoder
        self.criterion = criterion
        self.dataset_size = checked_int("dataset_size", dataset_size, 1)
        self.likelihood = likelihood
        self.lr = float(lr)
        self.density_ratio = density_ratio
        self.density_ratio_lr = float(density_ratio_lr)
        self.automatic_optimization = density_ratio is None  # two optimizers take turns otherwise
        self.posterior: Posterior | None = None
        self._looked = False
        # Numbers and names only: torch loads a checkpoint with anything else only if told to.
        saved = ("dataset_size", "likelihood", "lr")
        self.save_hyperparameters({name: getattr(self, name) for name in saved})

    def encode(self, batch: Any, *, generator: Generator | None = None) -> Posterior:
        """Return the posteriors of a batch: x, or a sequence whose first entry is x."""
        answer = self.encoder(_images(batch))
        return as_posterior(answer, type(self.encoder).__name__, generator=generator)

    def reconstruction_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) in nats, summed over an item's entries, averaged over items."""
        output = self.decoder(z)
        if output.shape != x.shape:
            raise ValueError(
                f"decoder must return the shape of x, {tuple(x.shape)}; got {tuple(output.shape)}"
            )
        if not self._looked and not torch.compiler.is_compiling():  # in one batch, for the time
            self._looked = True
            _check_range(self.likelihood, x)
        return _NEGATIVE_LOG_LIKELIHOODS[self.likelihood](output, x) / len(x)

    def on_train_start(self) -> None:
        """Warn if the training loader has another number of items than ``dataset_size``."""
        doubt_size(self, self.dataset_size)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Return reconstruction loss plus criterion, and leave the posterior, detached.

        With a density ratio the step trains both networks itself, and returns None.
        """
        if self.density_ratio is None:
            return self._loss(_images(batch), self.encode(batch))
        x, x_other = self._halves(_images(batch))
        posterior = self.encode(x)
        for_vae, for_ratio = self.optimizers()
        self._optimize(for_vae, self._loss(x, posterior))
        with torch.no_grad():
            z_other = self.encode(x_other).z
        loss = self.density_ratio.loss(posterior.z, z_other)
        self._optimize(for_ratio, loss)
        self.log_dict({"train/discriminator": loss}, batch_size=len(x))
        return None

    def _loss(self, x: Tensor, posterior: Posterior) -> Tensor:
        reconstruction = self._reconstruction(posterior, x)
        with _one_batch(self.criterion, self._processes_hold_one_batch()):
            loss = reconstruction + self._penalty(posterior)
        self.posterior = posterior.detach()
        self.log_dict(
            {"train/loss": loss, "train/reconstruction": reconstruction}, batch_size=len(x)
        )
        return loss

    def _penalty(self, posterior: Posterior) -> Tensor:
        if self.density_ratio is None:
            penalty: Tensor = self.criterion(*posterior, self.dataset_size)
            return penalty
        z, mu, logvar = posterior
        terms = self.criterion.decompose(z, mu, logvar, self.dataset_size)
        estimate = self.density_ratio.estimate(z)
        return self.criterion.weigh(terms._replace(total_correlation=estimate))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._processes_hold_one_batch():
            raise ValueError(
                "density_ratio serves one process; got a trainer of "
                f"{self.trainer.world_size}. Train with devices=1, or without density_ratio"
            )
        if len(x) < 4:
            raise ValueError(
                "density_ratio needs batches of at least 4 items, two halves of 2; got "
                f"{len(x)}. Give the DataLoader drop_last=True"
            )
        return x[: len(x) // 2], x[len(x) // 2 :]

    def _optimize(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the reconstruction loss, and with the plain KL the negative ELBO."""
        x = _images(batch)
        generator = Generator(x.device).manual_seed(batch_idx)
        posterior = self.encode(batch, generator=generator)
        reconstruction = self._reconstruction(posterior, x)
        loss = reconstruction + self._kl(posterior)
        self.posterior = posterior.detach()
        self.log_dict(
            {"val/loss": loss, "val/reconstruction": reconstruction},
            batch_size=len(x),
            sync_dist=True,
        )

    def configure_optimizers(self) -> Any:
        """Return Adam over all parameters, a learned prior's among them.

        A density ratio's parameters have an Adam of their own, with the betas of its paper.
        """
        adam = torch.optim.Adam
        if self.density_ratio is None:
            return adam(self.parameters(), lr=self.lr)
        theirs = list(self.density_ratio.parameters())
        own = [parameter for parameter in self.parameters() if parameter not in set(theirs)]
        for_ratio = adam(theirs, lr=self.density_ratio_lr, betas=(0.5, 0.9))
        return [adam(own, lr=self.lr), for_ratio]

    def _processes_hold_one_batch(self) -> bool:
        """Tell whether every process of the trainer has other rows of one batch."""
        try:
            trainer = self.trainer
        except RuntimeError:  # there is none: the step is called by hand
            return False
        # Processes that share a model's parts hold the same rows, and are not replicas.
        replicas = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
        return bool(trainer.world_size > 1 and replicas == trainer.world_size)

    def _reconstruction(self, posterior: Posterior, x: Tensor) -> Tensor:
        # A half-precision encoder's z is drawn in float32, which its decoder does not take.
        return self.reconstruction_loss(posterior.z.to(posterior.mu.dtype), x)

    def _kl(self, posterior: Posterior) -> Tensor:
        plain = TCDecomposition(prior=self.criterion.prior, kl=self.criterion.kl, validate=False)
        kl: Tensor = plain(*posterior, len(posterior.mu))
        return kl


@contextmanager
def _one_batch(criterion: TCDecomposition, together: bool) -> Iterator[None]:
    """Let the criterion take the rows of all processes for one batch, if it has no group."""
    before = criterion.process_group
    if together and before is None:
        criterion.process_group = "world"
    try:
        yield
    finally:
        criterion.process_group = before


def _check_range(likelihood: str, x: Tensor) -> None:
    low, high = (end.item() for end in x.aminmax())
    if likelihood == "bernoulli" and not 0 <= low <= high <= 1:
        raise ValueError(
            'x must lie between 0 and 1 with likelihood="bernoulli"; got values from '
            f'{low:.4g} to {high:.4g}. Scale x, or pass likelihood="gaussian"'
        )


def _images(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, Sequence) and batch else batch
    if not isinstance(x, Tensor):
        raise TypeError(
            f"batch must be a Tensor x, or a sequence that starts with it; got {type(x).__name__}"
        )
    return x
