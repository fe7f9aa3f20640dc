"""Places in the brain: side, depth and distance to fluid, without an atlas.

Derived from the brain mask and from a FLAIR, in which fluid is dark whatever the inputs were.
Ventricles, cortex and cerebellum are not told apart: that needs a registered atlas. Independent of
files and networks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array

Side = Literal["left", "right", "midline"]

# Intensity of a FLAIR below which a voxel is fluid, relative to white matter: half-way between the
# standard levels of fluid (0.31) and of white matter (1).
FLUID = 0.65
# Distance from the midsagittal plane within which a place has no side, mm.
MIDLINE = 3.0

VoxelSize = tuple[float, float, float]


def fluid_distance(flair: Array, brain: Array, voxel_size: VoxelSize) -> Array:
    """Returns each voxel's distance to fluid within the brain mask, float64[x, y, z], mm.

    Infinite if there is no fluid.

    Args:
      flair: [x, y, z], white matter at 1.
      brain: bool[x, y, z].
      voxel_size: mm.
    """
    fluid = brain & (flair < FLUID)
    if not fluid.any():
        return np.full(brain.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~fluid, voxel_size))


def depth_below_surface(brain: Array, voxel_size: VoxelSize) -> Array:
    """Returns each voxel's distance to the outside of the brain mask, float64[x, y, z], mm.

    Args:
      brain: bool[x, y, z]; beyond the grid is outside.
      voxel_size: mm.
    """
    padded = np.pad(brain, 1)
    return np.asarray(ndimage.distance_transform_edt(padded, voxel_size))[1:-1, 1:-1, 1:-1]


def fit_midline(brain: Array) -> Array:
    """Returns the midsagittal plane, float64[3]: x = a + b y + c z, in voxels.

    Weighted least-squares fit to the middles of the rows of a brain mask along x, so that a turned
    head has an oblique plane.

    Args:
      brain: bool[x, y, z], x towards the right.
    """
    length = brain.sum(axis=0, dtype=np.float64)
    y, z = np.nonzero(length)
    weight = length[y, z]
    middle = np.einsum("xyz,x->yz", brain, np.arange(brain.shape[0], dtype=np.float64))[y, z]
    design = np.stack([np.ones(len(y)), y, z], axis=1)
    root = np.sqrt(weight)
    plane, *_ = np.linalg.lstsq(design * root[:, None], middle / weight * root, rcond=None)
    return plane


def name_side(position: Array, plane: Array, voxel_size: VoxelSize) -> Side:
    """Returns the side of a position.

    Args:
      position: float[3], voxels.
      plane: from `fit_midline`.
      voxel_size: mm.
    """
    offset = position[0] - plane @ (1.0, position[1], position[2])
    if abs(offset) * voxel_size[0] <= MIDLINE:
        return "midline"
    return "right" if offset > 0 else "left"
