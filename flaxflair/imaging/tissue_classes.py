"""Tissue classes of standardised images: the tissue whose standard levels a voxel is closest to.

Independent of files and networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxflair.core.records import Array
from flaxflair.imaging.tissue_levels import STANDARD, TISSUES

LESION = "lesion"
CLASSES = (*TISSUES, LESION)
# Lesion probability from which a voxel is counted as lesion, whatever its intensities.
LESION_PROBABILITY = 0.5


def classify(images: Array, sequences: Sequence[str], lesion: Array | None = None) -> Array:
    """Returns the class of each voxel, uint8[x, y, z], index into `CLASSES`.

    The distance to a tissue is summed over the sequences, each in units of the gap between its
    darkest and brightest tissue.

    Args:
      images: float[x, y, z, m], with the levels of `STANDARD`.
      sequences: name of each channel.
      lesion: float[x, y, z], lesion probability; None for no lesions.
    """
    distances = np.zeros((*images.shape[:3], len(TISSUES)), np.float32)
    for channel, name in enumerate(sequences):
        levels = np.array([getattr(STANDARD[name], tissue) for tissue in TISSUES], np.float32)
        image = images[..., channel]
        # Beyond the outermost levels, the outermost tissue is meant.
        inside = np.clip(image, levels.min(), levels.max())
        distances += ((inside[..., None] - levels) / np.ptp(levels)) ** 2
    classes = distances.argmin(axis=-1).astype(np.uint8)
    if lesion is not None:
        classes[lesion >= LESION_PROBABILITY] = CLASSES.index(LESION)
    return classes
