"""The callback that logs the terms and the MIG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Generator

from tcdecomp import Bracket, NoAdapterError, Posterior, TCDecomposition, encode
from tcdecomp.plugins import Attachment, check_criterion, checked_int, for_own_rows
from tcdecomp.scoring import loaders
from tcdecomp_adapters._lightning.step import criterion_of, left_posterior
from tcdecomp_adapters._lightning.tally import Tally

__all__ = ["TCMonitorMixin"]


class TCMonitorMixin:
    """What makes a Callback a monitor; see :class:`tcdecomp_adapters.lightning.TCMonitor`."""

    def __init__(
        self,
        criterion: TCDecomposition | None = None,
        dataset_size: int | None = None,
        *,
        every_n_steps: int | None = None,
        val_dataset_size: int | Sequence[int | None] | None = None,
        factors: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if criterion is not None and not isinstance(criterion, TCDecomposition):
            raise TypeError(f"criterion must be a TCDecomposition; got {type(criterion).__name__}")
        self.criterion = criterion
        self.dataset_size = _checked("dataset_size", dataset_size)
        self.every_n_steps = _checked("every_n_steps", every_n_steps, 0)
        self.val_dataset_size = (
            [_checked("val_dataset_size", size) for size in val_dataset_size]
            if isinstance(val_dataset_size, list | tuple)
            else _checked("val_dataset_size", val_dataset_size)
        )
        self.factors = factors
        self.seed = seed
        self._before: Any = None
        self._loaders: list[Any] = []
        self._sizes: list[int] = []
        self._tallies: list[Tally] = []
        self._generator: Generator | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse a run that needs the criterion or the training set's size, and lacks it."""
        if stage in ("fit", "validate"):
            check_criterion(self._criterion(pl_module), "Lightning")
        if stage == "fit" and self.every_n_steps != 0:
            self._size(pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember what was there before the step."""
        self._before = getattr(pl_module, "posterior", None)
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the terms of the step's own posterior, every so many steps."""
        every = self.every_n_steps
        if every is None:
            every = trainer.log_every_n_steps
        before, self._before = self._before, None
        if not every or trainer.global_step // every == self._step // every:
            return
        posterior = left_posterior(pl_module, before)
        if posterior is None:
            if pl_module.automatic_optimization and not outputs:
                return  # the step was skipped
            raise ValueError(
                f"{type(pl_module).__name__}.training_step must leave its posterior for TCMonitor: "
                "set self.posterior = (z, mu, logvar), or a Posterior, anew in every step, or "
                "turn the training terms off with every_n_steps=0"
            )
        tally, criterion = Tally(trainer.world_size), self._criterion(pl_module)
        if len(posterior.mu) > 1:  # one row says nothing about q(z)
            moments = posterior.z, posterior.mu, posterior.logvar
            tally.add_terms(criterion.decompose(*moments, self._size(pl_module)), len(posterior.mu))
        pl_module.log_dict(_prefixed("train/", tally.means()), on_step=True, on_epoch=False)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start anew, with the same noise as at every validation."""
        self._loaders = _validation_loaders(trainer)
        self._sizes = self._val_sizes(self._loaders)
        criterion = self._criterion(pl_module)
        options: Any = {name: getattr(criterion, name) for name in ("prior", "kl", "kernel")}
        self._tallies = [Tally(trainer.world_size, Bracket(**options)) for _ in self._sizes]
        # Processes hold different items, and are to draw different noise.
        self._generator = Generator(pl_module.device).manual_seed(self.seed + trainer.global_rank)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember what was there before the step."""
        self._before = getattr(pl_module, "posterior", None)

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch's terms, with a z of the monitor's own, and its codes and factors."""
        left, self._before = left_posterior(pl_module, self._before), None
        if left is None:
            posterior = _encode_aside(pl_module, batch, self._generator)
        else:
            posterior = left.sample(generator=self._generator)
        tally = self._tallies[dataloader_idx]
        if len(posterior.mu) > 1:
            self._add(tally, pl_module, posterior, self._sizes[dataloader_idx])
        factors = loaders.factors_of(batch, self.factors, rows=len(posterior.mu))
        if factors is not None:
            tally.add_codes(posterior.mu.float(), factors)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what the pass adds up to, the same in every process."""
        for index, (loader, tally) in enumerate(zip(self._loaders, self._tallies, strict=True)):
            prefix = "val/" if len(self._tallies) == 1 else f"val/{index}/"
            values = tally.means() | tally.interval_ends()
            if not (trainer.sanity_checking or trainer.fast_dev_run):
                values |= tally.mig(loaders.rows_of(loader), skip_constant=self.factors is None)
            pl_module.log_dict(_prefixed(prefix, values), sync_dist=True)
        self._loaders, self._sizes, self._tallies, self._generator = [], [], [], None

    def _add(self, tally: Tally, module: Any, posterior: Posterior, size: int) -> None:
        batch = posterior.z, posterior.mu, posterior.logvar
        criterion = self._criterion(module)
        terms = tally.bracket.update(*batch, size)
        if criterion.estimator != "mss":
            terms = criterion.decompose(*batch, size)
        tally.add_terms(terms, len(posterior.mu))

    def _criterion(self, module: Any) -> TCDecomposition:
        """Return the criterion for the rows of this process: another may have none to log."""
        criterion = criterion_of(module) if self.criterion is None else self.criterion
        if criterion is None:
            raise self._missing("criterion", "TCDecomposition", module)
        return for_own_rows(criterion)

    def _size(self, module: Any) -> int:
        """Return N of the training set: the monitor's own, the attachment's or the module's."""
        for owner in (self, Attachment.of(module), module):
            if isinstance(size := getattr(owner, "dataset_size", None), SupportsIndex):
                return checked_int("dataset_size", size, 1)
        raise self._missing("dataset_size", "int", module)

    def _missing(self, name: str, kind: str, module: Any) -> ValueError:
        return ValueError(
            f"TCMonitor must be given {name}, unless the module has an attribute of that name "
            f"({kind}) or an attachment; {type(module).__name__} has neither"
        )

    def _val_sizes(self, validation: list[Any]) -> list[int]:
        given = self.val_dataset_size
        sizes = given if isinstance(given, list) else [given] * len(validation)
        if len(sizes) != len(validation):
            raise ValueError(
                f"val_dataset_size must have an entry for each of the {len(validation)} validation "
                f"loaders; got {len(sizes)}"
            )
        return [
            _known_size(loader, index) if size is None else size
            for index, (loader, size) in enumerate(zip(validation, sizes, strict=True))
        ]


def _checked(name: str, value: Any, low: int = 1) -> int | None:
    return None if value is None else checked_int(name, value, low)


def _validation_loaders(trainer: Any) -> list[Any]:
    """Return the loaders of the validation that is running, in their order.

    Not ``trainer.val_dataloaders``, which in ``trainer.validate`` are those of an earlier fit.
    """
    standalone = trainer.state.fn == "validate"
    loop = trainer.validate_loop if standalone else trainer.fit_loop.epoch_loop.val_loop
    return list(loop._combined_loader.flattened)


def _known_size(loader: Any, index: int) -> int:
    size = loaders.size_of(loader)
    if size is None:
        raise ValueError(
            "val_dataset_size must be given to TCMonitor, the number of items that validation "
            f"batches are drawn from: loader {index}, a {type(loader).__name__}, does not tell it "
            "for certain"
        )
    return size


def _encode_aside(module: Any, batch: Any, generator: Generator | None) -> Posterior:
    """Encode without a trace in torch's global generators, from which the model may draw."""
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            return encode(module, batch, generator=generator)
    except NoAdapterError as error:
        raise NoAdapterError(
            f"TCMonitor takes the posterior from self.posterior, where validation_step leaves it, "
            f"or else from encode: {error}"
        ) from error


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in values.items()}
