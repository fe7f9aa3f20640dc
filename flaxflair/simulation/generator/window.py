"""Windows of a deformed head: tissue classes at 0.5 mm, tissue fractions, MNI152 coordinates.

Independent of contrasts and lesions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flaxflair.core.records import Array
from flaxflair.simulation.generator.anatomies import MNI_ORIGIN, MNI_SHAPE, Anatomy
from flaxflair.simulation.generator.classes import AIR, CORTEX, FLUID, members
from flaxflair.simulation.generator.ranges import AnatomyRanges
from flaxflair.simulation.generator.splines import apply_along, bspline_matrix

_OCTANTS = [
    (slice(i, None, 2), slice(j, None, 2), slice(k, None, 2))
    for i in (0, 1)
    for j in (0, 1)
    for k in (0, 1)
]


@dataclass(frozen=True)
class Window:
    """A box of a deformed head with voxels of 1 mm.

    Attributes:
      octants: uint8[8, x, y, z], tissue class of each octant of a voxel.
      white: float32[x, y, z], white-matter fraction of each voxel.
      grey: likewise.
      fluid: likewise.
      brain: likewise, the sum of the three.
      ventricle_distance: uint8[x, y, z], mm.
      cortex_distance: uint8[x, y, z], mm.
      mni: float32[3, x, y, z], coordinates in voxels of the 1 mm MNI152 grid.
    """

    octants: Array
    white: Array
    grey: Array
    fluid: Array
    brain: Array
    ventricle_distance: Array
    cortex_distance: Array
    mni: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.white.shape
        return x, y, z

    def mix(self, table: Array) -> Array:
        """Returns the mean of a value per class over each voxel, float32[x, y, z]."""
        table = table.astype(np.float32)
        total = table[self.octants[0]]
        for octant in self.octants[1:]:
            total += table[octant]
        total *= np.float32(1 / 8)
        return total


def cut_window(
    rng: np.random.Generator,
    anatomy: Anatomy,
    ranges: AnatomyRanges,
    centre: Array,
    shape: tuple[int, int, int],
) -> Window:
    """Cuts a window out of a head that is rotated, scaled, mirrored and warped at random.

    Args:
      rng: random generator.
      anatomy: the head.
      ranges: ranges of the deformation.
      centre: [3], voxel of `anatomy` at the centre of the window.
      shape: voxels along x, y, z.
    """
    fine_shape = tuple(2 * size for size in shape)
    # mm from the centre
    lines = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) / 2 for n in fine_shape]
    matrix = _draw_matrix(rng, ranges).astype(np.float32)
    splines = [bspline_matrix(n, ranges.warp_spacing, 0.5) for n in fine_shape]
    knots = rng.standard_normal((*[spline.shape[1] for spline in splines], 3), np.float32)
    knots *= np.float32(rng.uniform(*ranges.warp_sd))
    extent = anatomy.classes.shape
    flat = np.zeros(fine_shape, np.int32)
    inside = np.ones(fine_shape, bool)
    positions = []
    for axis in range(3):
        at = apply_along(splines, knots[..., axis])
        at += np.float32(centre[axis]) + matrix[axis, 0] * lines[0][:, None, None]
        at += matrix[axis, 1] * lines[1][:, None] + matrix[axis, 2] * lines[2]
        positions.append(at[::2, ::2, ::2])
        index = np.rint(at).astype(np.int32)
        inside &= (index >= 0) & (index < extent[axis])
        np.clip(index, 0, extent[axis] - 1, out=index)
        flat *= extent[axis]
        flat += index
    fine = anatomy.classes.ravel()[flat]
    fine[~inside] = AIR
    if rng.random() < ranges.narrow_share:
        fine[(fine == FLUID) & (anatomy.cortex_distance.ravel()[flat] <= 1)] = CORTEX
    octants = np.stack([fine[at] for at in _OCTANTS])
    coarse = flat[::2, ::2, ::2]
    scale, offset = anatomy.to_mni.T
    scale, offset = scale.astype(np.float32), (offset - MNI_ORIGIN).astype(np.float32)
    mni = np.stack([at * scale[k] + offset[k] for k, at in enumerate(positions)])

    white, grey, fluid = (_part(octants, group) for group in ("white", "grey", "fluid"))
    return Window(
        octants,
        white,
        grey,
        fluid,
        white + grey + fluid,
        anatomy.ventricle_distance.ravel()[coarse],
        anatomy.cortex_distance.ravel()[coarse],
        mni,
    )


def _part(octants: Array, group: str) -> Array:
    """Returns the fraction of each voxel in a group of classes, float32[x, y, z]."""
    chosen = members(group).astype(np.uint8)  # type: ignore[arg-type]
    total = chosen[octants[0]]
    for octant in octants[1:]:
        total = total + chosen[octant]
    return total.astype(np.float32) / 8


def look_up(volume: Array, positions: Array) -> Array:
    """Returns the nearest-neighbour values of an MNI152 map at positions.

    Args:
      volume: [x, y, z] of `MNI_SHAPE`.
      positions: float32[3, ...], in voxels.
    """
    flat = np.zeros(positions.shape[1:], np.int32)
    for axis, size in enumerate(MNI_SHAPE):
        flat *= size
        flat += np.clip(np.rint(positions[axis]), 0, size - 1).astype(np.int32)
    return volume.ravel()[flat]


def _draw_matrix(rng: np.random.Generator, ranges: AnatomyRanges) -> Array:
    """Draws the matrix from mm of the window to voxels of the head, float64[3, 3]."""
    x, y, z = np.deg2rad(rng.uniform(*ranges.rotation, 3))
    turn = (
        np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        @ np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        @ np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    )
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(*ranges.shear, 3)
    scale = np.diag(1 / rng.uniform(*ranges.scale, 3))
    mirror = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0, 1.0])
    return mirror @ turn @ shear @ scale
