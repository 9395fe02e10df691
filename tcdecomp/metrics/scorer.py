"""The MIG as a scorer of scikit-learn's model selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from numpy.typing import ArrayLike

from tcdecomp.metrics.discretization import Binning
from tcdecomp.metrics.inputs import read_columns
from tcdecomp.metrics.mig import mig_score

__all__ = ["mig_scorer"]


def mig_scorer(
    *,
    n_bins: int = 20,
    strategy: str = "uniform",
    discrete_factors: bool | Sequence[bool] = True,
) -> MIGScorer:
    """Return a scorer ``scorer(estimator, X, y)``: the MIG of ``estimator.transform(X)``.

    For the ``scoring`` of ``cross_val_score``, ``GridSearchCV`` and their like, with any estimator
    that transforms items to codes, a Pipeline included. y are the factors, of shape (n, K) or (n,);
    an estimator that learns from X alone ignores them in ``fit``.

    Scored are the items of one fold: shuffle it, so that no factor has a single value there, and
    see :func:`tcdecomp.mig_score` for what few items do to a score. The default folds are not
    shuffled; ``KFold(shuffle=True)`` is.

    Parameters
    ----------
    n_bins, strategy, discrete_factors : optional
        As in :func:`tcdecomp.mig_score`.

    Returns
    -------
    callable
        Equal to any other with the same options; it can be pickled.

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
    return MIGScorer(n_bins, strategy, discrete_factors)


@dataclass(frozen=True, repr=False)
class MIGScorer:
    """What :func:`mig_scorer` returns."""

    n_bins: int
    strategy: str
    discrete_factors: bool | Sequence[bool]

    def __call__(self, estimator: Any, X: Any, y: ArrayLike) -> float:  # noqa: N803
        """Return the MIG of the estimator's codes of X with respect to the factors y."""
        transform = getattr(estimator, "transform", None)
        if not callable(transform):
            raise TypeError(
                "estimator must have a method transform, whose result is scored; "
                f"{type(estimator).__name__} has none"
            )
        # Without an index, which a transform may make anew: rows are paired in their order here.
        codes = read_columns(transform(X), "codes", "z").as_floats()
        return mig_score(codes, y, **vars(self))

    def __repr__(self) -> str:
        options = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"mig_scorer({', '.join(options)})"
