"""Alignment: the scans of one session registered onto the reference, in the reference's frame.

Everything happens in a frame in which the axes of the reference run right, anterior and superior:
how a file orders its axes, or a header turns them, makes no difference. In memory; independent of
file names and of bias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, InputError, Volume
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.preprocessing.options import Preparation
from flaxflair.preprocessing.registration import register

# Registration compares images this far around the brain, mm: of a PD its edge tells the most.
_MARGIN = 3.0
HERE = np.eye(4)
# Decimals of a voxel's edge, mm, that count; of its place two fewer.
_DIGITS = 5
_T = TypeVar("_T")


def align(
    even: Mapping[str, Volume], kept: str, leader: str, mask: Volume, how: Preparation
) -> tuple[dict[str, Array], Volume]:
    """Registers every scan onto the reference, where the brain is.

    Args:
      even: sequence -> scan, as `_correct_alone` leaves it.
      kept: the reference.
      leader: the sequence that the brain mask lies over.
      mask: of the brain, float32 from 0 to 1.
      how: what is chosen.

    Returns:
      Sequence -> float64[4, 4], mm of the reference to mm of the scan; and the brain, float32 from
      0 to 1, on the reference's grid.
    """
    geometry = even[kept].geometry
    # Headers alone say where the brain is in the others: near enough to begin with.
    near = resample_volume(mask, geometry, HERE) > 0.5
    if not near.any():
        raise InputError(f"the brain lies outside the {kept}; check the headers of the session")

    def find(name: str, where: Array) -> Array:
        return register(even[name], even[kept], where, how.freedom)

    transforms = {kept: HERE}
    if leader != kept:
        transforms[leader] = find(leader, _dilate(near, geometry))
    inside = mask
    if leader != kept or not mask.geometry.matches(geometry):
        inside = Volume(resample_volume(mask, geometry, transforms[leader]), geometry)
    around = _dilate(inside.array > 0.5, geometry)
    rest = [name for name in even if name not in transforms]
    transforms |= map_scans(lambda name: find(name, around), rest, how.workers)
    return {name: transforms[name] for name in even}, inside


def frame_of(geometry: Geometry) -> Array:
    """Returns the rigid matrix, mm along a grid's axes from its centre to world mm."""
    sides, _, axes = np.linalg.svd(geometry.affine[:3, :3] / geometry.voxel_size)
    frame = np.eye(4)
    frame[:3, :3] = sides @ axes  # the rotation closest to the axes, should they be sheared
    frame[:3, 3] = geometry.centre
    return frame


def to_frame(frame: Array, volume: Volume) -> Volume:
    """Returns a volume whose mm are those of a frame.

    Headers hold 32 bits: the same session, turned, would differ in the last of them, and a descent
    end 0.002 mm from where it did.
    """
    turned = to_ras(volume)
    affine = np.linalg.inv(frame) @ turned.geometry.affine
    affine[:3, :3] = np.round(affine[:3, :3], _DIGITS)
    affine[:3, 3] = np.round(affine[:3, 3], _DIGITS - 2)
    return Volume(turned.array, Geometry(turned.geometry.shape, affine))


def edges_along(scan: Geometry, grid: Geometry) -> tuple[float, float, float]:
    """Returns the edges in mm of a scan's voxels along the axes of a grid, at least the grid's own.

    Each axis of the grid takes the edge of the scan's axis that runs closest to it.
    """
    axes = grid.affine[:3, :3] / np.array(grid.voxel_size)
    scanned = np.array(scan.voxel_size)
    cosines = np.abs(axes.T @ (scan.affine[:3, :3] / scanned))
    x, y, z = np.maximum(scanned[cosines.argmax(axis=1)], grid.voxel_size)
    return float(x), float(y), float(z)


def _dilate(mask: Array, geometry: Geometry) -> Array:
    steps = np.maximum(1, np.round(_MARGIN / np.array(geometry.voxel_size))).astype(int)
    return ndimage.maximum_filter(mask.astype(np.uint8), tuple(2 * steps + 1)) > 0


def resample_volume(volume: Volume, geometry: Geometry, transform: Array) -> Array:
    """Returns a volume on a grid, float32[x, y, z]; zero where it was not scanned.

    Args:
      volume: in its own space.
      geometry: the grid.
      transform: float64[4, 4], mm of the grid to mm of the volume.
    """
    own = volume.geometry.affine
    array = volume.array.astype(np.float32, copy=False)
    return resample(array, own, geometry, transform, beyond="zero")


def map_scans(call: Callable[[str], _T], names: Collection[str], workers: int) -> dict[str, _T]:
    """Returns sequence -> result of a call, so many at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(call, names), strict=True))
