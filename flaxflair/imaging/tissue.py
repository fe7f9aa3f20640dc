"""White-matter segmentation of a T1 by multilevel Otsu thresholds.

Used for data sets without a white-matter mask. Independent of files and networks.
"""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_multiotsu
from skimage.measure import label

from flaxflair.core.records import Array


def tissue_thresholds(t1: Array, brain: Array) -> tuple[float, float] | None:
    """Returns the T1 intensities between fluid and grey, and between grey and white matter.

    Multilevel thresholds of the brain's intensities for three classes (Otsu 1979). None if the
    image has fewer than three distinct intensities.

    Args:
      t1: [x, y, z], inhomogeneity-corrected.
      brain: bool[x, y, z].
    """
    values = t1[brain]
    # Bright outliers (vessels, fat at the mask's rim) would bias the upper threshold.
    low, high = np.percentile(values, 1), np.percentile(values, 99)
    try:
        lower, upper = threshold_multiotsu(np.clip(values, low, high), classes=3)
    except ValueError:  # fewer than three intensities
        return None
    return float(lower), float(upper)


def white_matter(t1: Array, brain: Array, lesion: Array | None = None) -> Array:
    """Returns a white-matter mask, bool[x, y, z], from a T1-weighted image.

    The largest connected component of the brightest class of `tissue_thresholds`, which excludes
    bright vessels and meninges; empty without three classes. Given lesions are added, since they
    may be dark on a T1.

    Args:
      t1: [x, y, z], inhomogeneity-corrected.
      brain: bool[x, y, z].
      lesion: bool[x, y, z], white-matter lesions; None if unknown.
    """
    if lesion is not None:
        return white_matter(t1, brain) | lesion
    thresholds = tissue_thresholds(t1, brain)
    if thresholds is None:
        return np.zeros(brain.shape, bool)
    bright = brain & (t1 > thresholds[1])
    components = np.asarray(label(bright, connectivity=1))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return bright & (components == int(np.argmax(sizes)))
