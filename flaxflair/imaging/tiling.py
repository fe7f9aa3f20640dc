"""Windows of a volume, and tiled evaluation of local functions.

Independent of files and networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from flaxflair.core.records import Array

Slices = tuple[slice, slice, slice]


def window_shape(shape: tuple[int, int, int], window: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns the shape of a window in a volume; an edge of 0, or beyond the axis, is the axis."""
    x, y, z = (
        size if edge == 0 else min(edge, size) for size, edge in zip(shape, window, strict=True)
    )
    return x, y, z


def draw_window(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    window: tuple[int, int, int],
    inside: Array,
) -> Slices:
    """Draws a window centred on a voxel of `inside`, shifted to fit into the volume.

    Args:
      rng: random generator.
      shape: of the volume.
      window: edge lengths; see `window_shape`.
      inside: int[n, 3], indices of the candidate centres.

    Returns:
      Slices along x, y and z, whose lengths depend only on `shape` and `window`.
    """
    centre = inside[rng.integers(len(inside))]
    cut = []
    for at, size, edge in zip(centre, shape, window_shape(shape, window), strict=True):
        start = int(np.clip(at - edge // 2, 0, size - edge))
        cut.append(slice(start, start + edge))
    return cut[0], cut[1], cut[2]


class Cut(NamedTuple):
    """One piece of an axis.

    Attributes:
      read: input range, with the halo.
      keep: part of the result without the halo.
      write: output range of that part.
    """

    read: slice
    keep: slice
    write: slice


@runtime_checkable
class Sliceable(Protocol):
    """An array, a memory map or a lazy volume that is read in tiles."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the volume, x y z first."""
        ...

    def __getitem__(self, at: Slices, /) -> Array:
        """Returns a tile."""
        ...


def cut_axis(size: int, pieces: int, halo: int, stride: int = 1) -> Iterator[Cut]:
    """Cuts an axis into pieces as even as possible, each with a halo.

    All pieces are read with the same length (one compilation). A piece at the border of the volume
    has no halo there, so 'same' padding is the padding of the whole volume.

    Args:
      size: voxels along the axis.
      pieces: maximum number of pieces; evenness or the stride may require fewer.
      halo: voxels on each side that an output depends on.
      stride: pieces are read from multiples of the stride.

    Yields:
      Cuts that together write each voxel of the axis once.
    """
    thickness, length = _even(size, pieces, halo, stride)
    for start in range(0, size, thickness):
        stop = min(start + thickness, size)
        low = min(max(start - _up(halo, stride), 0), size - length)
        yield Cut(slice(low, low + length), slice(start - low, stop - low), slice(start, stop))


def _even(size: int, pieces: int, halo: int, stride: int) -> tuple[int, int]:
    """Returns the numbers of voxels written and read by each piece."""
    thickness = _up(-(-size // pieces), stride)
    needed = _up(halo, stride) + thickness + halo
    # The last piece ends with the axis and must begin at a multiple of the stride.
    return thickness, min(size, needed + (size - needed) % stride)


def _up(number: int, stride: int) -> int:
    """Returns a number rounded up to a multiple of the stride."""
    return number + -number % stride


def plan_tiles(
    shape: tuple[int, ...], halo: int, tile_voxels: int, stride: int = 1
) -> tuple[int, int, int]:
    """Returns the numbers of pieces along x, y and z that minimise the voxels read in total.

    Args:
      shape: shape of the volume.
      halo: voxels on each side that an output depends on.
      tile_voxels: maximum size of a tile, halo included; 0 for one tile. A tile has at least
        `stride` voxels and their halo along each axis, even if that exceeds the maximum.
      stride: tiles begin at multiples of the stride.
    """
    if tile_voxels == 0:
        return 1, 1, 1

    def options(size: int) -> list[tuple[int, int, int]]:
        """Returns (pieces, voxels read by one, voxels read by all) for each distinct thickness."""
        lengths = {}
        for pieces in range(1, size + 1):
            thickness, read = _even(size, pieces, halo, stride)
            lengths.setdefault(read, (pieces, read, read * -(-size // thickness)))
        return list(lengths.values())

    def cost(tile: tuple[tuple[int, int, int], ...]) -> tuple[int, int]:
        size = tile[0][1] * tile[1][1] * tile[2][1]
        return max(0, size - tile_voxels), tile[0][2] * tile[1][2] * tile[2][2]

    best = min(itertools.product(*map(options, shape[:3])), key=cost)
    return best[0][0], best[1][0], best[2][0]


def stream(
    function: Callable[..., Array],
    volumes: tuple[Sliceable, ...],
    *,
    halo: int,
    tile_voxels: int,
    stride: int = 1,
) -> Array:
    """Applies a local function to volumes, tile by tile; equal to one call up to rounding.

    Args:
      function: arrays [x, y, z, …] -> array [x, y, z, …]. An output voxel depends on inputs at
        most `halo` voxels away, and the function is equivariant to shifts by multiples of `stride`
        voxels.
      volumes: arguments of the function, on one grid.
      halo: see above.
      tile_voxels: maximum size of a tile, halo included; 0 calls the function once.
      stride: see above.

    Returns:
      The result for the whole volumes.

    Raises:
      ValueError: the volumes have no voxels.
    """
    shape = volumes[0].shape[:3]
    if 0 in shape:
        raise ValueError(f"nothing to stream in volumes of shape {volumes[0].shape}")
    pieces = plan_tiles(shape, halo, tile_voxels, stride)
    out: Array | None = None
    for x, y, z in itertools.product(
        *(list(cut_axis(size, n, halo, stride)) for size, n in zip(shape, pieces, strict=True))
    ):
        part = function(*(volume[x.read, y.read, z.read] for volume in volumes))
        if out is None:
            out = np.empty((*shape, *part.shape[3:]), part.dtype)
        out[x.write, y.write, z.write] = part[x.keep, y.keep, z.keep]
    assert out is not None
    return out
