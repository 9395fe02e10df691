"""The MIG as a scorer of scikit-learn's model selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from numpy.typing import ArrayLike

from tcdecomp.metrics.bins import Binning
from tcdecomp.metrics.inputs import read_columns
from tcdecomp.metrics.mig import mig_score

__all__ = ["mig_scorer"]


def mig_scorer(
    *,
    n_bins: Any = 20,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    discrete_factors: bool | Sequence[bool] = True,
    correction: str | None = None,
) -> MIGScorer:
    """Return a scorer ``scorer(estimator, X, y)``: the MIG of ``estimator.transform(X)``.

    Pass it as ``scoring`` to ``cross_val_score``, ``GridSearchCV`` and similar functions. The
    estimator (or Pipeline) transforms items to codes. y holds the factors, of shape (n, K) or
    (n,). Estimators that learn from X alone ignore y in ``fit``.

    Each fold is scored separately, so small folds bias every score. A factor with a single value
    in a fold is an error: shuffle the folds with ``KFold(shuffle=True)``, because the default
    folds are not shuffled.

    Parameters
    ----------
    n_bins, strategy, discrete_codes, discrete_factors, correction : optional
        As in :func:`tcdecomp.mig_score`.

    Returns
    -------
    callable
        It equals any other scorer with the same options, and can be pickled.

    Raises
    ------
    TypeError, ValueError
        If ``n_bins`` or ``strategy`` is not of its type or out of its range. When called: if the
        estimator has no ``transform``, or as :func:`tcdecomp.mig_score` does.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import FastICA
    >>> from sklearn.model_selection import cross_val_score
    >>> from tcdecomp.metrics import mig_scorer
    >>> factors = np.random.default_rng(0).integers(0, 4, size=(2000, 2))
    >>> images = factors @ [[3.0, 1.0], [1.0, 2.0]]
    >>> ica = FastICA(whiten="unit-variance", random_state=0)
    >>> scores = cross_val_score(ica, images, factors, scoring=mig_scorer())
    >>> bool(scores.min() > 0.8)
    True
    """
    Binning(n_bins, strategy)
    return MIGScorer(n_bins, strategy, discrete_codes, discrete_factors, correction)


@dataclass(frozen=True, repr=False)
class MIGScorer:
    """What :func:`mig_scorer` returns."""

    n_bins: Any
    strategy: str
    discrete_codes: bool | Sequence[bool] | None
    discrete_factors: bool | Sequence[bool]
    correction: str | None

    def __call__(self, estimator: Any, X: Any, y: ArrayLike) -> float:  # noqa: N803
        """Return the MIG of the estimator's codes of X with respect to the factors y."""
        transform = getattr(estimator, "transform", None)
        if not callable(transform):
            raise TypeError(
                "estimator must have a method transform, whose result is scored; "
                f"{type(estimator).__name__} has none"
            )
        # A frame that a transform makes can have a new index
        codes: Any = replace(read_columns(transform(X), "codes", "z"), index=None)
        return mig_score(codes, y, **vars(self))

    def __repr__(self) -> str:
        options = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"mig_scorer({', '.join(options)})"
