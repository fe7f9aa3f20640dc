"""Truth: how well a scan of the phantom was prepared, where its motion and its bias are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.resampling import resample


class Correction(NamedTuple):
    """What became of a scan's bias, one value for each voxel of a region.

    Attributes:
      planted: the field that the image was multiplied by.
      scanned: the image as it was.
      corrected: the image as it was prepared.
    """

    planted: Array
    scanned: Array
    corrected: Array

    @property
    def left(self) -> Array:
        """What correction left of the field."""
        return self.planted * self.corrected / self.scanned


def misplaced(found: Array, motion: Array, brain: Array, grid: Geometry, every: int = 50) -> float:
    """Returns how far registration is off, on average in the brain, mm.

    Args:
      found: float64[4, 4], mm of the grid to mm of the scan.
      motion: float64[4, 4], the same in truth.
      brain: bool[x, y, z].
      grid: of the brain.
      every: one of so many voxels is looked at.
    """
    points = np.argwhere(brain)[::every] @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    gap = found - motion
    return float(np.linalg.norm(points @ gap[:3, :3].T + gap[:3, 3], axis=1).mean())


def compare_bias(
    scan: Volume,
    field: Array,
    corrected: Array,
    grid: Geometry,
    found: Array,
    motion: Array,
    region: Array,
) -> Correction:
    """Returns what became of the bias in a region, as far as it was scanned.

    Args:
      scan: as the scanner left it.
      field: [x, y, z], its true bias, on its grid.
      corrected: [x, y, z], as it was prepared.
      grid: of what was prepared.
      found: float64[4, 4], mm of the grid to mm of the scan, as registration found it.
      motion: float64[4, 4], the same in truth.
      region: bool[x, y, z], on the grid.
    """
    own = scan.geometry.affine
    plain, scanned = (
        resample(array, own, grid, found, beyond="zero")
        for array in (scan.array, np.ones_like(scan.array))
    )
    # At the edge of the field of view an image fades into zero.
    inside = region & (scanned > 0.999) & (plain > 0)
    laid = resample(field, own, grid, motion)
    return Correction(laid[inside], plain[inside], corrected[inside])


def variation(values: Array) -> float:
    """Returns the coefficient of variation."""
    return float(values.std() / values.mean())
