"""Paired significance tests over subjects, and rank agreement. Independent of the metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from flaxflair.core.records import Array


class Comparison(NamedTuple):
    """Paired comparison of the scores of two methods.

    Attributes:
      pairs: number of subjects in which both scores are finite.
      median_difference: median over pairs of the first score minus the second.
      p: p value of the two-sided Wilcoxon signed-rank test.
      effect: matched-pairs rank-biserial correlation, in [-1, 1]: the share of the rank sum in
        which the first score is larger minus the share in which it is smaller.
    """

    pairs: int
    median_difference: float
    p: float
    effect: float


class RankAgreement(NamedTuple):
    """Rank correlation of two scores of the same items.

    Attributes:
      rho: Spearman's.
      tau: Kendall's, tau-b.
      n: items for which both scores are finite.
    """

    rho: float
    tau: float
    n: int


def compare(scores: Array, reference: Array) -> Comparison:
    """Compares two methods on the same subjects.

    Equal pairs are not ranked. p is exact for up to 13 unequal pairs, and for up to 50 if no two
    differences have the same size; otherwise it is the normal approximation. An exact p of n pairs
    is at least 2^(1 - n), so fewer than six pairs cannot reach 0.05.

    Args:
      scores: [n], one score per subject; not finite where undefined.
      reference: [n], scores of the other method for the same subjects in the same order.

    Returns:
      The comparison. If all pairs are equal, p is 1 and the effect 0; without any pair, all but the
      count is NaN.
    """
    a, b = _finite_pairs(scores, reference)
    if not a.size:
        return Comparison(0, np.nan, np.nan, np.nan)
    difference = a - b
    median = float(np.median(difference))
    known = difference[difference != 0]
    if not known.size:
        return Comparison(a.size, median, 1.0, 0.0)
    ranks = stats.rankdata(np.abs(known))
    effect = float(np.sum(ranks * np.sign(known)) / np.sum(ranks))
    # SciPy would drop the equal pairs too, but then not use its exact test.
    test: Any = stats.wilcoxon(known)
    return Comparison(a.size, median, float(test.pvalue), effect)


def holm(p_values: Sequence[float] | Array) -> Array:
    """Adjusts p values for multiple comparisons (Holm 1979).

    Args:
      p_values: [n]; NaN for no test.

    Returns:
      float64[n], adjusted p values; NaN remains NaN.

    Raises:
      ValueError: a p value is outside [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p values lie in [0, 1], found {p[(p < 0) | (p > 1)].tolist()}")
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    remaining = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(remaining * p[order]), 1)
    return adjusted


def rank_agreement(a: Array, b: Array) -> RankAgreement:
    """Returns the rank correlation of two scores of the same items.

    Args:
      a: [n], one score an item; not finite where undefined.
      b: [n], of the same items in the same order.

    Returns:
      The agreement; NaN where fewer than two items are known or a score ranks them all equal.
    """
    a, b = _finite_pairs(a, b)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankAgreement(np.nan, np.nan, a.size)
    rho: Any = stats.spearmanr(a, b)
    tau: Any = stats.kendalltau(a, b)
    return RankAgreement(float(rho.statistic), float(tau.statistic), a.size)


def _finite_pairs(a: Array, b: Array) -> tuple[Array, Array]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"pairs need two vectors of one length, found {a.shape} and {b.shape}")
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]
