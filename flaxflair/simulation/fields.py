"""Random fields: seeded streams, smooth noise on lattices, and linear interpolation between them.

Independent of anatomy and of MRI. Every field is in head millimetres on a lattice that does not
depend on the simulated resolution, so that a subject is the same at every scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array

# A purpose is identified by its index: append only, as reordering changes every phantom.
PURPOSES = (
    "shape",
    "warp",
    "atrophy",
    "lesions",
    "relaxation",
    "flow",
    "head",
    "inversion",
    "fat",
    "pose",
    "gain",
    "motion",
    "bias",
    "noise",
    "registration",
    "residual bias",
    "session",
)


def stream(seed: int, subject: int, purpose: str, part: int = 0) -> np.random.Generator:
    """Returns the random stream of one purpose for one subject.

    Streams are independent: draws of one purpose do not affect another, and subject 3 is the same
    in a data set of four and of forty.
    """
    return np.random.default_rng([seed, subject, PURPOSES.index(purpose), part])


@dataclass(frozen=True)
class Lattice:
    """A grid along the axes of head space.

    Attributes:
      shape: points along x, y, z.
      spacing: mm between points along x, y, z.
      origin: head mm of the first point.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]

    def axis(self, k: int) -> Array:
        """Returns float64[n], head mm of the points along one axis."""
        return self.origin[k] + self.spacing[k] * np.arange(self.shape[k])

    def points(self) -> Array:
        """Returns float32[3, x, y, z], head mm of every point."""
        return np.stack(np.meshgrid(*(self.axis(k) for k in range(3)), indexing="ij")).astype(
            np.float32
        )

    @property
    def affine(self) -> Array:
        """float64[4, 4], indices to head mm."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine


def covering(low: Array, high: Array, spacing: float) -> Lattice:
    """Returns the lattice of one spacing that covers a box of head mm, centred in it."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    origin = (low + high) / 2 - (counts - 1) * spacing / 2
    x, y, z = (int(n) for n in counts)
    return Lattice(
        (x, y, z),
        (spacing, spacing, spacing),
        (float(origin[0]), float(origin[1]), float(origin[2])),
    )


def smooth_noise(rng: np.random.Generator, lattice: Lattice, sigma: float) -> Array:
    """Returns Gaussian noise of zero mean and unit variance, smoothed.

    Args:
      rng: random generator.
      lattice: lattice of the field.
      sigma: smoothing in mm; the field decorrelates over about twice that.

    Returns:
      float32[x, y, z].
    """
    noise = rng.standard_normal(lattice.shape, dtype=np.float32)
    widths = [sigma / step for step in lattice.spacing]
    field = ndimage.gaussian_filter(noise, widths, mode="wrap", truncate=3.0)
    return (field - field.mean()) / field.std()


def interpolate_axis(array: Array, positions: Array, axis: int) -> Array:
    """Returns an array linearly interpolated at fractional indices along one axis, clamped."""
    count = array.shape[axis]
    at = np.clip(positions, 0, count - 1)
    low = np.minimum(np.floor(at).astype(int), max(count - 2, 0))
    part = (at - low).astype(np.float32).reshape(-1, *([1] * (array.ndim - axis - 1)))
    lower = np.take(array, low, axis)
    upper = np.take(array, np.minimum(low + 1, count - 1), axis)
    upper -= lower
    upper *= part
    upper += lower
    return upper


def interpolate(array: Array, source: Lattice, target: Lattice) -> Array:
    """Returns a field known on one lattice, linearly interpolated onto another.

    Args:
      array: float32[x, y, z] on `source`.
      source: the coarse lattice.
      target: target lattice; border values are repeated beyond the source.

    Returns:
      float32[x', y', z'] on `target`.
    """
    out = np.asarray(array, np.float32)
    # The last axis first, while the array is small: it is the slow one to gather along.
    for k in (2, 1, 0):
        out = interpolate_axis(out, (target.axis(k) - source.origin[k]) / source.spacing[k], k)
    return out


def sample(stack: Array, lattice: Lattice, points: Array) -> Array:
    """Returns several fields of one lattice at arbitrary points, linearly interpolated, clamped.

    The indices of neighbours, most of the work, are computed once for all fields.

    Args:
      stack: float32[x, y, z, c], the fields.
      lattice: lattice of the fields.
      points: float32[3, ...], mm.

    Returns:
      float32[c, ...].
    """
    nx, ny, nz, channels = stack.shape
    flat = stack.reshape(-1, channels)
    every = points.reshape(3, -1)
    out = np.empty((channels, every.shape[1]), np.float32)
    origin = np.array(lattice.origin, np.float32)[:, None]
    spacing = np.array(lattice.spacing, np.float32)[:, None]
    last = np.array([nx, ny, nz], np.float32)[:, None] - np.float32(1.001)

    def mix(a: Array, b: Array, part: Array) -> Array:
        b -= a
        b *= part
        b += a
        return b

    # Blocks that stay in the cache are twice as fast as the whole.
    for start in range(0, every.shape[1], 32768):
        at = np.clip((every[:, start : start + 32768] - origin) / spacing, 0, last)
        low = at.astype(np.int32)
        fx, fy, fz = (at - low)[:, :, None]
        base = (low[0] * ny + low[1]) * nz + low[2]
        edges = [
            mix(flat.take(base + offset, 0), flat.take(base + offset + 1, 0), fz)
            for offset in (0, nz, ny * nz, ny * nz + nz)
        ]
        values = mix(mix(edges[0], edges[1], fy), mix(edges[2], edges[3], fy), fx)
        out[:, start : start + 32768] = values.T
    return out.reshape(channels, *points.shape[1:])
