"""The adapter of ``pytorch_lightning``: as :mod:`tcdecomp_adapters.lightning`, under its name."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule

from tcdecomp import TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment
from tcdecomp_adapters._lightning.monitor import TCMonitorMixin
from tcdecomp_adapters._lightning.schedule import TCScheduleMixin
from tcdecomp_adapters._lightning.step import attach_to_step
from tcdecomp_adapters._lightning.vae import TCVAEMixin

__all__ = ["TCVAE", "TCMonitor", "TCSchedule", "tcdecomp_attach"]


class TCVAE(TCVAEMixin, LightningModule):
    """The same as :class:`tcdecomp_adapters.lightning.TCVAE`."""


class TCMonitor(TCMonitorMixin, Callback):
    """The same as :class:`tcdecomp_adapters.lightning.TCMonitor`."""


class TCSchedule(TCScheduleMixin, Callback):
    """The same as :class:`tcdecomp_adapters.lightning.TCSchedule`."""


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Attach as :func:`tcdecomp_adapters.lightning.tcdecomp_attach` does."""
    if not isinstance(model, LightningModule):
        return None
    return attach_to_step(model, criterion, dataset_size)
