"""Starts: shifts by which a registration may begin, and which of them are worth a descent.

Knows heads: where their crowns and middles are. Knows nothing of ITK.
"""

from __future__ import annotations

import numpy as np

from flaxflair.core.records import Array, Volume, strides
from flaxflair.preprocessing.similarity import Comparison, shift_by

# Starts that are so near each other, mm, descend into the same valley; so many of them are tried.
_APART, _TRIED = 4.0, 2
# Of the 99th percentile: what is brighter is no air. mm below the crown that a head is wide.
_TISSUE, _CROWN = 0.15, 140.0
_VOXEL = 4.0  # mm, in which a head is looked for


def find_starts(moving: Volume, fixed: Volume, comparison: Comparison) -> list[Array]:
    """Returns the most promising shifts of one head onto another, float64[3] each, mm.

    The headers are right for most sessions, the centres of the fields of view where headers are
    not, those of the heads where these are not in the middle, and the crowns where one scan reaches
    further down the neck than the other.
    """
    shifts = [np.zeros(3)]
    for landmark in (_centre_of_view, _centre_of_head, _centre_of_crown):
        shift = landmark(moving) - landmark(fixed)
        if all(np.linalg.norm(shift - other) > _APART for other in shifts):
            shifts.append(shift)
    tell = [comparison.information(shift_by(shift)) for shift in shifts]
    order = np.argsort(tell)[::-1]
    return [shifts[n] for n in order[:_TRIED]]


def _centre_of_view(volume: Volume) -> Array:
    return volume.geometry.centre


def _centre_of_head(volume: Volume) -> Array:
    return np.median(_head(volume), axis=0)


def _centre_of_crown(volume: Volume) -> Array:
    """Returns the middle of the uppermost part of a head, mm."""
    head = _head(volume)
    top = np.percentile(head[:, 2], 99.5)
    middle = np.median(head[head[:, 2] > top - _CROWN], axis=0)
    middle[2] = top - 0.5 * _CROWN
    return middle


def _head(volume: Volume) -> Array:
    """Returns points in what is no air, mm, float64[n, 3]; one at least."""
    steps = strides(volume.geometry.voxel_size, _VOXEL)
    some = volume.array[tuple(slice(None, None, step) for step in steps)]
    index = np.argwhere(some >= _TISSUE * np.percentile(some, 99))
    affine = volume.geometry.affine
    return np.array(steps) * index @ affine[:3, :3].T + affine[:3, 3]
