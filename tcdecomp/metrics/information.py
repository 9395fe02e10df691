"""Entropy and mutual information of contingency tables, in nats: plug-in, or corrected."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tcdecomp.metrics.columns import FloatArray, warn_caller
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.tables import TableOptions, Tables, as_tables

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Information", "ceilings", "entropy", "information", "measured"]

# Nats that may be error alone: rounding in whole counts, and quadrature in tables of densities
ROUNDING, QUADRATURE = 1e-12, 1e-8


class Information(NamedTuple):
    """Mutual information and entropies, in nats.

    Attributes
    ----------
    mutual : ndarray, shape (D, K)
        I(z_j; v_k), at least 0. It is 0 where it is within the error: 1e-12 for whole counts, and
        1e-8 for tables of densities and for weights with fractions; as a share of the factor's
        entropy if that is below 1.
    factor : ndarray, shape (K,)
        H(v_k).
    latent : ndarray, shape (D,)
        H(z_j).
    share : ndarray, shape (D, K)
        I(z_j; v_k) / H(v_k), with the correction applied to both.
    """

    mutual: FloatArray
    factor: FloatArray
    latent: FloatArray
    share: FloatArray

    def share_of_latents(self) -> FloatArray:
        """Return I(z_j; v_k) / H(z_j), shape (D, K); 0 for constant latents."""
        entropy = np.broadcast_to(self.latent[:, None], self.mutual.shape)
        return np.divide(self.mutual, entropy, out=np.zeros_like(self.mutual), where=entropy > 0)


def measured(
    codes: Any, factors: Any, correction: str | None, **options: Unpack[TableOptions]
) -> tuple[Tables, Information]:
    """Return the tables of codes and factors, and the information in them.

    Warns if few rows make the information of the second best latent of a factor too high, by more
    than 2 % of the entropy.
    """
    tables = as_tables(codes, factors, **options)
    info = information(tables, correction)
    if correction is None and len(info.share) > 1 and not (tables.counts % 1).any():
        _warn_of_few_rows(tables, info)
    return tables, info


def information(tables: Tables, correction: str | None = None) -> Information:
    """Return the information in tables.

    Parameters
    ----------
    tables : Tables
        With a correction, whole numbers of rows.
    correction : {None, "miller-madow", "adjusted"}
        None: plug-in. "miller-madow": (occupied cells - 1) / (2n) is added to each entropy.
        "adjusted": the information E that is expected of independent columns with the same counts
        is subtracted, and the share is (I - E) / (H - E).

    References
    ----------
    Miller (1955). Note on the bias of information estimates.

    Vinh, Epps, Bailey (2010). Information theoretic measures for clusterings comparison. JMLR.
    """
    check_choice("correction", correction, (None, "miller-madow", "adjusted"))
    fractions = bool((tables.counts % 1).any())
    if correction and fractions:
        raise ValueError(
            f"correction={correction!r} needs whole numbers of rows; got weights with fractions. "
            "Use correction=None, or leave sample_weight out"
        )
    parts = tables.split()
    mutual = np.stack([_mutual(part) for part in parts], 1)
    factor = np.array([entropy(part[0].sum(0)) for part in parts])
    latent = entropy(parts[0].sum(2))
    divisor = np.broadcast_to(factor, mutual.shape)
    if correction == "miller-madow":
        mutual = mutual + np.stack([_miller_madow(part) for part in parts], 1)
        factor = factor + np.array([_excess(part[0].sum(0)) for part in parts])
        latent = latent + _excess(parts[0].sum(2))
        divisor = np.broadcast_to(factor, mutual.shape)
    elif correction == "adjusted":
        expected = np.stack([_expected(part) for part in parts], 1)
        mutual, divisor = mutual - expected, divisor - expected
    error = (QUADRATURE if fractions else ROUNDING) * np.minimum(factor, 1)
    mutual = np.where(mutual > error, mutual, 0)  # a dead latent has 0, so that scores can see it
    share = np.divide(mutual, divisor, out=np.zeros_like(mutual), where=divisor > 1e-12 * factor)
    return Information(mutual, factor, latent, share)


def ceilings(tables: Tables) -> FloatArray:
    """Return the entropy that is left in as many classes as there are bins, as a share."""
    n_bins = tables.labels.max()
    largest = []
    for part in tables.split():
        counts = part[0].sum(0)
        merged = counts[counts > 0].tolist()
        heapq.heapify(merged)
        while len(merged) > n_bins:  # the two rarest become one
            heapq.heapreplace(merged, heapq.heappop(merged) + merged[0])
        left, whole = (entropy(np.array(c)) for c in (merged, counts))
        largest.append(1.0 if len(merged) == np.count_nonzero(counts) else left / whole)
    return np.array(largest)


def entropy(counts: FloatArray) -> FloatArray:
    """Return the plug-in entropy of counts along their last axis, in nats."""
    p = counts / counts.sum(-1, keepdims=True)
    return np.asarray(-(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(-1))


def _mutual(cells: FloatArray) -> FloatArray:
    """Return the mutual information of each table, from (D, B, C)."""
    by_latent, by_factor = cells.sum(2, keepdims=True), cells.sum(1, keepdims=True)
    total = by_latent.sum(1, keepdims=True)
    p, p_z, p_v = cells / total, by_latent / total, by_factor / total
    with np.errstate(invalid="ignore"):
        # Two divisions, because the product of two tiny weights can underflow. If z is constant,
        # p = p_v and p_z = 1 exactly, so the information is exactly 0.
        ratio = p / p_v / p_z
    return np.asarray((p * np.log(ratio, out=np.zeros_like(p), where=p > 0)).sum((1, 2)))


def _excess(counts: FloatArray) -> FloatArray:
    """Return what Miller and Madow add to the entropy of each row of counts."""
    return np.asarray((np.count_nonzero(counts, -1) - 1) / (2 * counts.sum(-1)))


def _miller_madow(cells: FloatArray) -> FloatArray:
    joint = cells.reshape(len(cells), -1)
    return _excess(cells.sum(2)) + _excess(cells.sum(1)) - _excess(joint)


def _expected(cells: FloatArray) -> FloatArray:
    from sklearn.metrics.cluster import expected_mutual_information

    tables = [cell[cell.any(1)][:, cell.any(0)].astype(np.int64) for cell in cells]
    return np.array([expected_mutual_information(table, int(table.sum())) for table in tables])


def _warn_of_few_rows(tables: Tables, info: Information) -> None:
    second = np.argsort(info.share, axis=0)[-2]
    occupied = tables.counts.any(2).sum(1)
    cards = np.array([np.count_nonzero(part[0].sum(0)) for part in tables.split()])
    bias = (occupied[second] - 1) * (cards - 1) / (2 * tables.total * info.factor)
    part = np.minimum(bias, info.share[second, np.arange(len(cards))])  # at most all of it is bias
    if part.max() > 0.02:
        worst = int(part.argmax())
        warn_caller(
            f"{tables.total:.0f} rows are few for so many bins: the information of latents on "
            f"factor {tables.factor_names[worst]!r} is too high, by about {part[worst]:.2f} of its "
            f"entropy. Use at least {tables.total * bias.max() / 0.02:.0f} rows or fewer bins, or "
            "pass correction='miller-madow'"
        )
