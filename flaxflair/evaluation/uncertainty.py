"""Measures of predicted uncertainty: coverage of intervals, and order of the errors.

Independent of models and files.
"""

from __future__ import annotations

import numpy as np

from flaxflair.core.records import Array

_FRACTIONS = np.linspace(0, 0.99, 100)  # of the voxels that are removed


def coverage(truth: Array, lower: Array, upper: Array) -> float:
    """Returns the share of voxels whose true value is inside its interval; NaN without voxels.

    Args:
      truth: [n].
      lower: [n], lower ends.
      upper: [n], upper ends.
    """
    inside = (truth >= lower) & (truth <= upper)
    return float(inside.mean()) if inside.size else float("nan")


def sparsification_error(error: Array, scale: Array) -> float:
    """Returns the area under the sparsification error (AUSE), relative to the mean error.

    Voxels are removed in the order of their predicted scale, the largest first, and the mean
    absolute error of the rest is compared with that after removal in the order of the errors
    themselves (Ilg et al. 2018, ECCV). 0 is perfect; a random order is about 0.5 or more.

    Args:
      error: [n], absolute errors; not all zero.
      scale: [n], predicted scale of each.
    """
    error = np.abs(np.asarray(error, np.float64))
    own, best = (_remaining(error[np.argsort(-key, kind="stable")]) for key in (scale, error))
    return float(np.trapezoid(own - best, _FRACTIONS) / error.mean())


def _remaining(ordered: Array) -> Array:
    """Returns the mean of the rest after the first part of each of `_FRACTIONS` is removed."""
    sums = np.concatenate([np.cumsum(ordered[::-1])[::-1], [0.0]])
    first = np.minimum((_FRACTIONS * len(ordered)).astype(int), len(ordered) - 1)
    return sums[first] / (len(ordered) - first)
