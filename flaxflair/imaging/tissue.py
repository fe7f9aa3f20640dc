"""Tissue: white matter from a T1, where a data set does not say where it is.

Knows nothing of files or networks.
"""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_multiotsu
from skimage.measure import label

from flaxflair.core.records import Array


def part_tissues(t1: Array, brain: Array) -> tuple[float, float] | None:
    """Returns the T1 intensities between fluid and grey, and between grey and white matter.

    They part the brain's intensities best into three classes (Otsu 1979, multilevel). None where
    there are no three classes.

    Args:
      t1: [x, y, z], inhomogeneity-corrected.
      brain: bool[x, y, z].
    """
    values = t1[brain]
    # Bright outliers (vessels, fat at the mask's rim) would drag the upper threshold.
    low, high = np.percentile(values, 1), np.percentile(values, 99)
    try:
        lower, upper = threshold_multiotsu(np.clip(values, low, high), classes=3)
    except ValueError:  # fewer than three intensities
        return None
    return float(lower), float(upper)


def white_matter(t1: Array, brain: Array, lesion: Array | None = None) -> Array:
    """Returns a white-matter mask, bool[x, y, z], from a T1-weighted image.

    White matter is the brightest class of `part_tissues`, of which the largest connected piece is
    kept so that bright vessels and meninges fall away. Where there are no three classes, nothing is
    white matter but the lesions: they may be dark on a T1, and so are added as they are given.

    Args:
      t1: [x, y, z], inhomogeneity-corrected.
      brain: bool[x, y, z].
      lesion: bool[x, y, z], white-matter lesions; None if they are not known.
    """
    if lesion is not None:
        return white_matter(t1, brain) | lesion
    thresholds = part_tissues(t1, brain)
    if thresholds is None:
        return np.zeros(brain.shape, bool)
    bright = brain & (t1 > thresholds[1])
    pieces = np.asarray(label(bright, connectivity=1))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return bright & (pieces == int(np.argmax(sizes)))
