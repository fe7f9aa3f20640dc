"""Simulated acquisition and preparation of noise-free images.

Independent of tissues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array
from flaxflair.simulation.generator.ranges import ScannerRanges
from flaxflair.simulation.generator.splines import (
    apply_along,
    linear_matrix,
    sampling_matrix,
    smooth_field,
)


@dataclass(frozen=True)
class Resolution:
    """Resolution of one acquisition.

    Attributes:
      edges: distance of voxels along x, y, z, mm.
      widths: extent of a voxel along x, y, z, mm; less than the distance for slices with gaps.
    """

    edges: tuple[float, float, float]
    widths: tuple[float, float, float]


def draw_resolution(rng: np.random.Generator, ranges: ScannerRanges) -> Resolution:
    """Draws isotropic voxels or thick slices."""
    if rng.random() < ranges.volume_share:
        edges = rng.uniform(*ranges.volume_mm) * rng.uniform(0.9, 1.1, 3)
        x, y, z = (float(edge) for edge in edges)
        return Resolution((x, y, z), (x, y, z))
    edge = float(rng.uniform(*ranges.in_plane_mm))
    distance = float(rng.uniform(*ranges.slice_mm))
    width = distance / (1 + float(rng.uniform(*ranges.gap)))
    axis = 2 if rng.random() < ranges.axial_share else int(rng.integers(2))
    edges, widths = [edge] * 3, [edge] * 3
    edges[axis], widths[axis] = distance, width
    return Resolution((edges[0], edges[1], edges[2]), (widths[0], widths[1], widths[2]))


def acquire(
    rng: np.random.Generator,
    image: Array,
    resolution: Resolution,
    ranges: ScannerRanges,
    white: float,
) -> Array:
    """Returns an image after acquisition, preparation and interpolation onto its grid of 1 mm.

    In order: misregistration, residual bias, averaging over the acquisition's voxels, Rician noise,
    a ghost in some images, and linear interpolation.

    Args:
      rng: random generator.
      image: float32[x, y, z], noise-free, voxels of 1 mm.
      resolution: resolution of the acquisition.
      ranges: ranges of the random parameters.
      white: signal of white matter, to which the noise is relative.
    """
    shift = rng.normal(0, ranges.shift_mm, 3)
    image = _rotate(image, np.deg2rad(rng.normal(0, ranges.rotation, 3)))
    bias = rng.uniform(*ranges.bias_sd) * smooth_field(rng, _shape(image), ranges.bias_mm)
    image = image * np.exp(bias)
    down, up = [], []
    for size, edge, width, moved in zip(
        image.shape, resolution.edges, resolution.widths, shift, strict=True
    ):
        at = np.arange(rng.uniform(-edge, 0), size - 1 + edge, edge)
        psf = rng.uniform(*ranges.psf) * min(edge, width)
        down.append(sampling_matrix(size, at + moved, sd=psf, width=width))
        up.append(linear_matrix(at, size))
    scanned = apply_along(down, image)
    sigma = white * rng.uniform(*ranges.noise_sd)
    real = scanned + np.float32(sigma) * rng.standard_normal(scanned.shape, np.float32)
    scanned = np.hypot(real, np.float32(sigma) * rng.standard_normal(scanned.shape, np.float32))
    if rng.random() < ranges.ghost_share:
        axis = int(rng.integers(2))
        moved = np.roll(scanned, scanned.shape[axis] // int(rng.integers(2, 5)), axis)
        scanned = scanned + np.float32(rng.uniform(*ranges.ghost)) * moved
    return apply_along(up, scanned)


def _shape(image: Array) -> tuple[int, int, int]:
    x, y, z = image.shape
    return x, y, z


def _rotate(image: Array, angles: Array) -> Array:
    """Rotates an image about its centre by small angles (radians), edges repeated."""
    x, y, z = angles
    turn = np.eye(3) + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    middle = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(
        image,
        turn,
        tuple(middle - turn @ middle),  # type: ignore[arg-type]  # typed as a number
        order=1,
        mode="nearest",
        output=np.float32,
    )


def draw_mask(rng: np.random.Generator, brain: Array, ranges: ScannerRanges) -> Array:
    """Draws a brain mask with smooth errors of its boundary, bool[x, y, z].

    Args:
      rng: random generator.
      brain: float32[x, y, z], fraction of each voxel that is brain or surrounding fluid.
      ranges: ranges of the random parameters.
    """
    softness = 2.0
    n = [sampling_matrix(size, np.arange(size, dtype=float), sd=softness) for size in brain.shape]
    soft = apply_along(n, brain)
    error = rng.uniform(*ranges.mask_mm) * (smooth_field(rng, _shape(brain), 12.0) + rng.normal())
    # The edge of a blurred half-space has slope 1 / (sd sqrt(2 pi)) at its middle.
    level = 0.5 - error / (softness * np.sqrt(2 * np.pi))
    return soft > np.clip(level, 0.03, 0.97)
