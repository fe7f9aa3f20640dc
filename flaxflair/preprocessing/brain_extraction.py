"""Brain: where it is in a head. A template head is laid over it, and its brain then trimmed.

Knows no other files.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from skimage.measure import label

from flaxflair.core.records import Array, Geometry, Volume, strides
from flaxflair.imaging.resampling import resample
from flaxflair.io.template import read_template
from flaxflair.preprocessing.orientation_check import expect_orientation
from flaxflair.preprocessing.registration import register
from flaxflair.preprocessing.similarity import Comparison, Look

# The template holds a brain alone. It gets the least of a skull, dark, so many mm thick, and above
# its base a scalp, so many times as bright as white matter, so many mm from the brain: between
# them is one or the other. mm below its surface there is brain, whoever's head it is.
_BONE, _SKULL, _SCALP, _BRIGHTNESS = 3.0, 8.0, 11.0, 1.2
_BASE = -15.0  # mm, the height above which there is bone around the brain and nothing else
_CORE = 10.0
# Fat is cut to so many times the median of what is no air, lest it takes all grey levels; the head
# is set in so many mm of air, lest what lies beyond a scan fits everything.
_FAT, _AIR = 1.6, 40.0
_TISSUE = 0.15  # of the 99th percentile: what is brighter is no air
# The first guess: how far a head is pitched, degrees; how far the brain's middle is from that of
# the scan, mm up and forward; how large it is against the template, which is a large one.
_PITCHES = (-24, -16, -8, 0, 8, 16, 24)
_UP, _FORWARD = (-30, -20, -10, 0, 10, 20, 30), (-16, -8, 0, 8, 16)
_SIZES = (0.82, 0.88, 0.94, 1.0)
# The best of every size and height is followed downhill, by steps of at first these, and no
# further than this: pitch, up, forward, size, right, roll and yaw. Without the limit a whole head,
# air around it, passes for a brain in its skull.
_STEPS = (6.0, 6.0, 6.0, 0.04, 4.0, 4.0, 4.0)
_LIMITS = ((-40, 40), (-45, 45), (-30, 30), (0.78, 1.0), (-15, 15), (-15, 15), (-15, 15))
_PATIENCE = {"maxfev": 120, "xatol": 0.1, "fatol": 3e-4}
_MATCHED = 4.0  # mm: voxels of the registration
_VOXEL = 2.0  # mm: voxels in which the brain is trimmed
_BEYOND = 3.0  # mm that a brain reaches beyond the template's at most
_BRIDGE = 2.5  # mm: half the thickness of what ties a brain to the orbits and the neck
_SULCUS = 4.0  # mm: half the width of a gap that belongs to the brain
# Of the median deep in the brain: skull and air are darker than the first, fat is brighter than the
# second times the 95th percentile.
_DARK, _BRIGHT = 0.5, 1.4


_AFAR, _CLOSE = Look(8.0, 3.0, 4.0), Look(5.0, 2.0, 2.0)


class _Head(NamedTuple):
    """The template: its T1 with skull and scalp, where that says something, where the brain is."""

    t1: Volume
    near: Array
    brain: Array


@functools.cache
def _template() -> _Head:
    t1 = read_template("t1")
    brain = np.asarray(ndimage.binary_fill_holes(t1.array > 0), bool)
    affine = t1.geometry.affine
    away = np.asarray(ndimage.distance_transform_edt(~brain, sampling=t1.geometry.voxel_size))
    above = np.arange(brain.shape[2]) * affine[2, 2] + affine[2, 3] > _BASE
    array = t1.array.copy()
    white = np.percentile(array[brain], 90)
    scalp = (away > _SKULL) & (away <= _SCALP) & above
    array[scalp] = _BRIGHTNESS * white
    near = (away <= _BONE) | scalp
    return _Head(Volume(array, t1.geometry), near, brain)


def find_brain(volume: Volume) -> Array:
    """Returns where the brain is in a head, fluid around it included.

    Args:
      volume: a head, best by a T1; its axes right, anterior and superior, its centre within a few
        centimetres of the head's.

    Returns:
      bool[x, y, z].

    Raises:
      InputError: the template fits the head far better with axes that the header exchanges.
    """
    head = _template()
    scan = _set_in_air(_cut_fat(volume))
    guess = _guess(scan, head)
    to_scan = register(scan, head.t1, head.brain, start=guess, finest=_MATCHED)
    expect_orientation(Comparison(scan, head.t1, head.brain, _CLOSE), to_scan, scan)
    here = np.eye(4)
    grid = _coarse(head.t1.geometry)
    laid = resample(scan.array, scan.geometry.affine, grid, to_scan, beyond="zero")
    prior = resample(head.brain.astype(np.float32), head.t1.geometry.affine, grid, here) > 0.5
    found = _trim(laid, prior).astype(np.float32)
    back = np.linalg.inv(to_scan)
    return resample(found, grid.affine, volume.geometry, back, beyond="zero") > 0.5


def _cut_fat(volume: Volume) -> Volume:
    some = volume.array[::4, ::4]
    tissue = some[some > 0.1 * np.percentile(some, 99.5)]
    most = _FAT * np.median(tissue) if tissue.size else np.inf
    return Volume(np.minimum(volume.array, np.float32(most)), volume.geometry)


def _set_in_air(volume: Volume) -> Volume:
    edges = [int(_AIR / edge) for edge in volume.geometry.voxel_size]
    array = np.pad(volume.array, [(edge, edge) for edge in edges])
    affine = volume.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ edges
    x, y, z = array.shape
    return Volume(array, Geometry((x, y, z), affine))


def _guess(scan: Volume, head: _Head) -> Array:
    """Returns the best of a few hundred similarities, mm of the template to mm of a scan.

    A descent from centre upon centre ends in a wrong valley in three of four clinical sessions:
    heads are pitched, and cut off somewhere at the neck. Skull and scalp are seen from afar, but a
    brain that is a tenth too large fits them almost as well; what is inside the brain is not
    mistaken, once it is near. By the first alone skulls were taken for the brain's edge in four of
    thirteen phantoms.
    """
    afar = Comparison(scan, head.t1, head.near, _AFAR)
    close = Comparison(scan, head.t1, head.brain, _CLOSE)
    affine = head.t1.geometry.affine
    middle_of_head = affine[:3, :3] @ np.argwhere(head.near).mean(axis=0) + affine[:3, 3]
    middle = _middle(scan)

    def place(guess: Sequence[float]) -> Array:
        pitch, up, forward, scale, right, roll, yaw = guess
        turn = scale * Rotation.from_euler("xyz", (pitch, roll, yaw), degrees=True).as_matrix()
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = middle + np.array([right, forward, up]) - turn @ middle_of_head
        return matrix

    def miss_afar(guess: Sequence[float]) -> float:
        return -afar.information(place(guess))

    def miss_close(guess: Sequence[float]) -> float:
        return -close.information(place(guess))

    upright = (0.0, 0.0, 0.0)
    starts = (
        min(
            ((pitch, up, forward, size, *upright) for pitch in _PITCHES for forward in _FORWARD),
            key=miss_afar,
        )
        for up, size in itertools.product(_UP, _SIZES)
    )
    best = min((_descend(miss_afar, start) for start in starts), key=miss_close)
    return place(_descend(miss_close, best))


def _descend(miss: Callable[[Sequence[float]], float], start: Sequence[float]) -> Sequence[float]:
    """Returns the guess at the bottom of a valley; see `_STEPS`.

    By a simplex: Powell's searches along lines look as far as the limits, and leave the valley.
    """
    first = np.array(start)
    highest = np.array(_LIMITS)[:, 1]
    steps = np.where(first + _STEPS > highest, -1, 1) * np.array(_STEPS)
    simplex = np.vstack([first, first + np.diag(steps)])
    options = {"initial_simplex": simplex, **_PATIENCE}
    return minimize(miss, first, method="Nelder-Mead", bounds=_LIMITS, options=options).x


def _middle(scan: Volume) -> Array:
    """Returns the middle of a head, world mm; along its height, of the scan."""
    steps = strides(scan.geometry.voxel_size, _MATCHED)
    small = scan.array[tuple(slice(None, None, step) for step in steps)]
    tissue = np.argwhere(small > _TISSUE * np.percentile(small, 99))
    middle = (np.array(small.shape) - 1) / 2
    if len(tissue):
        middle[:2] = np.median(tissue, axis=0)[:2]
    affine = scan.geometry.affine @ np.diag([*steps, 1.0])
    return affine[:3, :3] @ middle + affine[:3, 3]


def _coarse(geometry: Geometry) -> Geometry:
    steps = [max(1, round(_VOXEL / edge)) for edge in geometry.voxel_size]
    x, y, z = (-(-n // step) for n, step in zip(geometry.shape, steps, strict=True))
    return Geometry((x, y, z), geometry.affine @ np.diag([*steps, 1.0]))


def _trim(head: Array, prior: Array) -> Array:
    """Returns the brain near a template's: one piece of tissue, its sulci filled.

    Args:
      head: [x, y, z], voxels of `_VOXEL` mm.
      prior: bool[x, y, z], the template's brain.
    """
    core = _depth(prior) > _CORE
    inside = head[core]
    low, high = _DARK * np.median(inside), _BRIGHT * np.percentile(inside, 95)
    reach = _grow(prior, _BEYOND)
    pieces = np.asarray(label(_shrink((head > low) & (head < high) & reach, _BRIDGE)))
    sizes = np.bincount(pieces[core], minlength=2)
    sizes[0] = 0
    if not sizes.any():  # nothing is there that looks like tissue; the template is all there is
        return prior
    tissue = _grow(pieces == int(np.argmax(sizes)), _BRIDGE + 0.5 * _VOXEL)
    filled = _shrink(_grow(tissue, _SULCUS), _SULCUS)
    return np.asarray(ndimage.binary_fill_holes(filled & reach), bool)


def _depth(mask: Array) -> Array:
    """Returns how far every voxel of a mask is from its outside, mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=_VOXEL))


def _shrink(mask: Array, millimetres: float) -> Array:
    return _depth(mask) > millimetres


def _grow(mask: Array, millimetres: float) -> Array:
    return ~(_depth(~mask) > millimetres)
