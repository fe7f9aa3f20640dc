"""Windows and slabs: where to cut a volume, and how slabs are sewn back.

Knows nothing of files or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from flaxflair.volume import Array

Slices = tuple[slice, slice, slice]


def draw_window(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    window: tuple[int, int, int],
    inside: Array,
) -> Slices:
    """Draws a window whose centre is a voxel of `inside`, moved to fit the volume.

    Args:
      rng: the address of this draw.
      shape: of the volume.
      window: edge lengths; an edge of 0, or beyond the volume's, takes the whole axis.
      inside: int[n, 3], indices of the voxels that may be centres.

    Returns:
      Slices along x, y and z, always of the same lengths for one shape.
    """
    centre = inside[rng.integers(len(inside))]
    cut = []
    for at, size, edge in zip(centre, shape, window, strict=True):
        edge = size if edge == 0 else min(edge, size)
        start = int(np.clip(at - edge // 2, 0, size - edge))
        cut.append(slice(start, start + edge))
    return cut[0], cut[1], cut[2]


class Slab(NamedTuple):
    """One slab: `read` with its halo from the volume; `keep` of the result is what to `write`."""

    read: slice
    keep: slice
    write: slice


def cut_slabs(size: int, thickness: int, halo: int) -> Iterator[Slab]:
    """Cuts an axis into slabs of one thickness, each read with a halo.

    Every slab is read with the same length (one compilation); the last ones overlap instead of
    being thinner. Where a slab ends at the border of the volume it has no halo, so that 'same'
    padding there is the padding of the whole volume.

    Args:
      size: voxels along the axis.
      thickness: voxels written by a slab.
      halo: voxels on each side that an output depends on.

    Yields:
      Slabs which together write each voxel of the axis.
    """
    length = min(size, thickness + 2 * halo)
    for start in range(0, size, thickness):
        stop = min(start + thickness, size)
        low = min(max(start - halo, 0), size - length)
        yield Slab(slice(low, low + length), slice(start - low, stop - low), slice(start, stop))


def stream(
    function: Callable[..., Array], volumes: tuple[Array, ...], *, halo: int, slab: int
) -> Array:
    """Applies a local function to volumes, slab by slab along their longest axis.

    Args:
      function: arrays [x, y, z, …] -> array [x, y, z, …], where an output voxel depends on inputs
        at most `halo` voxels away.
      volumes: its arguments, of one grid.
      halo: see above.
      slab: voxels along the axis that are written at a time; 0 calls the function once.

    Returns:
      What the function gives for the whole volumes, to rounding.
    """
    if slab == 0:
        return function(*volumes)
    axis = int(np.argmax(volumes[0].shape[:3]))

    def at(part: slice) -> tuple[slice, ...]:
        return (*[slice(None)] * axis, part)

    out: Array | None = None
    for cut in cut_slabs(volumes[0].shape[axis], slab, halo):
        part = function(*(volume[at(cut.read)] for volume in volumes))
        if out is None:
            size = list(part.shape)
            size[axis] = volumes[0].shape[axis]
            out = np.empty(size, part.dtype)
        out[at(cut.write)] = part[at(cut.keep)]
    if out is None:
        raise ValueError(f"nothing to stream in volumes of shape {volumes[0].shape}")
    return out
