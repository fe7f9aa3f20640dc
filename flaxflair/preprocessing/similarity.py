"""Similarity: mutual information of two images under a transform.

Outside its field of view an image counts as air (zero), and every point is compared; otherwise a
transform that moves one image out of the other could be optimal. Knows arrays and affines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Volume, strides

_BINS = 24


class Sampling(NamedTuple):
    """Resolution of a comparison, all in mm.

    Attributes:
      spacing: distance between compared points.
      smoothing: SD of the Gaussian that both images are smoothed with.
      voxel: edge of the voxels to which the moving image is subsampled.
    """

    spacing: float
    smoothing: float
    voxel: float


class Comparison:
    """Two images, sampled once and compared under many transforms.

    Args:
      moving: image that the transform is applied to.
      fixed: image whose points are compared.
      where: bool[x, y, z], compared region of the fixed image.
      sampling: resolution.

    Attributes:
      points: float64[n, 3], compared points, world mm of the fixed image.
    """

    def __init__(self, moving: Volume, fixed: Volume, where: Array, sampling: Sampling):
        grid = _subsampling(fixed, sampling.spacing)
        index = np.argwhere(where[grid])
        self._bins = _to_bins(_smooth(fixed, sampling.smoothing)[grid][tuple(index.T)])
        self.points = map_points(fixed.geometry.part(grid).affine, index.T).T
        coarse = _subsampling(moving, sampling.voxel)
        self._moving = np.ascontiguousarray(_smooth(moving, sampling.smoothing)[coarse])
        self._to_index = np.linalg.inv(moving.geometry.part(coarse).affine)

    def mutual_information(self, matrix: Array) -> float:
        """Returns the mutual information under a transform, nats.

        Args:
          matrix: float64[4, 4], mm of the fixed image to mm of the moving one.
        """
        return _information(self._joint(matrix))

    def uncertainty_coefficient(self, matrix: Array) -> float:
        """Returns the mutual information divided by the entropy of the fixed image, 0 to 1.

        Args:
          matrix: float64[4, 4], mm of the fixed image to mm of the moving one.
        """
        joint = self._joint(matrix)
        marginal = joint.sum(axis=1)
        marginal = marginal[marginal > 0]
        entropy = float(-(marginal * np.log(marginal)).sum())
        return _information(joint) / max(entropy, 1e-9)

    def _joint(self, matrix: Array) -> Array:
        """Returns the joint histogram under a transform, float64[bins, bins], of sum 1."""
        to_moving = self._to_index @ matrix
        index = map_points(to_moving, self.points.T)
        values = ndimage.map_coordinates(self._moving, index, order=1, mode="constant")
        cells = _BINS * self._bins + _to_bins(values)
        return np.bincount(cells, minlength=_BINS**2).reshape(_BINS, _BINS) / max(cells.size, 1)


def translation(millimetres: Array) -> Array:
    """Returns the matrix, float64[4, 4], of a translation by x, y, z."""
    matrix = np.eye(4)
    matrix[:3, 3] = millimetres
    return matrix


def map_points(matrix: Array, points: Array) -> Array:
    """Returns transformed points, float64[3, n], equal to the bit in every call.

    Not by a product of matrices, whose rounding depends on threads and on the place in memory: the
    minimum of a search depends on it.

    Args:
      matrix: float64[4, 4].
      points: [3, n].
    """
    x, y, z = points
    return matrix[:3, :1] * x + matrix[:3, 1:2] * y + matrix[:3, 2:3] * z + matrix[:3, 3:]


def _to_bins(values: Array) -> Array:
    """Returns the bin of each value, int64[n]: `_BINS` equal bins from the least to the largest."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if not low < high:  # one value, or none
        return np.zeros(len(values), np.int64)
    return np.minimum((values - low) / (high - low) * _BINS, _BINS - 1).astype(np.int64)


def _information(joint: Array) -> float:
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    positive = joint > 0
    return float((joint[positive] * np.log(joint[positive] / independent[positive])).sum())


def _subsampling(volume: Volume, millimetres: float) -> tuple[slice, slice, slice]:
    x, y, z = strides(volume.geometry.voxel_size, millimetres)
    return slice(None, None, x), slice(None, None, y), slice(None, None, z)


def _smooth(volume: Volume, millimetres: float) -> Array:
    return ndimage.gaussian_filter(
        volume.array, [millimetres / edge for edge in volume.geometry.voxel_size]
    )
