"""Masks: which voxels a mask means, whatever its values, and whether a brain mask can be one.

Knows nothing of files.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, InputError, Volume, strides
from flaxflair.imaging.resampling import resample

# Litres that a brain has.
FEWEST_LITRES, MOST_LITRES = 0.8, 2.0
# Most voxels of a mask of 0 and 255, or of 0 to 100 %, are so near its maximum.
_NEAR, _MOST = 0.9, 0.5
# mm between voxels that are compared; of the 99th percentile: what is brighter is no air; mm that
# a head's outline may be closed by; share of a brain mask that may lie in air.
_APART, _AIR, _GAP, _MOST_OUTSIDE = 4.0, 0.15, 8.0, 0.05


def binarize(array: Array) -> Array:
    """Returns which voxels a mask means, bool[x, y, z].

    Up to 1, values are probabilities. Beyond, they are what a mask of 0 to 1 was multiplied by if
    most lie near the maximum, and else the numbers of labels.
    """
    most = float(array.max(initial=0.0))
    if most > 1:
        inside = array[array > 0]
        if (inside > _NEAR * most).mean() > _MOST:
            return array > 0.5 * most
    return array > 0.5


def expect_mask(mask: Array, name: str) -> None:
    """Refuses a mask that is empty.

    Raises:
      InputError: the message calls it by its name.
    """
    if not mask.any():
        raise InputError(f"{name}: the mask is empty; give one of this scan, or leave it out")


def judge_brain(brain: Array, voxel_size: tuple[float, float, float]) -> tuple[str, ...]:
    """Returns a sentence if a brain is too small or too large to be one."""
    litres = brain.sum() * np.prod(voxel_size) / 1e6
    if FEWEST_LITRES < litres < MOST_LITRES:
        return ()
    return (f"the brain was taken to be {litres:.2f} L; look at its outline",)


def judge_given(brain: Volume, scan: Volume) -> tuple[str, ...]:
    """Returns a sentence if a given brain mask reaches beyond the head that it is to lie in.

    Args:
      brain: 0 and 1, on any grid.
      scan: over which it lies by its header.
    """
    steps = strides(scan.geometry.voxel_size, _APART)
    small = scan.array[tuple(slice(None, None, step) for step in steps)]
    spacing = [edge * step for edge, step in zip(scan.geometry.voxel_size, steps, strict=True)]
    shown = small > _AIR * np.percentile(small, 99)
    # Closed, so that dark fluid at its surface belongs to a head.
    reach = np.asarray(ndimage.distance_transform_edt(~shown, sampling=spacing)) <= _GAP
    filled = np.asarray(ndimage.binary_fill_holes(reach), bool)
    head = np.asarray(ndimage.distance_transform_edt(filled, sampling=spacing)) > _GAP
    laid = resample(
        brain.array.astype(np.float32),
        brain.geometry.affine,
        scan.geometry,
        np.eye(4),
        beyond="zero",
    )[tuple(slice(None, None, step) for step in steps)]
    inside = laid > 0.5
    if inside.any() and not (inside & ~head).sum() > _MOST_OUTSIDE * inside.sum():
        return ()
    return ("the brain mask that was given reaches beyond the head; look at its outline",)
