"""The adapter of ``pytorch_lightning``: that of ``lightning``, on the other package's classes."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule

from tcdecomp_adapters._lightning.monitor import TCMonitorMixin
from tcdecomp_adapters._lightning.schedule import TCScheduleMixin
from tcdecomp_adapters._lightning.step import tcdecomp_attach
from tcdecomp_adapters._lightning.vae import TCVAEMixin

__all__ = ["TCVAE", "TCMonitor", "TCSchedule", "tcdecomp_attach"]


class TCVAE(TCVAEMixin, LightningModule):
    """The same as :class:`tcdecomp_adapters.lightning.TCVAE`."""


class TCMonitor(TCMonitorMixin, Callback):
    """The same as :class:`tcdecomp_adapters.lightning.TCMonitor`."""


class TCSchedule(TCScheduleMixin, Callback):
    """The same as :class:`tcdecomp_adapters.lightning.TCSchedule`."""
