"""Resampling of an image onto another grid through one transform, with a single interpolation.

Independent of files and of the content of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, Volume, strides

_SLAB = 4_000_000  # voxels
_SAME = 1e-6  # voxels, differences due to rounding
_FEWEST = 4  # blocks along an axis, the minimum for the smoothing of ITK


def _box(array: Array, width: float, axis: int, out: Array | None) -> Array:
    """Returns the moving average over `width` points along an axis, end points weighted in part.

    The result is written to `out`, if given, which may be `array`.
    """
    # The variance of the linear interpolation that follows (1/6) is subtracted from the box's.
    width = np.sqrt(max(width**2 - 2.0, 0.0))
    if width <= 1:
        return array
    half = int(np.ceil((width - 1) / 2))
    kernel = np.ones(2 * half + 1)
    kernel[[0, -1]] = (width - (2 * half - 1)) / 2
    return ndimage.correlate1d(array, kernel / width, axis=axis, mode="nearest", output=out)


def resample(
    array: Array,
    affine: Array,
    target: Geometry,
    transform: Array,
    *,
    beyond: Literal["border", "zero"] = "border",
    out: Array | None = None,
) -> Array:
    """Resamples an image onto another grid, averaging over the target's voxels.

    Args:
      array: [x, y, z].
      affine: float64[4, 4], voxel indices to mm.
      target: grid of the result.
      transform: float64[4, 4], mm of the target to mm of the image.
      beyond: values outside the image: those of its border, or zero.
      out: float32[x', y', z'] to write to; None for a new array.

    Returns:
      float32[x', y', z'].
    """
    mapping = np.linalg.inv(affine) @ transform @ target.affine  # target index -> image index
    # Edges of a target voxel, in image voxels, each averaged along its closest image axis.
    averaged = image = np.asarray(array, np.float32)
    for edge in mapping[:3, :3].T:
        axis = int(np.argmax(np.abs(edge)))
        new = None if averaged is image else averaged
        averaged = _box(averaged, float(np.linalg.norm(edge)), axis, new)
    positions = _separate(mapping, target.shape)
    if positions is not None:
        out = np.empty(target.shape, np.float32) if out is None else out
        _interpolate(averaged, positions, beyond == "zero", out)
        return out
    mode = {"border": "nearest", "zero": "constant"}[beyond]
    return ndimage.affine_transform(
        averaged, mapping, output_shape=target.shape, order=1, mode=mode, output=out
    )


def _separate(mapping: Array, shape: tuple[int, int, int]) -> list[Array] | None:
    """Returns the source positions along each axis if a mapping turns no axis; otherwise, None.

    Args:
      mapping: float64[4, 4], target index to image index.
      shape: of the target.
    """
    linear = mapping[:3, :3]
    turned = linear - np.diag(np.diag(linear))
    if (np.abs(turned) @ np.array(shape)).max() > _SAME:
        return None
    positions = [
        np.arange(size) * linear[axis, axis] + mapping[axis, 3] for axis, size in enumerate(shape)
    ]
    # Rounding errors, which would move the border out of the image.
    return [np.where(np.abs(p - np.round(p)) < _SAME, np.round(p), p) for p in positions]


def _interpolate(array: Array, positions: Sequence[Array], zero: bool, out: Array) -> None:
    """Interpolates linearly along one axis after the other, several times as fast as all at once.

    Args:
      array: float32[x, y, z].
      positions: of the result, along x, y and z of the image, voxels.
      zero: whether values outside the image are zero, not those of its border.
      out: float32[x', y', z'] to write to.
    """
    shape = array.shape
    weights = [_weigh(p, size) for p, size in zip(positions, shape, strict=True)]
    # Slabs of the result, so that no intermediate image is as large as either.
    rows = max(1, _SLAB * len(out) // max(out.size, array.size))
    for start in range(0, len(out), rows):
        at = slice(start, start + rows)
        low, high, part = (values[at] for values in weights[0])
        first = int(low.min())  # rows may run in either direction
        values = array[first : int(high.max()) + 1]
        values = _blend(values, (low - first, high - first, part), 0)
        values = _blend(values, weights[1], 1)
        out[at] = _blend(values, weights[2], 2)
    if zero:
        for axis, (p, size) in enumerate(zip(positions, shape, strict=True)):
            out[(slice(None),) * axis + ((p < 0) | (p > size - 1),)] = 0


def _blend(array: Array, weights: tuple[Array, Array, Array], axis: int) -> Array:
    """Returns the linear interpolation along one axis, with weights from `_weigh`."""
    low, high, part = weights
    below = np.take(array, low, axis)
    part = part.reshape([-1 if k == axis else 1 for k in range(3)])
    return below + part * (np.take(array, high, axis) - below)


def _weigh(positions: Array, size: int) -> tuple[Array, Array, Array]:
    """Returns the voxels below and above each position, and the weight of the latter, float32."""
    inside = np.clip(positions, 0, size - 1)
    low = inside.astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (inside - low).astype(np.float32)


def block_mean(array: Array, steps: Sequence[int]) -> Array:
    """Returns the means of blocks of voxels, float32; an incomplete last block is left out.

    Args:
      array: [x, y, z].
      steps: voxels of a block along x, y, z.
    """
    x, y, z = (n // step for n, step in zip(array.shape, steps, strict=True))
    cut = array[: x * steps[0], : y * steps[1], : z * steps[2]]
    blocks = cut.reshape(x, steps[0], y, steps[1], z, steps[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def coarsen(volume: Volume, millimetres: float) -> Volume:
    """Returns the means of blocks of voxels, or the same volume if no two voxels fit into a block.

    Args:
      volume: the image.
      millimetres: maximum edge of a block, mm; axes with voxels of more than half of it are not
        averaged. Blocks are smaller along an axis that would have fewer than `_FEWEST` of them.
    """
    geometry = volume.geometry
    most = strides(geometry.voxel_size, millimetres)
    steps = tuple(
        max(1, min(step, size // _FEWEST)) for step, size in zip(most, geometry.shape, strict=True)
    )
    if steps == (1, 1, 1):
        return volume
    array = block_mean(volume.array, steps)
    corner = np.diag([*steps, 1.0])
    corner[:3, 3] = (np.array(steps) - 1) / 2  # centre of the first block
    x, y, z = array.shape
    return Volume(array, Geometry((x, y, z), geometry.affine @ corner))


def slabs(geometry: Geometry) -> Iterator[tuple[slice, Geometry]]:
    """Yields slabs of a grid along x, of at most `_SLAB` voxels or one row, and their grids."""
    x, y, z = geometry.shape
    rows = max(1, _SLAB // (y * z))
    for start in range(0, x, rows):
        part = slice(start, min(start + rows, x))
        yield part, geometry.part((part, slice(None), slice(None)))


def subsample(volume: Volume, millimetres: float) -> Volume:
    """Returns every n-th voxel of an image along each axis.

    Args:
      volume: the image.
      millimetres: maximum distance of the voxels that are kept; finer axes are subsampled.
    """
    x, y, z = strides(volume.geometry.voxel_size, millimetres)
    at = slice(None, None, x), slice(None, None, y), slice(None, None, z)
    return Volume(volume.array[at], volume.geometry.part(at))


def bounding_box(
    geometry: Geometry, region: Array, margin: float
) -> tuple[Geometry, tuple[slice, slice, slice]]:
    """Returns the bounding box of a region as a grid, and its slices.

    Args:
      geometry: the whole grid.
      region: bool[x, y, z]; if it is empty, the whole grid is returned.
      margin: mm around it, at least one voxel.
    """
    slices: list[slice] = []
    for axis, size in enumerate(geometry.voxel_size):
        inside = np.flatnonzero(region.any(axis=tuple(k for k in range(3) if k != axis)))
        first, last = (inside[0], inside[-1]) if inside.size else (0, region.shape[axis] - 1)
        steps = max(1, round(margin / size))
        stop = min(int(last) + steps + 1, region.shape[axis])
        slices.append(slice(max(int(first) - steps, 0), stop))
    x, y, z = slices
    return geometry.part((x, y, z)), (x, y, z)
