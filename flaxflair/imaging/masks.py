"""Masks: binarisation of masks of any value range, and plausibility checks of brain masks.

Independent of files.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, InputError, Volume, strides
from flaxflair.imaging.resampling import resample

# Range of plausible brain volumes, L.
FEWEST_LITRES, MOST_LITRES = 0.8, 2.0
# A mask was multiplied by a constant (0 and 255, percent) if more than `_MOST` of its positive
# voxels exceed `_NEAR` of its maximum.
_NEAR, _MOST = 0.9, 0.5
# Sampling distance in mm; intensity of the brightest air relative to the 99th percentile; distance
# of the head's morphological closing in mm; maximum share of a brain mask outside the head.
_APART, _AIR, _GAP, _MOST_OUTSIDE = 4.0, 0.15, 8.0, 0.05


def binarize(array: Array) -> Array:
    """Returns a mask as bool[x, y, z].

    With a maximum of at most 1, values are probabilities, thresholded at 0.5. With a larger one,
    they are a scaled mask, thresholded at half of the maximum, if most positive values are near the
    maximum; otherwise they are labels, all of which are in the mask.

    Args:
      array: [x, y, z].
    """
    most = float(array.max(initial=0.0))
    if most > 1:
        inside = array[array > 0]
        if (inside > _NEAR * most).mean() > _MOST:
            return array > 0.5 * most
    return array > 0.5


def expect_mask(mask: Array, name: str) -> None:
    """Checks that a mask is not empty.

    Args:
      mask: bool[x, y, z].
      name: name of the mask in the message.

    Raises:
      InputError: the mask is empty.
    """
    if not mask.any():
        raise InputError(f"{name}: the mask is empty; give one of this scan, or leave it out")


def check_brain_volume(brain: Array, voxel_size: tuple[float, float, float]) -> tuple[str, ...]:
    """Returns a warning if the volume of a brain mask is implausible, else nothing.

    Args:
      brain: bool[x, y, z].
      voxel_size: mm.
    """
    litres = brain.sum() * np.prod(voxel_size) / 1e6
    if FEWEST_LITRES < litres < MOST_LITRES:
        return ()
    return (f"the brain mask has a volume of {litres:.2f} L; inspect its outline",)


def check_brain_mask(brain: Volume, scan: Volume) -> tuple[str, ...]:
    """Returns a warning if a given brain mask extends beyond the head, else nothing.

    Args:
      brain: 0 and 1, on any grid.
      scan: scan of the head, in the same world coordinates.
    """
    steps = strides(scan.geometry.voxel_size, _APART)
    small = scan.array[tuple(slice(None, None, step) for step in steps)]
    spacing = [edge * step for edge, step in zip(scan.geometry.voxel_size, steps, strict=True)]
    shown = small > _AIR * np.percentile(small, 99)
    # Closing includes dark fluid at the surface of the head.
    reach = np.asarray(ndimage.distance_transform_edt(~shown, sampling=spacing)) <= _GAP
    filled = np.asarray(ndimage.binary_fill_holes(reach), bool)
    head = np.asarray(ndimage.distance_transform_edt(filled, sampling=spacing)) > _GAP
    resampled = resample(
        brain.array.astype(np.float32),
        brain.geometry.affine,
        scan.geometry,
        np.eye(4),
        beyond="zero",
    )[tuple(slice(None, None, step) for step in steps)]
    inside = resampled > 0.5
    if inside.any() and not (inside & ~head).sum() > _MOST_OUTSIDE * inside.sum():
        return ()
    return ("the given brain mask extends beyond the head; inspect its outline",)
