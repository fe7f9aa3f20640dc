"""Initial translations of a registration, ranked by mutual information.

Candidates come from the headers, the fields of view and landmarks of the head. Independent of ITK.
"""

from __future__ import annotations

import numpy as np

from flaxflair.core.records import Array, Volume
from flaxflair.imaging.resampling import subsample
from flaxflair.preprocessing.similarity import Comparison, map_points, translation

# Starts closer than this, mm, converge to the same optimum.
_MIN_DISTANCE = 4.0
_MAX_STARTS = 2
_TISSUE = 0.15  # threshold between air and tissue, relative to the 99th percentile
_CROWN = 140.0  # mm below the top of the head that its centre is computed from
_VOXEL = 4.0  # mm, voxels in which the head is segmented


def find_starts(moving: Volume, fixed: Volume, comparison: Comparison) -> list[Array]:
    """Returns the translations with the largest mutual information, at most two, best first.

    The candidates are: none, as the headers are right for most sessions; the difference of the
    centres of the fields of view, if the headers are wrong; of the centres of the heads, if these
    are off-centre in the field of view; and of the centres of the upper parts of the heads, if one
    scan includes more of the neck.

    Args:
      moving: the image to be moved.
      fixed: the image it is moved onto.
      comparison: of both images.

    Returns:
      float64[3] each, mm from a point of the fixed image to the same point of the moving image.
    """
    shifts = [np.zeros(3)]
    for centre_of in (_centre_of_view, _centre_of_head, _centre_of_crown):
        shift = centre_of(moving) - centre_of(fixed)
        if all(np.linalg.norm(shift - other) > _MIN_DISTANCE for other in shifts):
            shifts.append(shift)
    information = [comparison.mutual_information(translation(shift)) for shift in shifts]
    order = np.argsort(information)[::-1]
    return [shifts[n] for n in order[:_MAX_STARTS]]


def _centre_of_view(volume: Volume) -> Array:
    return volume.geometry.centre


def _centre_of_head(volume: Volume) -> Array:
    return np.median(_head(volume), axis=0)


def _centre_of_crown(volume: Volume) -> Array:
    """Returns the centre of the uppermost `_CROWN` mm of a head, mm."""
    head = _head(volume)
    top = np.percentile(head[:, 2], 99.5)
    centre = np.median(head[head[:, 2] > top - _CROWN], axis=0)
    centre[2] = top - 0.5 * _CROWN
    return centre


def _head(volume: Volume) -> Array:
    """Returns points of the head (not air), mm, float64[n, 3]; at least one."""
    small = subsample(volume, _VOXEL)
    index = np.argwhere(small.array >= _TISSUE * np.percentile(small.array, 99))
    return map_points(small.geometry.affine, index.T).T
