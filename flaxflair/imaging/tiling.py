"""Windows and tiles: where to cut a volume, and how tiles are sewn back.

Knows nothing of files or networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from flaxflair.core.records import Array

Slices = tuple[slice, slice, slice]


def edges_in(shape: tuple[int, int, int], window: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns the edges that a window has in a volume: one of 0, or too long, is the whole axis."""
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
    """Draws a window whose centre is a voxel of `inside`, moved to fit the volume.

    Args:
      rng: the address of this draw.
      shape: of the volume.
      window: edge lengths; see `edges_in`.
      inside: int[n, 3], indices of the voxels that may be centres.

    Returns:
      Slices along x, y and z, always of the same lengths for one shape.
    """
    centre = inside[rng.integers(len(inside))]
    cut = []
    for at, size, edge in zip(centre, shape, edges_in(shape, window), strict=True):
        start = int(np.clip(at - edge // 2, 0, size - edge))
        cut.append(slice(start, start + edge))
    return cut[0], cut[1], cut[2]


class Cut(NamedTuple):
    """One piece of an axis: `read` with its halo; `keep` of the result is what to `write`."""

    read: slice
    keep: slice
    write: slice


class Sliceable(Protocol):
    """What is read a tile at a time: an array, a memory map, or what makes tiles when asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole, x y z first."""
        ...

    def __getitem__(self, at: Slices, /) -> Array:
        """Returns a tile."""
        ...


def cut_axis(size: int, pieces: int, halo: int, stride: int = 1) -> Iterator[Cut]:
    """Cuts an axis into pieces as even as can be, each read with a halo.

    Every piece is read with the same length (one compilation). Where one ends at the border of the
    volume it has no halo, so that 'same' padding there is the padding of the whole volume.

    Args:
      size: voxels along the axis.
      pieces: how many are wanted; there are fewer where evenness or the stride needs fewer.
      halo: voxels on each side that an output depends on.
      stride: what is read begins at multiples of it.

    Yields:
      Cuts which together write each voxel of the axis once.
    """
    thickness, length = _even(size, pieces, halo, stride)
    for start in range(0, size, thickness):
        stop = min(start + thickness, size)
        low = min(max(start - _up(halo, stride), 0), size - length)
        yield Cut(slice(low, low + length), slice(start - low, stop - low), slice(start, stop))


def _even(size: int, pieces: int, halo: int, stride: int) -> tuple[int, int]:
    """Returns voxels written and voxels read by each piece."""
    thickness = _up(-(-size // pieces), stride)
    needed = _up(halo, stride) + thickness + halo
    # As long as leaves a multiple of the stride before the piece that ends with the axis.
    return thickness, min(size, needed + (size - needed) % stride)


def _up(number: int, stride: int) -> int:
    """Returns the next multiple of the stride."""
    return number + -number % stride


def plan_tiles(
    shape: tuple[int, ...], halo: int, voxels: int, stride: int = 1
) -> tuple[int, int, int]:
    """Returns the pieces along x, y and z by which the fewest voxels are read in all.

    Args:
      shape: of the volume.
      halo: voxels on each side that an output depends on.
      voxels: that a tile may hold, halo included; 0 for one tile. A tile is never thinner than
        `stride` voxels and their halo, even where that is more.
      stride: tiles begin at multiples of it.
    """
    if voxels == 0:
        return 1, 1, 1

    def options(size: int) -> list[tuple[int, int, int]]:
        """Returns (pieces, voxels read by one, voxels read by all), once for each thickness."""
        lengths = {}
        for pieces in range(1, size + 1):
            thickness, read = _even(size, pieces, halo, stride)
            lengths.setdefault(read, (pieces, read, read * -(-size // thickness)))
        return list(lengths.values())

    def cost(tile: tuple[tuple[int, int, int], ...]) -> tuple[int, int]:
        held = tile[0][1] * tile[1][1] * tile[2][1]
        return max(0, held - voxels), tile[0][2] * tile[1][2] * tile[2][2]

    best = min(itertools.product(*map(options, shape[:3])), key=cost)
    return best[0][0], best[1][0], best[2][0]


def stream(
    function: Callable[..., Array],
    volumes: tuple[Sliceable, ...],
    *,
    halo: int,
    voxels: int,
    stride: int = 1,
) -> Array:
    """Applies a local function to volumes, tile by tile.

    Args:
      function: arrays [x, y, z, …] -> array [x, y, z, …], where an output voxel depends on inputs
        at most `halo` voxels away, and of which only shifts by multiples of `stride` voxels are
        the same function.
      volumes: its arguments, of one grid.
      halo: see above.
      voxels: that a tile may hold, halo included; 0 calls the function once.
      stride: see above.

    Returns:
      What the function gives for the whole volumes, to rounding.
    """
    shape = volumes[0].shape[:3]
    if 0 in shape:
        raise ValueError(f"nothing to stream in volumes of shape {volumes[0].shape}")
    pieces = plan_tiles(shape, halo, voxels, stride)
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
