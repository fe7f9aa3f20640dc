"""Reorientation of voxel axes to right, anterior, superior (RAS), and back, without interpolation.

Networks depend on the axis order of their training images.
"""

from __future__ import annotations

import numpy as np
from nibabel import orientations

from flaxflair.core.records import Array, Geometry, GeometryError, Subject, Volume

_RAS = np.array([[0, 1], [1, 1], [2, 1]])


def ras_geometry(geometry: Geometry) -> Geometry:
    """Returns the grid of the same voxels with axes closest to right, anterior, superior."""
    order = orientations.io_orientation(geometry.affine)
    shape = [0, 0, 0]
    for axis, (onto, _) in enumerate(order.astype(int)):
        shape[onto] = geometry.shape[axis]
    affine = geometry.affine @ orientations.inv_ornt_aff(order, geometry.shape)
    return Geometry((shape[0], shape[1], shape[2]), affine)


def to_ras(volume: Volume) -> Volume:
    """Returns a volume on its `ras_geometry`; a view of the same voxels."""
    order = orientations.io_orientation(volume.geometry.affine)
    array = orientations.apply_orientation(volume.array, order)
    return Volume(array, ras_geometry(volume.geometry))


def from_ras(array: Array, geometry: Geometry) -> Array:
    """Undoes `to_ras`; a view of the same voxels.

    Args:
      array: [x, y, z] or [x, y, z, m], on `ras_geometry(geometry)`.
      geometry: the grid to return to.
    """
    order = orientations.io_orientation(geometry.affine)
    back = orientations.ornt_transform(_RAS, order)
    return orientations.apply_orientation(array, back)


def to_native(array: Array, subject: Subject) -> Volume:
    """Returns an image of a subject, [x, y, z], in the axis order of its files."""
    native = subject.native or subject.geometry
    return Volume(from_ras(array, native), native)


def from_native(volume: Volume, subject: Subject) -> Array:
    """Undoes `to_native`: returns an image on the subject's grid, [x, y, z].

    Args:
      volume: on the grid of the subject, in any axis order.
      subject: subject with the grid.

    Raises:
      GeometryError: the grid differs from the subject's in shape or affine.
    """
    reoriented = to_ras(volume)
    if not reoriented.geometry.matches(subject.geometry):
        found, wanted = (
            "×".join(map(str, g.shape)) for g in (reoriented.geometry, subject.geometry)
        )
        raise GeometryError(
            f"its grid ({found} voxels) differs from that of {subject.name} ({wanted} voxels) in "
            "shape or affine"
        )
    return reoriented.array
