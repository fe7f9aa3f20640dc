"""Similarity: how much one image tells of another that is laid on it. Knows arrays and affines.

Outside its field of view an image is air, zero, so that a map that moves one image out of the other
is no good one: nothing is left out of the comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Volume, strides

_BINS = 24


class Look(NamedTuple):
    """How closely images are compared: mm between points, of smoothing, and of a scan's voxel."""

    apart: float
    smoothing: float
    voxel: float


class Comparison:
    """Two images, made ready to be compared under many maps.

    Args:
      moving: the image that is laid on the other.
      fixed: the other, whose points are compared.
      where: bool[x, y, z], where on the fixed image.
      look: how closely.
    """

    def __init__(self, moving: Volume, fixed: Volume, where: Array, look: Look):
        every = _every(fixed, look.apart)
        steps = np.array([step.step for step in every])
        index = np.argwhere(where[every])
        self._values = _smooth(fixed, look.smoothing)[every][tuple(index.T)]
        affine = fixed.geometry.affine
        self.points = steps * index @ affine[:3, :3].T + affine[:3, 3]
        some = _every(moving, look.voxel)
        self._moving = np.ascontiguousarray(_smooth(moving, look.smoothing)[some])
        grid = moving.geometry.affine @ np.diag([*(step.step for step in some), 1.0])
        self._to_index = np.linalg.inv(grid)

    def information(self, matrix: Array) -> float:
        """Returns the mutual information under a map, nats.

        Args:
          matrix: float64[4, 4], mm of the fixed image to mm of the moving one.
        """
        return mutual_information(self._values, self._seen(matrix))

    def share(self, matrix: Array) -> float:
        """Returns which share of what the fixed image says the moving one tells, 0 to 1."""
        joint = _joint(self._values, self._seen(matrix))
        own = joint.sum(axis=1)
        own = own[own > 0]
        return _information(joint) / max(float(-(own * np.log(own)).sum()), 1e-9)

    def _seen(self, matrix: Array) -> Array:
        to_moving = self._to_index @ matrix
        there = self.points @ to_moving[:3, :3].T + to_moving[:3, 3]
        return ndimage.map_coordinates(self._moving, there.T, order=1, mode="constant")


def shift_by(millimetres: Array) -> Array:
    """Returns the matrix, float64[4, 4], that adds x, y, z."""
    matrix = np.eye(4)
    matrix[:3, 3] = millimetres
    return matrix


def mutual_information(a: Array, b: Array) -> float:
    """Returns what two lists of values tell of each other, nats."""
    return _information(_joint(a, b))


def _joint(a: Array, b: Array) -> Array:
    return np.histogram2d(a, b, bins=_BINS)[0] / a.size


def _information(joint: Array) -> float:
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())


def _every(volume: Volume, millimetres: float) -> tuple[slice, slice, slice]:
    x, y, z = strides(volume.geometry.voxel_size, millimetres)
    return slice(None, None, x), slice(None, None, y), slice(None, None, z)


def _smooth(volume: Volume, millimetres: float) -> Array:
    return ndimage.gaussian_filter(
        volume.array, [millimetres / edge for edge in volume.geometry.voxel_size]
    )
