"""Intensity landmarks: intensities of an image that correspond between sessions.

A normalisation per session maps them to standard landmarks. Independent of files and subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

Array = np.ndarray

_BINS = 200
_SMOOTHING = 2.0  # bins
_PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
_SD_OF_MAD = 1.4826  # of a normal distribution


def _mean(values: Array) -> Array:
    return np.array([0.0, values.mean(dtype=np.float64)])


def _spread(values: Array) -> Array:
    middle = float(np.median(values))
    return np.array([middle, middle + _SD_OF_MAD * float(np.median(np.abs(values - middle)))])


def _peak(values: Array) -> Array:
    low, high = np.percentile(values, (0.5, 99.5))
    counts, edges = np.histogram(values, _BINS, (float(low), float(high)))
    best = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), _SMOOTHING)))
    return np.array([0.0, 0.5 * float(edges[best] + edges[best + 1])])


def _percentiles(values: Array) -> Array:
    return np.percentile(values, _PERCENTILES)


# Method -> landmarks of the values in a brain, float64[k], nondecreasing.
#   brain     zero and the mean
#   robust    the median, and the median plus a robust standard deviation
#   white     zero and the highest mode of the histogram, which is white matter's on every sequence
#             of an adult (Shinohara et al., NeuroImage Clin. 6:9, 2014)
#   quantile  percentiles (Nyul and Udupa, Magn. Reson. Med. 42:1072, 1999)
LANDMARKS: Mapping[str, Callable[[Array], Array]] = {
    "brain": _mean,
    "robust": _spread,
    "white": _peak,
    "quantile": _percentiles,
}


def match_landmarks(values: Array, source: Array, target: Array) -> Array:
    """Maps values piecewise linearly, so that source landmarks become target landmarks.

    The outer pieces are extrapolated.

    Args:
      values: of any shape.
      source: float64[k], landmarks of the values, strictly increasing.
      target: float64[k], landmarks of the result.

    Returns:
      float32, the shape of `values`.
    """
    slopes = np.diff(target) / np.diff(source)
    if len(source) == 2:
        return ((values - source[0]) * slopes[0] + target[0]).astype(np.float32)
    out = np.interp(values, source, target)
    out += np.minimum(values - source[0], 0) * slopes[0]
    out += np.maximum(values - source[-1], 0) * slopes[-1]
    return out.astype(np.float32)
