"""Brain extraction by affine registration of a template head, and trimming of its brain.

Reads the template; independent of other files.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from skimage.measure import label

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.resampling import coarsen, resample, subsample
from flaxflair.io.template import read_template
from flaxflair.preprocessing.orientation_check import expect_orientation
from flaxflair.preprocessing.registration import register
from flaxflair.preprocessing.similarity import Comparison, Sampling
from flaxflair.preprocessing.template_fit import template_quality

# The template contains a brain only. A dark skull of minimum thickness (mm) is added to it, and
# above the skull base a scalp between two distances from the brain (mm), with this brightness
# relative to white matter. Between skull and scalp the tissue varies and is not compared.
_BONE, _SKULL, _SCALP, _BRIGHTNESS = 3.0, 8.0, 11.0, 1.2
_BASE = -15.0  # mm, height above which only bone surrounds the brain
_CORE = 10.0  # mm; voxels deeper in the template's brain than this are always brain
# Clip at 1.6 × the tissue median, so that fat does not dominate the histogram; pad with 40 mm of
# air, so that the outside of the field of view does not match any tissue.
_FAT, _AIR = 1.6, 40.0
_TISSUE = 0.15  # threshold between air and tissue, relative to the 99th percentile
# Grid of initial transforms: pitch of the head, degrees; offset of the brain's centre from that of
# the scan, mm up and forward; size relative to the template, whose head is large.
_PITCHES = (-24, -16, -8, 0, 8, 16, 24)
_UP, _FORWARD = (-30, -20, -10, 0, 10, 20, 30), (-16, -8, 0, 8, 16)
_SIZES = (0.82, 0.88, 0.94, 1.0)
# Of each size, the best transforms of the best heights are refined by a simplex with these initial
# steps and limits: pitch, up, forward, size, right, roll and yaw. Without limits, a whole head in
# air can match a brain in its skull.
_HEIGHTS = 4  # of each size
_STEPS = (6.0, 6.0, 6.0, 0.04, 4.0, 4.0, 4.0)
_LIMITS = ((-40, 40), (-45, 45), (-30, 30), (0.78, 1.0), (-15, 15), (-15, 15), (-15, 15))
_TERMINATION = {"maxfev": 120, "xatol": 0.1, "fatol": 3e-4}
_REGISTRATION_VOXEL = 4.0  # mm
_VOXEL = 2.0  # mm, voxels of the template, and maximum edge of the blocks a scan is averaged over
_MARGIN = 3.0  # mm, maximum extent of a brain beyond the template's
_BRIDGE = 2.5  # mm, half the thickness of tissue that connects the brain to the orbits and the neck
_SULCUS = 4.0  # mm, half the width of a gap that belongs to the brain
# Skull and air are darker than _DARK × the median deep in the brain; fat is brighter than _BRIGHT ×
# the 95th percentile there.
_DARK, _BRIGHT = 0.5, 1.4
_COARSE, _FINE = Sampling(8.0, 3.0, 4.0), Sampling(6.0, 2.0, 2.0)


class _Head(NamedTuple):
    """The template, in voxels of `_VOXEL` mm.

    Attributes:
      t1: T1 with skull and scalp.
      compared: bool[x, y, z], brain, skull and scalp.
      brain: bool[x, y, z].
    """

    t1: Volume
    compared: Array
    brain: Array


@functools.cache
def _template() -> _Head:
    whole = read_template("t1")
    t1 = coarsen(whole, _VOXEL)
    filled = np.asarray(ndimage.binary_fill_holes(whole.array > 0), np.float32)
    brain = coarsen(Volume(filled, whole.geometry), _VOXEL).array > 0.5
    affine = t1.geometry.affine
    distance = np.asarray(ndimage.distance_transform_edt(~brain, sampling=t1.geometry.voxel_size))
    above = np.arange(brain.shape[2]) * affine[2, 2] + affine[2, 3] > _BASE
    array = t1.array.copy()
    white = np.percentile(array[brain], 90)
    scalp = (distance > _SKULL) & (distance <= _SCALP) & above
    array[scalp] = _BRIGHTNESS * white
    compared = (distance <= _BONE) | scalp
    return _Head(Volume(array, t1.geometry), compared, brain)


class FoundBrain(NamedTuple):
    """Result of a brain extraction.

    Attributes:
      mask: bool[x, y, z], brain and surrounding fluid.
      quality: measures of the fit, see `template_fit.template_quality`; empty if there is no
        template.
    """

    mask: Array
    quality: Mapping[str, float]


def find_brain(volume: Volume) -> FoundBrain:
    """Returns the brain mask of a head scan, surrounding fluid included, and measures of the fit.

    Args:
      volume: head scan, preferably a T1, in RAS order; its centre within a few centimetres of the
        head's.

    Raises:
      InputError: the template fits the head far better after an exchange of axes.
    """
    head = _template()
    clipped = _clip_fat(volume)
    scan = _pad(coarsen(clipped, _VOXEL))
    fine = Comparison(scan, head.t1, head.brain, _FINE)
    start = _find_start(scan, head, fine)
    to_scan = register(scan, head.t1, head.brain, start=start, finest=_REGISTRATION_VOXEL)
    expect_orientation(fine, to_scan, scan)
    grid = head.t1.geometry
    resampled = resample(clipped.array, clipped.geometry.affine, grid, to_scan, beyond="zero")
    found = _trim(resampled, head.brain)
    quality = template_quality(fine, to_scan, resampled, found, head.brain)
    back, affine = np.linalg.inv(to_scan), grid.affine
    mask = resample(found.astype(np.float32), affine, volume.geometry, back, beyond="zero") > 0.5
    return FoundBrain(mask, quality)


def _clip_fat(volume: Volume) -> Volume:
    subsampled = volume.array[::4, ::4]
    tissue = subsampled[subsampled > 0.1 * np.percentile(subsampled, 99.5)]
    limit = _FAT * np.median(tissue) if tissue.size else np.inf
    return Volume(np.minimum(volume.array, np.float32(limit)), volume.geometry)


def _pad(volume: Volume) -> Volume:
    edges = [int(_AIR / edge) for edge in volume.geometry.voxel_size]
    array = np.pad(volume.array, [(edge, edge) for edge in edges])
    affine = volume.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ edges
    x, y, z = array.shape
    return Volume(array, Geometry((x, y, z), affine))


def _find_start(scan: Volume, head: _Head, fine: Comparison) -> Array:
    """Returns the best of a few hundred similarity transforms, mm of the template to mm of a scan.

    Registration from aligned centres failed in three of four clinical sessions: heads are pitched,
    and the field of view ends at an arbitrary height of the neck. Skull and scalp give a wide range
    of convergence, but match a brain that is 10 % too large almost as well: with them alone, skull
    was included in the brain in four of thirteen phantoms. The brain itself gives a precise
    optimum from a near start. The search therefore uses the first and then the second.

    Args:
      scan: the head, in air.
      head: the template.
      fine: comparison of the scan with the template's brain.
    """
    coarse = Comparison(scan, head.t1, head.compared, _COARSE)
    affine = head.t1.geometry.affine
    template_centre = affine[:3, :3] @ np.argwhere(head.compared).mean(axis=0) + affine[:3, 3]
    centre = _centre_of_head(scan)

    def to_matrix(guess: Sequence[float]) -> Array:
        pitch, up, forward, scale, right, roll, yaw = guess
        turn = scale * Rotation.from_euler("xyz", (pitch, roll, yaw), degrees=True).as_matrix()
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = centre + np.array([right, forward, up]) - turn @ template_centre
        return matrix

    def coarse_cost(guess: Sequence[float]) -> float:
        return -coarse.mutual_information(to_matrix(guess))

    def fine_cost(guess: Sequence[float]) -> float:
        return -fine.mutual_information(to_matrix(guess))

    starts: list[tuple[float, ...]] = []
    for size in _SIZES:
        of_height = [min((coarse_cost(guess), guess) for guess in _guesses(up, size)) for up in _UP]
        starts += [guess for _, guess in sorted(of_height)[:_HEIGHTS]]
    best = min((_minimise(coarse_cost, start) for start in starts), key=fine_cost)
    return to_matrix(_minimise(fine_cost, best))


def _guesses(up: float, size: float) -> Iterator[tuple[float, ...]]:
    """Yields upright starts of one height and size; see `_STEPS` for the order of values."""
    for pitch, forward in itertools.product(_PITCHES, _FORWARD):
        yield (pitch, up, forward, size, 0.0, 0.0, 0.0)


def _minimise(cost: Callable[[Sequence[float]], float], start: Sequence[float]) -> Sequence[float]:
    """Returns the local minimum near `start`; see `_STEPS`.

    By a simplex: Powell's line searches extend to the limits and leave the local minimum.
    """
    first = np.array(start)
    highest = np.array(_LIMITS)[:, 1]
    steps = np.where(first + _STEPS > highest, -1, 1) * np.array(_STEPS)
    simplex = np.vstack([first, first + np.diag(steps)])
    options = {"initial_simplex": simplex, **_TERMINATION}
    return minimize(cost, first, method="Nelder-Mead", bounds=_LIMITS, options=options).x


def _centre_of_head(scan: Volume) -> Array:
    """Returns the centre of a head, world mm; along its height, the centre of the scan."""
    small = subsample(scan, _REGISTRATION_VOXEL)
    tissue = np.argwhere(small.array > _TISSUE * np.percentile(small.array, 99))
    centre = (np.array(small.array.shape) - 1) / 2
    if len(tissue):
        centre[:2] = np.median(tissue, axis=0)[:2]
    affine = small.geometry.affine
    return affine[:3, :3] @ centre + affine[:3, 3]


def _trim(head: Array, prior: Array) -> Array:
    """Returns the brain near the template's: one connected piece of tissue, its sulci filled.

    Args:
      head: [x, y, z], voxels of `_VOXEL` mm.
      prior: bool[x, y, z], the template's brain.
    """
    core = _depth(prior) > _CORE
    inside = head[core]
    low, high = _DARK * np.median(inside), _BRIGHT * np.percentile(inside, 95)
    reach = _grow(prior, _MARGIN)
    pieces = np.asarray(label(_shrink((head > low) & (head < high) & reach, _BRIDGE)))
    sizes = np.bincount(pieces[core], minlength=2)
    sizes[0] = 0
    if not sizes.any():  # no tissue at the expected intensity
        return prior
    tissue = _grow(pieces == int(np.argmax(sizes)), _BRIDGE + 0.5 * _VOXEL)
    filled = _shrink(_grow(tissue, _SULCUS), _SULCUS)
    return np.asarray(ndimage.binary_fill_holes(filled & reach), bool)


def _depth(mask: Array) -> Array:
    """Returns the distance of each voxel of a mask to its outside, mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=_VOXEL))


def _shrink(mask: Array, millimetres: float) -> Array:
    return _depth(mask) > millimetres


def _grow(mask: Array, millimetres: float) -> Array:
    return ~(_depth(~mask) > millimetres)
