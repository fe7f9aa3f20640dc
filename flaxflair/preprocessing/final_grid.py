"""Images of a session on the reference's grid, interpolated once and divided by their bias.

Memory beyond the images is a slab for each worker, and a copy of a scan that is averaged.
Independent of how transforms and bias were estimated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.resampling import resample, slabs
from flaxflair.preprocessing.alignment import IDENTITY, map_scans, resample_volume

_LARGE = 2**29  # bytes; the scans of larger sessions are resampled one after the other


def correct_scans(
    scans: dict[str, Volume],
    reference: str,
    transforms: Mapping[str, Array],
    biases: Mapping[str, Volume],
    workers: int,
) -> Array:
    """Returns bias-corrected images, float32[m, x, y, z]; zero outside the scans.

    Args:
      scans: sequence -> scan, of m sequences. Emptied: each scan is released once it has been
        resampled, so that memory holds about one copy of a session.
      reference: sequence that defines the grid.
      transforms: sequence -> float64[4, 4], mm of the reference to mm of the scan.
      biases: sequence -> logarithm of the bias, on the reference's grid or on a coarser one.
      workers: scans that are resampled in parallel.
    """
    grid = scans[reference].geometry
    channels = {name: channel for channel, name in enumerate(scans)}
    images = np.empty((len(channels), *grid.shape), np.float32)

    def correct(name: str) -> None:
        scan, image = scans.pop(name), images[channels[name]]
        if name == reference:
            image[:] = scan.array
        else:
            resample_volume(scan, grid, transforms[name], image)
        for part, piece in slabs(grid):
            image[part] /= np.exp(_refine(biases[name], grid, part, piece))

    # One after the other, large scans are never held beside all of the images.
    map_scans(correct, channels, workers if images.nbytes < _LARGE else 1)
    return images


def refine_mask(working: Volume, grid: Geometry) -> Array:
    """Returns a mask on the reference's grid, bool[x, y, z].

    Args:
      working: float32 from 0 to 1, on that grid or on a coarser one.
      grid: the reference's grid.
    """
    mask = np.empty(grid.shape, bool)
    for part, piece in slabs(grid):
        mask[part] = _refine(working, grid, part, piece) > 0.5
    return mask


def _refine(working: Volume, grid: Geometry, part: slice, piece: Geometry) -> Array:
    """Returns a slab of an image, float32[x, y, z], on the reference's grid.

    Args:
      working: on that grid or on a coarser one; values at its border continue beyond it.
      grid: the reference's grid.
      part: rows of the slab.
      piece: grid of the slab.
    """
    if working.geometry.matches(grid):
        return working.array[part]
    return resample(working.array, working.geometry.affine, piece, IDENTITY)
