"""What the mutual information gap is made of: printed and exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp._exports import Exports, plain
from tcdecomp._extras import needed
from tcdecomp.metrics.columns import FloatArray, list_names

__all__ = ["MutualInfoGap"]


@dataclass(frozen=True, eq=False)
class MutualInfoGap(Exports):
    """The mutual information gap, and the numbers that it is made of. It prints as a table.

    Attributes
    ----------
    score : float
        The mean of the gaps, in [0, 1].
    gaps : ndarray, shape (K,)
        For each factor, the share of the best latent less the share of the runner-up.
    mutual_info : ndarray, shape (D, K)
        I(z_j; v_k) of every latent with every factor, in nats.
    factor_entropy : ndarray, shape (K,)
        H(v_k), in nats.
    shares : ndarray, shape (D, K)
        The shares that the gaps are differences of: of the factor's entropy, with the correction,
        or of the latent's entropy with ``convention="ubisoft"``.
    ceilings : ndarray, shape (K,)
        The largest gap that codes can have with so few bins: below 1 if a factor has more values
        than a latent has bins. The bins then merge the rarest values.
    best_latent, runner_up : ndarray of int, shape (K,)
        The latents with the largest and the second largest mutual information. Of equal latents,
        the first. ``runner_up`` is -1 if D = 1.
    latent_names, factor_names : tuple of str
        The column names of a data frame. Otherwise "z0", "z1", ... and "v0", "v1", ...
    """

    score: float
    gaps: FloatArray
    mutual_info: FloatArray
    factor_entropy: FloatArray
    shares: FloatArray
    ceilings: FloatArray
    best_latent: NDArray[np.intp]
    runner_up: NDArray[np.intp]
    latent_names: tuple[str, ...]
    factor_names: tuple[str, ...]

    def __str__(self) -> str:
        rows = [("factor", "gap", "entropy", "best latent", "runner-up")]
        for k, name in enumerate(self.factor_names):
            numbers = f"{self.gaps[k]:.4f}", f"{self.factor_entropy[k]:.4f}"
            latents = self._cell(self.best_latent[k], k), self._cell(self.runner_up[k], k)
            rows.append((name, *numbers, *latents))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.insert(0, f"MIG {self.score:.4f} (information in nats)")
        if (self.ceilings < 1).any():
            few = [n for n, c in zip(self.factor_names, self.ceilings, strict=True) if c < 1]
            lines.append(
                f"At most {self.ceilings.mean():.4f}: fewer bins than values in {list_names(few)}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain numbers, strings and lists, fit for JSON."""
        return {name: plain(value) for name, value in vars(self).items()}

    def to_frame(self) -> Any:
        """Return a pandas data frame with a row for each factor: ``gap``, ``entropy``, ...

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        names = np.array([*self.latent_names, None], dtype=object)  # -1 is no latent
        columns = {
            "gap": self.gaps,
            "entropy": self.factor_entropy,
            "ceiling": self.ceilings,
            "best_latent": names[self.best_latent],
            "runner_up": names[self.runner_up],
        }
        frame = needed("pandas", "MutualInfoGap.to_frame").DataFrame
        return frame(columns, index=list(self.factor_names))

    def _cell(self, j: int, k: int) -> str:
        return "none" if j < 0 else f"{self.latent_names[j]} {self.mutual_info[j, k]:.4f}"
