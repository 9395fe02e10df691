"""One line of progress per model, on stderr: a bar on a terminal, a few updates in a log."""

from __future__ import annotations

import sys
from typing import Any

import lightning
from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar(lightning.Callback):
    """Count the batches and show the total correlation that :class:`TCMonitor` logs.

    Parameters
    ----------
    label : str
        Which model is trained.
    every : int
        Steps between two values of the monitor.
    """

    def __init__(self, label: str, every: int) -> None:
        self.label, self.every = label, every

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Open the bar; where the output is a file, it speaks every ten seconds at most."""
        self.bar = tqdm(
            desc=f"{self.label:<10}",
            total=trainer.max_steps,
            mininterval=0.1 if sys.stderr.isatty() else 10,
            unit="step",
        )

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Advance by one batch, and show the total correlation when there is a new one."""
        if trainer.global_step % self.every == 0:
            value = float(trainer.callback_metrics["train/total_correlation"])
            self.bar.set_postfix_str(f"TC {value:.2f} nats", refresh=False)
        self.bar.update()

    def on_train_end(self, *_: Any) -> None:
        """Leave the finished line."""
        self.bar.close()
