"""The callback that logs the terms and the MIG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Generator

from tcdecomp import Bracket, Posterior, TCDecomposition, encode
from tcdecomp.metrics import mig_scorer
from tcdecomp.plugins import (
    Attachment,
    check_criterion,
    checked_int,
    for_own_rows,
    warn_user,
)
from tcdecomp.scoring import loaders
from tcdecomp_adapters._lightning.step import latest_posterior, left_posterior
from tcdecomp_adapters._lightning.tally import Tally, told_once

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
        test_dataset_size: int | Sequence[int | None] | None = None,
        inputs: loaders.InputsIn = None,
        factors: loaders.FactorsIn = None,
        mig: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if criterion is not None:
            check_criterion(criterion)
        loaders.check_reading(inputs, factors)
        self.criterion = criterion
        self.dataset_size = _checked("dataset_size", dataset_size)
        self.every_n_steps = _checked("every_n_steps", every_n_steps, 0)
        self.sizes = {
            "val": _checked_sizes("val_dataset_size", val_dataset_size),
            "test": _checked_sizes("test_dataset_size", test_dataset_size),
        }
        self.inputs = inputs
        self.factors = factors
        self.mig = _checked_options(mig)
        self.seed = seed
        self._blind = False
        self._told: set[str] = set()
        self._before: Any = None
        self._step = 0
        self._tallies: list[Tally] = []
        self._generator: Generator | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse a run that needs the criterion or the training set's size, and lacks it."""
        if stage != "predict":
            trains = stage == "fit" and self.every_n_steps != 0
            self._check_needs(pl_module, ["criterion", *["dataset_size"] * trains])
            check_criterion(self._criterion(pl_module), "Lightning")
            if trains:
                self._size(pl_module)
        self._blind, self._told = False, set()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember what was there before the step."""
        self._before = latest_posterior(pl_module)
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
        criterion = self._criterion(pl_module)
        tally = Tally(trainer.world_size, self._size(pl_module))
        if (rows := len(posterior.mu)) > 1:  # one row says nothing about q(z)
            moments = posterior.z, posterior.mu, posterior.logvar
            tally.add_terms(criterion.decompose(*moments, tally.size), rows)
        pl_module.log_dict(_prefixed("train/", tally.means()), on_step=True, on_epoch=False)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start anew, with the same noise as at every validation."""
        self._start(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start anew."""
        self._start(trainer, pl_module, "test")

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember what was there before the step."""
        self._before = latest_posterior(pl_module)

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
            posterior = self._encoded(pl_module, batch)
        else:
            posterior = left.sample(generator=self._generator)
        if posterior is None:
            return
        tally, rows = self._tallies[dataloader_idx], len(posterior.mu)
        if rows > 1:
            self._add(tally, pl_module, posterior)
        factors = loaders.factors_of(batch, self.factors, rows=rows)
        if factors is not None:
            tally.add_codes(posterior.mu.float(), factors)

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what the pass adds up to, the same in every process."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what the pass adds up to, the same in every process."""
        self._log(trainer, pl_module, "test")

    def _start(self, trainer: Any, module: Any, stage: str) -> None:
        loop = getattr(trainer, f"{trainer.state.fn.value}_loop")
        if loop is trainer.fit_loop:
            loop = loop.epoch_loop.val_loop
        criterion = self._criterion(module)
        options: Any = {name: getattr(criterion, name) for name in ("prior", "kl", "kernel")}
        # Not trainer.val_dataloaders, which in trainer.validate are those of an earlier fit.
        evaluated = list(loop._combined_loader.flattened)
        self._tallies = [
            Tally(trainer.world_size, size, loaders.rows_of(loader), Bracket(**options))
            for loader, size in zip(evaluated, self._sizes(evaluated, stage), strict=True)
        ]
        # Processes hold different items, and are to draw different noise.
        self._generator = Generator(module.device).manual_seed(self.seed + trainer.global_rank)

    def _add(self, tally: Tally, module: Any, posterior: Posterior) -> None:
        batch = posterior.z, posterior.mu, posterior.logvar
        criterion = self._criterion(module)
        terms = tally.bracket.update(*batch, tally.size)
        if criterion.estimator != "mss":
            terms = criterion.decompose(*batch, tally.size)
        tally.add_terms(terms, len(posterior.mu))

    def _log(self, trainer: Any, module: Any, stage: str) -> None:
        for index, tally in enumerate(self._tallies):
            prefix = f"{stage}/" if len(self._tallies) == 1 else f"{stage}/{index}/"
            values = tally.means() | tally.interval_ends()
            if not (trainer.sanity_checking or trainer.fast_dev_run):
                with told_once(self._told):
                    values |= tally.mig(self.mig, found=self.factors is None)
            module.log_dict(_prefixed(prefix, values), sync_dist=True)
        self._tallies, self._generator = [], None

    def _encoded(self, module: Any, batch: Any) -> Posterior | None:
        """Encode without a trace in torch's global generators, from which the model may draw.

        A model that cannot encode what it gets is warned of once: it may train without.
        """
        if self._blind:
            return None
        devices = [module.device] if module.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                inputs = loaders.inputs_of(batch, self.inputs)
                return encode(module, inputs, generator=self._generator)
        except Exception as error:  # of the user's own encode, which training does without
            self._blind = True
            warn_user(
                f"TCMonitor logs no terms outside training, since {type(module).__name__} cannot "
                f"encode a batch ({type(error).__name__}: {error}). A batch is "
                f"{loaders.described(batch)}. By default the model gets the first entry of a "
                "sequence; inputs= says what else it gets, as in inputs=lambda batch: batch or "
                'inputs="image". Or leave self.posterior in validation_step'
            )
            return None

    def _criterion(self, module: Any) -> TCDecomposition:
        """Return the criterion for the rows of this process: another may have none to log."""
        return for_own_rows(self._found("criterion", module))

    def _size(self, module: Any) -> int:
        """Return N of the training set."""
        return checked_int("dataset_size", self._found("dataset_size", module), 1)

    def _found(self, name: str, module: Any) -> Any:
        """Return the monitor's own, or that of the attachment or the module, or else None."""
        kind: Any = {"criterion": TCDecomposition, "dataset_size": SupportsIndex}[name]
        owners = (self, Attachment.of(module), module)
        found = (getattr(owner, name, None) for owner in owners)
        return next((value for value in found if isinstance(value, kind)), None)

    def _check_needs(self, module: Any, names: list[str]) -> None:
        """Refuse a module for which these are not known, in one error for all."""
        missing = [name for name in names if self._found(name, module) is None]
        if not missing:
            return
        options = {"criterion": "TCDecomposition()", "dataset_size": "dataset_size=len(data)"}
        given = ", ".join(options[name] for name in missing)
        leaves = "dataset_size" in names and Attachment.of(module) is None
        raise ValueError(
            f"TCMonitor must be given {' and '.join(missing)}, as in TCMonitor({given}), unless "
            f"the module has attributes of these names or an attachment; {type(module).__name__} "
            "has neither"
            + ". Its training_step must also set self.posterior = (z, mu, logvar)"
            * leaves
        )

    def _sizes(self, evaluated: list[Any], stage: str) -> list[int]:
        """Return the N of each loader."""
        given, name = self.sizes[stage], f"{stage}_dataset_size"
        sizes = given if isinstance(given, list) else [given] * len(evaluated)
        if len(sizes) != len(evaluated):
            raise ValueError(
                f"{name} must have an entry for each of the {len(evaluated)} loaders; "
                f"got {len(sizes)}"
            )
        return [
            _known_size(loader, name, index) if size is None else size
            for index, (loader, size) in enumerate(zip(evaluated, sizes, strict=True))
        ]


def _known_size(loader: Any, name: str, index: int) -> int:
    size = loaders.size_of(loader)
    if size is None:
        raise ValueError(
            f"{name} must be given to TCMonitor, the number of items that the batches are drawn "
            f"from: loader {index}, a {type(loader).__name__}, does not tell it for certain"
        )
    return size


def _checked(name: str, value: Any, low: int = 1) -> int | None:
    return None if value is None else checked_int(name, value, low)


def _checked_sizes(name: str, given: Any) -> int | list[int | None] | None:
    if isinstance(given, list | tuple):
        return [_checked(name, size) for size in given]
    return _checked(name, given)


def _checked_options(mig: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        options = dict(mig or {})
        mig_scorer(**options)
    except TypeError as error:
        raise TypeError(f"mig must be a mapping of options of mig_score: {error}") from error
    return options


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in values.items()}
