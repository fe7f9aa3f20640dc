"""Anchors: intensities of one image that stand for the same thing in every session.

They are what a normalisation of single sessions brings into line. Knows arrays alone.
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


# Method -> the anchors of the values in a brain, float64[k], not falling.
#   brain     zero and the mean
#   robust    the median, and a robust standard deviation above it
#   white     zero and the tallest peak of the histogram, which on every sequence of an adult is
#             white matter's (Shinohara et al., NeuroImage Clin. 6:9, 2014)
#   quantile  percentiles (Nyul and Udupa, Magn. Reson. Med. 42:1072, 1999)
ANCHORS: Mapping[str, Callable[[Array], Array]] = {
    "brain": _mean,
    "robust": _spread,
    "white": _peak,
    "quantile": _percentiles,
}


def bend(values: Array, own: Array, places: Array) -> Array:
    """Returns values moved so that each anchor comes to its place: lines between, and beyond.

    Args:
      values: of any shape.
      own: float64[k], anchors, rising.
      places: float64[k], where they belong.

    Returns:
      float32, the shape of `values`.
    """
    slopes = np.diff(places) / np.diff(own)
    if len(own) == 2:
        return ((values - own[0]) * slopes[0] + places[0]).astype(np.float32)
    out = np.interp(values, own, places)
    out += np.minimum(values - own[0], 0) * slopes[0]
    out += np.maximum(values - own[-1], 0) * slopes[-1]
    return out.astype(np.float32)
