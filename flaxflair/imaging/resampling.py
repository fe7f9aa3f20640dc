"""Resampling of an image onto another grid through one transform, with a single interpolation.

Independent of files and of the content of the image.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, Volume, strides


def _box(array: Array, width: float, axis: int) -> Array:
    """Returns the moving average over `width` points along an axis, end points weighted in part."""
    # The variance of the linear interpolation that follows (1/6) is subtracted from the box's.
    width = np.sqrt(max(width**2 - 2.0, 0.0))
    if width <= 1:
        return array
    half = int(np.ceil((width - 1) / 2))
    kernel = np.ones(2 * half + 1)
    kernel[[0, -1]] = (width - (2 * half - 1)) / 2
    return ndimage.correlate1d(array, kernel / width, axis=axis, mode="nearest")


def resample(
    array: Array,
    affine: Array,
    target: Geometry,
    transform: Array,
    *,
    beyond: Literal["border", "zero"] = "border",
) -> Array:
    """Resamples an image onto another grid, averaging over the target's voxels.

    Args:
      array: float32[x, y, z].
      affine: float64[4, 4], voxel indices to mm.
      target: grid of the result.
      transform: float64[4, 4], mm of the target to mm of the image.
      beyond: values outside the image: those of its border, or zero.

    Returns:
      float32[x', y', z'].
    """
    mapping = np.linalg.inv(affine) @ transform @ target.affine  # target index -> image index
    # Edges of a target voxel, in image voxels, each averaged along its closest image axis.
    for edge in mapping[:3, :3].T:
        axis = int(np.argmax(np.abs(edge)))
        array = _box(array, float(np.linalg.norm(edge)), axis)
    mode = {"border": "nearest", "zero": "constant"}[beyond]
    return ndimage.affine_transform(array, mapping, output_shape=target.shape, order=1, mode=mode)


def subsample(volume: Volume, millimetres: float) -> Volume:
    """Returns every n-th voxel of an image along each axis.

    Args:
      volume: the image.
      millimetres: maximum distance of the voxels that are kept; finer axes are subsampled.
    """
    steps = strides(volume.geometry.voxel_size, millimetres)
    array = volume.array[:: steps[0], :: steps[1], :: steps[2]]
    x, y, z = array.shape
    return Volume(array, Geometry((x, y, z), volume.geometry.affine @ np.diag([*steps, 1.0])))
