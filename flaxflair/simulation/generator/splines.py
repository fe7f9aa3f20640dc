"""Smooth random fields in a window, and linear maps of its axes. Independent of anatomy.

Separable operations are one small matrix per axis: cubic B-spline interpolation from knots,
convolution with a point spread, averaging over slices, and interpolation to voxels. Applying three
of them to a window of 64³ voxels takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from flaxflair.core.records import Array


def apply_along(matrices: Sequence[Array], image: Array) -> Array:
    """Returns an image with its first three axes mapped by a matrix each.

    Args:
      matrices: float32[x', x], float32[y', y], float32[z', z].
      image: float32[x, y, z, ...].

    Returns:
      float32[x', y', z', ...].
    """
    mx, my, mz = matrices
    out = np.tensordot(mx, image, (1, 0))  # x' y z
    out = np.moveaxis(np.tensordot(my, out, (1, 1)), 0, 1)
    return np.moveaxis(np.tensordot(mz, out, (1, 2)), 0, 2)


@lru_cache(64)
def bspline_matrix(points: int, spacing: float, step: float = 1.0) -> Array:
    """Returns the cubic B-spline basis of knots `spacing` mm apart, float32[points, knots].

    Args:
      points: voxels, `step` mm apart.
      spacing: mm between knots.
      step: mm between points.
    """
    at = np.arange(points) * step / spacing
    knots = int(np.floor(at[-1])) + 4
    t = np.abs(at[:, None] + 1 - np.arange(knots)[None, :])
    inner, outer = 2 / 3 - t**2 + t**3 / 2, (2 - t) ** 3 / 6
    weights = np.where(t < 1, inner, np.where(t < 2, outer, 0.0))
    return weights.astype(np.float32)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: float, step: float = 1.0
) -> Array:
    """Returns a field of zero mean and unit variance in expectation, float32[x, y, z].

    Args:
      rng: random generator.
      shape: shape of the window.
      spacing: mm between the knots of its cubic B-spline, about its correlation length.
      step: mm between voxels.
    """
    matrices = [bspline_matrix(n, spacing, step) for n in shape]
    knots = rng.standard_normal([m.shape[1] for m in matrices], np.float32)
    # The variance of a B-spline of white noise, averaged over positions, is 0.479 along each axis.
    return apply_along(matrices, knots) * np.float32(0.479**-1.5)


def sampling_matrix(points: int, at: Array, *, sd: float = 0.0, width: float = 0.0) -> Array:
    """Returns weights that average a line of voxels around positions, float32[len(at), points].

    Args:
      points: number of voxels of the line.
      at: float[n], positions in voxels.
      sd: SD of a Gaussian point spread, voxels.
      width: width of a box profile (slice profile), voxels; 0 for none.

    Returns:
      Weights with rows that sum to 1; end voxels are repeated beyond the ends.
    """
    # Narrower point spreads are undersampled.
    sd = max(sd, 0.3)
    reach = 3 * sd + width / 2
    before = int(np.ceil(max(0.0, reach - at.min())))
    after = int(np.ceil(max(0.0, at.max() + reach - (points - 1))))
    offset = np.arange(-before, points + after)[None, :] - at[:, None]
    # A box of at least one voxel, convolved with the point spread.
    half = max(width, 1.0) / 2
    weight = ndtr((offset + half) / sd) - ndtr((offset - half) / sd)
    folded = weight[:, before : before + points].copy()
    folded[:, 0] += weight[:, :before].sum(axis=1)
    folded[:, -1] += weight[:, before + points :].sum(axis=1)
    return (folded / folded.sum(axis=1, keepdims=True)).astype(np.float32)


def linear_matrix(at: Array, points: int) -> Array:
    """Returns weights of linear interpolation from `at` to voxels, float32[points, len(at)].

    Args:
      at: float[n], increasing positions in voxels; values are constant beyond them.
      points: voxels 0, 1, ..., points - 1.
    """
    voxels = np.arange(points)
    if len(at) == 1:
        return np.ones((points, 1), np.float32)
    right = np.clip(np.searchsorted(at, voxels), 1, len(at) - 1)
    part = np.clip((voxels - at[right - 1]) / (at[right] - at[right - 1]), 0, 1)
    matrix = np.zeros((points, len(at)), np.float32)
    matrix[voxels, right - 1] = 1 - part
    matrix[voxels, right] += part
    return matrix
