"""Scanner: grids, motion, coil bias, averaging over voxels, and noise.

Acquires an image of a signal given in head space. Independent of tissues.

Three spaces: *head* mm (axes of the FLAIR's slices, origin the centre of its slab), *world* mm (the
scanner's, in which NIfTI affines live), and voxel indices. World follows from head by the subject's
placement, a rigid matrix; motion between sequences is one more, in world.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import special

from flaxflair.core.records import Array, Geometry
from flaxflair.simulation.fields import Lattice, interpolate_axis

# Millimetres of the scanner's bore over which the Legendre polynomials of the bias run from 0 to 1.
BIAS_REACH = 130.0
BIAS_DEGREE = 3
# Degrees along x, y, z of every basis function; (0, 0, 0) is the gain and no bias.
BIAS_TERMS: tuple[tuple[int, int, int], ...] = tuple(
    (i, j, k)
    for i, j, k in product(range(BIAS_DEGREE + 1), repeat=3)
    if 0 < i + j + k <= BIAS_DEGREE
)

# Voxel edges (slice axis last), field of view in mm along the same axes, and how slices lie.
_GRIDS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], str]] = {
    "FLAIR": ((0.9, 0.9, 3.0), (187.2, 230.4, 120.0), "axial"),
    "T2": ((0.9, 0.9, 3.0), (187.2, 230.4, 120.0), "axial"),
    "PD": ((0.9, 0.9, 3.0), (187.2, 230.4, 120.0), "axial"),
    "T1SE": ((1.0, 1.0, 3.0), (192.0, 240.0, 120.0), "axial"),
    "T1": ((1.0, 1.0, 1.1), (240.0, 144.0, 176.0), "sagittal"),
    "DIR": ((1.0, 1.0, 1.0), (240.0, 144.0, 176.0), "sagittal"),
}
# Voxel axes to left, anterior, superior (axial) and to posterior, superior, right (sagittal): the
# orders in which dcm2niix leaves such series.
_AXES = {
    "axial": np.array([[-1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 1.0], [-1.0, 0, 0], [0, 1.0, 0]]),
}
# Volume sequences reach further down than the slabs do.
_CENTRE = {"axial": np.zeros(3), "sagittal": np.array([0.0, 0.0, -9.0])}


def acquisition_grid(sequence: str, scale: float, placement: Array) -> Geometry:
    """Returns the grid on which a sequence is acquired.

    Args:
      sequence: `FLAIR`, `T1`, ...
      scale: in-plane voxels are 1/scale as wide, over the same field of view; slices keep their
        thickness until voxels would be flatter than cubes.
      placement: float64[4, 4], head to world. Axial slabs are tilted with the head, as they are
        planned; volumes lie along the scanner's axes.
    """
    edges, extent, plane = _GRIDS[sequence]
    in_plane = edges[0] / scale
    size = np.array([in_plane, in_plane, max(edges[2], in_plane)])
    shape = np.maximum(np.round(np.array(extent) / size).astype(int), 1)
    affine = np.eye(4)
    affine[:3, :3] = _AXES[plane] * size
    affine[:3, 3] = _CENTRE[plane] - affine[:3, :3] @ ((shape - 1) / 2)
    if plane == "axial":
        affine = placement @ affine
    x, y, z = (int(n) for n in shape)
    return Geometry((x, y, z), affine)


def bias_field(coefficients: Sequence[float] | Array, geometry: Geometry) -> Array:
    """Rebuilds the bias field that a sidecar's coefficients describe.

    The field is `exp(sum_t c_t P_i(x/R) P_j(y/R) P_k(z/R))` with Legendre polynomials P, world
    coordinates x, y, z in mm (clipped to ±R), R = `BIAS_REACH`, and degrees (i, j, k) from
    `BIAS_TERMS`, in that order. It belongs to the receive coil, so it does not move with the head.

    Args:
      coefficients: one for each of `BIAS_TERMS`.
      geometry: target grid.

    Returns:
      float32[x, y, z], by which the true signal was multiplied; about 1.
    """
    # Knots 8 mm apart, linear between them, err by less than 1e-4 and are much faster.
    steps = [max(1, round(8.0 / size)) for size in geometry.voxel_size]
    knots = [
        np.arange(0, n + step - 1, step, dtype=np.float64)
        for n, step in zip(geometry.shape, steps, strict=True)
    ]
    indices = np.stack(np.meshgrid(*knots, indexing="ij"))
    world = np.tensordot(geometry.affine[:3, :3], indices, axes=1)
    world += geometry.affine[:3, 3].reshape(3, 1, 1, 1)
    scaled = np.clip(world / BIAS_REACH, -1, 1)
    powers = [
        [special.eval_legendre(degree, scaled[k]) for degree in range(BIAS_DEGREE + 1)]
        for k in range(3)
    ]
    log = np.zeros(indices.shape[1:])
    for coefficient, (i, j, k) in zip(coefficients, BIAS_TERMS, strict=True):
        log += coefficient * powers[0][i] * powers[1][j] * powers[2][k]
    field = log.astype(np.float32)
    for axis in (2, 1, 0):
        field = interpolate_axis(field, np.arange(geometry.shape[axis]) / steps[axis], axis)
    return np.exp(field)


def block_mean(array: Array, lattice: Lattice, target: Geometry, inverse: Array) -> Array:
    """Averages the points of a lattice that fall into each voxel of an aligned, coarser grid.

    Args:
      array: float32[x, y, z] on `lattice`.
      lattice: in head mm; whole numbers of its points make a voxel of the target.
      target: the grid, tilted with the head.
      inverse: float64[4, 4], world to head.

    Returns:
      float32[x', y', z'], in the target's order of axes.
    """
    affine = inverse @ target.affine  # indices -> head mm: diagonal
    out = array
    for axis in range(3):
        size = affine[axis, axis]
        count = round(abs(size) / lattice.spacing[axis])
        n = target.shape[axis]
        centre = affine[axis, 3] + (n - 1) * min(size, 0.0)
        low = centre - (count - 1) / 2 * lattice.spacing[axis]
        start = round((low - lattice.origin[axis]) / lattice.spacing[axis])
        out = out.take(np.arange(start, start + n * count), axis)
        shape = (*out.shape[:axis], n, count, *out.shape[axis + 1 :])
        out = out.reshape(shape).mean(axis=axis + 1)
        if size < 0:
            out = np.flip(out, axis)
    return np.ascontiguousarray(out)


def add_rician_noise(rng: np.random.Generator, array: Array, sigma: float) -> Array:
    """Returns the magnitude of a real signal with complex Gaussian noise.

    Args:
      rng: random generator.
      array: float32[...], the signed signal.
      sigma: standard deviation of the noise in either channel, in the signal's units.
    """
    real = array + np.float32(sigma) * rng.standard_normal(array.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(array.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def rician_mean(array: Array, sigma: float) -> Array:
    """Returns the expectation of `add_rician_noise`.

    `sigma sqrt(pi/2) L_(1/2)(-A^2 / 2 sigma^2)`, Gudbjartsson and Patz, Magn. Reson. Med. 34:910
    (1995).
    """
    half = (array / (2 * sigma)) ** 2
    laguerre = (1 + 2 * half) * special.i0e(half) + 2 * half * special.i1e(half)
    return (sigma * np.sqrt(np.pi / 2) * laguerre).astype(np.float32)
