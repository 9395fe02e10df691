"""Scores from groups of rows that share the value of one factor: FactorVAE's and BetaVAE's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.samples import Samples, deviations, read_samples, standardised

__all__ = ["beta_vae_score", "factor_vae_score"]

CONVENTIONS = (None, "disentanglement_lib")
_MEMORY = 1 << 21  # numbers that are drawn at a time


def factor_vae_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_train: int = 10_000,
    n_test: int = 5_000,
    group_size: int = 64,
    threshold: float = 0.05,
    convention: str | None = None,
    sample_weight: ArrayLike | None = None,
    random_state: Any = None,
) -> float:
    r"""Return FactorVAE's score: how well the latent that stays fixed tells which factor is fixed.

    A group of rows shares the value of one factor, which is drawn at random. In each group, the
    latent of the smallest relative variance,
    :math:`\operatorname{argmin}_j \mathrm{Var}_\mathrm{group}(z_j) / \mathrm{Var}(z_j)`, votes for
    the factor. A majority vote over the training groups assigns a factor to each latent. The score
    is the share of the test groups whose factor is assigned right: 1 is perfect, and codes without
    information score about 1 / K.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Each distinct value is a class, and each value needs at
        least two rows to be drawn.
    n_train, n_test : int, optional
        Numbers of groups.
    group_size : int, optional
        Rows in a group, drawn with replacement. At least 2.
    threshold : float, optional
        Latents whose standard deviation is at most this part of the largest one do not vote.
    convention : {None, "disentanglement_lib"}, optional
        "disentanglement_lib" compares the standard deviation itself with the threshold.
    sample_weight : array_like, shape (n,), optional
        Weights with which rows, and so values, are drawn.
    random_state : int, RandomState or None, optional
        With None, results differ from call to call.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does; if an option is out of its range; if no latent votes;
        or if no value of a factor has two rows.

    Notes
    -----
    disentanglement_lib draws new images for each group. Rows are drawn here, so that a data set
    of any kind can be scored; on a full grid of factors this is the same. With few rows for each
    value, groups repeat rows. A rotation of two factors lowers the score to about 2/3 of three
    factors, and a factor that is not encoded costs 1 / K. A duplicated latent costs nothing.

    References
    ----------
    Kim, Mnih (2018). Disentangling by Factorising. ICML. Appendix B.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import factor_vae_score
    >>> factors = np.random.default_rng(0).integers(0, 4, (1000, 3))
    >>> factor_vae_score(factors * [1.0, -2.0, 0.5], factors, random_state=0)
    1.0
    """
    check_choice("convention", convention, CONVENTIONS)
    samples = read_samples(codes, factors, True, sample_weight)
    rng, sizes = _checked(random_state, n_train=n_train, n_test=n_test, group_size=group_size)
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0; got {threshold}")
    deviation = deviations(samples.codes, samples.weight)
    lowest = threshold if convention else threshold * deviation.max()
    active = (deviation > lowest) & (deviation > 0)
    if not active.any():
        raise ValueError(
            f"codes must have a latent with a standard deviation above {lowest:.3g}; "
            f"the largest is {deviation.max():.3g}"
        )
    scaled = samples.codes[:, active] / deviation[active]
    drawers = _drawers(samples, rng)

    def votes(count: int) -> FloatArray:
        table = np.zeros((len(drawers), scaled.shape[1]))
        for k, m in _rounds(count, len(drawers), sizes["group_size"] * scaled.shape[1], rng):
            values = np.repeat(drawers[k].values((m, 1)), sizes["group_size"], axis=1)
            spread = scaled[drawers[k].rows(values)].var(axis=1)
            table[k] += np.bincount(spread.argmin(1), minlength=scaled.shape[1])
        return table

    assigned = votes(sizes["n_train"]).argmax(0)
    tested = votes(sizes["n_test"])
    return float(tested[assigned, np.arange(len(assigned))].sum() / tested.sum())


def beta_vae_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_train: int = 10_000,
    n_test: int = 5_000,
    group_size: int = 64,
    convention: str | None = None,
    sample_weight: ArrayLike | None = None,
    random_state: Any = None,
) -> float:
    """Return BetaVAE's score (z-diff): how well differences of codes tell which factor is shared.

    The two rows of a pair share the value of one factor. The mean of :math:`|z - z'|` over
    ``group_size`` pairs with the same factor is one sample for a logistic regression that predicts
    the factor. The score is the accuracy on test samples: 1 is perfect, and codes without
    information score about 1 / K.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Each distinct value is a class, and each value needs at
        least two rows to be drawn.
    n_train, n_test : int, optional
        Numbers of samples.
    group_size : int, optional
        Pairs for each sample.
    convention : {None, "disentanglement_lib"}, optional
        "disentanglement_lib" takes the codes as they are. With None they are standardised, so that
        the scale of a latent does not matter.
    sample_weight : array_like, shape (n,), optional
        Weights with which rows, and so values, are drawn.
    random_state : int, RandomState or None, optional
        With None, results differ from call to call.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does; if an option is out of its range; or if no value of a
        factor has two rows.

    Notes
    -----
    The score is 1 for codes that are far from disentangled: a linear classifier can combine
    latents, and K - 1 factors are enough to tell K.

    References
    ----------
    Higgins et al. (2017). beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework. ICLR. Section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import beta_vae_score
    >>> factors = np.random.default_rng(0).integers(0, 4, (1000, 3))
    >>> beta_vae_score(factors * [1.0, -2.0, 0.5], factors, n_train=500, random_state=0)
    1.0
    """
    from sklearn.linear_model import LogisticRegression

    check_choice("convention", convention, CONVENTIONS)
    samples = read_samples(codes, factors, True, sample_weight)
    rng, sizes = _checked(random_state, n_train=n_train, n_test=n_test, group_size=group_size)
    seen = samples.codes
    if convention is None:
        seen = standardised(seen, samples.weight)
    drawers = _drawers(samples, rng)

    def differences(count: int) -> tuple[FloatArray, NDArray[np.intp]]:
        parts, labels = [], []
        for k, m in _rounds(count, len(drawers), sizes["group_size"] * seen.shape[1], rng):
            values = drawers[k].values((m, sizes["group_size"]))
            first, second = (seen[drawers[k].rows(values)] for _ in range(2))
            parts.append(np.abs(first - second).mean(1))
            labels.append(np.full(m, k))
        return np.concatenate(parts), np.concatenate(labels)

    train, test = differences(sizes["n_train"]), differences(sizes["n_test"])
    if len(drawers) == 1:
        return 1.0
    return float(LogisticRegression(max_iter=1000).fit(*train).score(*test))


class _Drawer:
    """Draws values of one factor, and rows that have a value."""

    def __init__(self, labels: NDArray[np.intp], weight: FloatArray, rng: Any) -> None:
        self.rng, self.order = rng, np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        self.ends = np.cumsum(counts)
        self.below = np.concatenate([[0.0], np.cumsum(weight[self.order])])
        mass = np.bincount(labels, weight) * (counts > 1)
        self.share = mass / mass.sum() if mass.any() else mass

    def values(self, shape: tuple[int, int]) -> NDArray[np.intp]:
        return np.asarray(self.rng.choice(len(self.share), shape, p=self.share))

    def rows(self, values: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return a row for each value, by weight, with replacement."""
        first, end = np.append(0, self.ends)[values], self.ends[values]
        low, high = self.below[first], self.below[end]
        place = low + (high - low) * self.rng.random_sample(values.shape)
        found = np.searchsorted(self.below, place, side="right") - 1
        chosen: NDArray[np.intp] = self.order[np.clip(found, first, end - 1)]
        return chosen


def _drawers(samples: Samples, rng: Any) -> list[_Drawer]:
    weight = np.ones(len(samples.codes)) if samples.weight is None else samples.weight
    drawers = [_Drawer(labels, weight, rng) for labels in samples.factors]
    if any(not drawer.share.any() for drawer in drawers):
        raise ValueError(
            "factors must have a value that at least two rows share; got factors without one"
        )
    return drawers


def _rounds(count: int, n_factors: int, row_size: int, rng: Any) -> Iterator[tuple[int, int]]:
    """Yield factors and how many groups to draw for each, a few at a time to save memory."""
    for k, groups in enumerate(
        np.bincount(rng.randint(n_factors, size=count), minlength=n_factors)
    ):
        most = max(1, _MEMORY // row_size)
        yield from ((k, min(most, groups - start)) for start in range(0, groups, most))


def _checked(random_state: Any, **sizes: int) -> tuple[Any, dict[str, int]]:
    from sklearn.utils import check_random_state

    for name, value in sizes.items():
        least = 2 if name == "group_size" else 1
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an int >= {least}; got {value!r}")
    return check_random_state(random_state), sizes
