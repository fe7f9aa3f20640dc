"""Tissue: white matter from a T1, where a data set does not say where it is.

Knows nothing of files or networks.
"""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_multiotsu
from skimage.measure import label

from flaxflair.volume import Array


def white_matter(t1: Array, brain: Array) -> Array:
    """Returns a white-matter mask, bool[x, y, z], from a T1-weighted image.

    The brain's intensities are cut into three classes (fluid, grey, white) by the thresholds that
    part them best (Otsu 1979, multilevel); white matter is the brightest class, of which the
    largest connected piece is kept so that bright vessels and meninges fall away. Where there are
    no three classes, nothing is white matter.

    Args:
      t1: [x, y, z], inhomogeneity-corrected.
      brain: bool[x, y, z].
    """
    values = t1[brain]
    # Bright outliers (vessels, fat at the mask's rim) would drag the upper threshold.
    low, high = np.percentile(values, 1), np.percentile(values, 99)
    try:
        upper = threshold_multiotsu(np.clip(values, low, high), classes=3)[-1]
    except ValueError:  # fewer than three intensities
        return np.zeros(brain.shape, bool)
    bright = brain & (t1 > upper)
    pieces = np.asarray(label(bright, connectivity=1))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return bright & (pieces == int(np.argmax(sizes)))
