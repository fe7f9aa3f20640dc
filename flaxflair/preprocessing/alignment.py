"""Alignment: registration of the scans of one session onto the reference.

All coordinates are in the frame of the reference, whose axes run right, anterior and superior, so
the result does not depend on the axis order of the files or on rotations in the headers. In memory;
independent of file names and of bias.
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

# Margin of the registration mask around the brain, mm: the contrast of a PD is largest at its edge.
_MARGIN = 3.0
IDENTITY = np.eye(4)
# Decimals to which axis vectors are rounded, mm; positions are rounded to two fewer.
_DIGITS = 5
_T = TypeVar("_T")


def align(
    scans: Mapping[str, Volume],
    reference: str,
    masked: str,
    mask: Volume,
    options: Preparation,
) -> tuple[dict[str, Array], Volume]:
    """Registers every scan onto the reference, within the brain.

    Args:
      scans: sequence -> scan, bias-corrected by `session_bias.correct_scan`.
      reference: sequence that the others are registered onto.
      masked: sequence that the brain mask is aligned with.
      mask: brain, float32 from 0 to 1.
      options: options of the preparation.

    Returns:
      Sequence -> float64[4, 4], mm of the reference to mm of the scan; and the brain, float32 from
      0 to 1, on the reference's grid.

    Raises:
      InputError: by the headers, the brain is outside the reference's field of view.
    """
    geometry = scans[reference].geometry
    # The headers alone are accurate enough for the mask of the first registration.
    near = resample_volume(mask, geometry, IDENTITY) > 0.5
    if not near.any():
        raise InputError(
            f"the brain lies outside the {reference}; check the headers of the session"
        )

    def find(name: str, where: Array) -> Array:
        return register(scans[name], scans[reference], where, options.dof)

    transforms = {reference: IDENTITY}
    if masked != reference:
        transforms[masked] = find(masked, _dilate(near, geometry))
    inside = mask
    if masked != reference or not mask.geometry.matches(geometry):
        inside = Volume(resample_volume(mask, geometry, transforms[masked]), geometry)
    around = _dilate(inside.array > 0.5, geometry)
    rest = [name for name in scans if name not in transforms]
    transforms |= map_scans(lambda name: find(name, around), rest, options.workers)
    return {name: transforms[name] for name in scans}, inside


def frame_of(geometry: Geometry) -> Array:
    """Returns the rigid matrix, mm along a grid's axes from its centre -> world mm."""
    sides, _, axes = np.linalg.svd(geometry.affine[:3, :3] / geometry.voxel_size)
    frame = np.eye(4)
    frame[:3, :3] = sides @ axes  # the closest rotation, if the axes are sheared
    frame[:3, 3] = geometry.centre
    return frame


def to_frame(frame: Array, volume: Volume) -> Volume:
    """Returns a volume in the coordinates of a frame, its axes in RAS order.

    The affine is rounded: headers hold 32 bits, and rounding errors of a rotated header would
    change the result of a registration by up to 0.002 mm.
    """
    turned = to_ras(volume)
    affine = np.linalg.inv(frame) @ turned.geometry.affine
    affine[:3, :3] = np.round(affine[:3, :3], _DIGITS)
    affine[:3, 3] = np.round(affine[:3, 3], _DIGITS - 2)
    return Volume(turned.array, Geometry(turned.geometry.shape, affine))


def edges_along(scan: Geometry, grid: Geometry) -> tuple[float, float, float]:
    """Returns the edges in mm of a scan's voxels along the axes of a grid, at least the grid's.

    Each axis of the grid is assigned the edge of the scan's axis closest in direction.
    """
    axes = grid.affine[:3, :3] / np.array(grid.voxel_size)
    scanned = np.array(scan.voxel_size)
    cosines = np.abs(axes.T @ (scan.affine[:3, :3] / scanned))
    x, y, z = np.maximum(scanned[cosines.argmax(axis=1)], grid.voxel_size)
    return float(x), float(y), float(z)


def _dilate(mask: Array, geometry: Geometry) -> Array:
    steps = np.maximum(1, np.round(_MARGIN / np.array(geometry.voxel_size))).astype(int)
    return ndimage.maximum_filter(mask.astype(np.uint8), tuple(2 * steps + 1)) > 0


def resample_volume(
    volume: Volume, geometry: Geometry, transform: Array, out: Array | None = None
) -> Array:
    """Resamples a volume to a grid, float32[x, y, z]; zero outside the volume.

    Args:
      volume: to be resampled.
      geometry: the grid.
      transform: float64[4, 4], mm of the grid to mm of the volume.
      out: float32[x, y, z] to write to; None for a new array.
    """
    affine = volume.geometry.affine
    return resample(volume.array, affine, geometry, transform, beyond="zero", out=out)


def map_scans(call: Callable[[str], _T], names: Collection[str], workers: int) -> dict[str, _T]:
    """Returns sequence -> result of `call`, computed in `workers` threads."""
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(call, names), strict=True))
