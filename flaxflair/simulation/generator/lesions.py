"""Lesions of a window, their severity, and structures that mimic lesions.

A new kind of lesion is a function `(rng, window, ...) -> part of each voxel` and a line in
`draw_lesions`. Independent of contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flaxflair.core.records import Array
from flaxflair.simulation.generator.anatomies import LesionLibrary
from flaxflair.simulation.generator.classes import CLASSES, LESIONS
from flaxflair.simulation.generator.ranges import LesionRanges
from flaxflair.simulation.generator.splines import apply_along, sampling_matrix, smooth_field
from flaxflair.simulation.generator.window import Window, look_up

# Volume to which `LesionRanges.count` and `perivascular` refer, mm³.
_REFERENCE_VOLUME = 64.0**3
_LARGEST = 20_000  # voxels; larger shapes are confluent masks, which `masks` contains
_PERIVENTRICULAR_MM = 3.0  # lesions at most this far from a ventricle are extended to it
_GREY_INVASION = 0.35  # lesion load in grey matter relative to white matter


@dataclass(frozen=True)
class LesionFields:
    """Lesions on a window's grid, float32[x, y, z] each.

    Attributes:
      load: lesion fraction of the tissue, 0 to 1.
      halo: fraction of altered tissue around lesions, 0 to 1.
      severity: 0 to 1.
      fluid: fluid fraction of the voxel, 0 to 1: cavities, lacunes, perivascular spaces.
    """

    load: Array
    halo: Array
    severity: Array
    fluid: Array


def draw_lesions(
    rng: np.random.Generator,
    window: Window,
    library: LesionLibrary,
    ranges: LesionRanges,
    patient: int | None,
) -> LesionFields:
    """Draws the lesions of one window.

    Args:
      rng: random generator.
      window: window of the head.
      library: lesions of patients.
      ranges: ranges of the random parameters.
      patient: index in `library.masks` of a whole patient's lesions; None for none.
    """
    zero = np.zeros(window.shape, np.float32)
    fluid = _perivascular_spaces(rng, window, ranges)
    if rng.random() < ranges.lacune_share:
        fluid = np.maximum(fluid, _lacunes(rng, window, ranges))
    load = zero
    if rng.random() < ranges.native_share:
        load = window.mix(np.arange(len(CLASSES)) == LESIONS)
    if patient is not None:
        load = _union(load, _patient_lesions(rng, window, library.masks[patient]))
    if rng.random() < ranges.shape_share:
        load = _union(load, _single_lesions(rng, window, library, ranges))
    healthy = rng.random() < ranges.healthy_share
    if healthy:
        load = zero
    else:
        load = _blur(load, rng.uniform(*ranges.edge))
        near = window.ventricle_distance <= _PERIVENTRICULAR_MM
        load = np.where(near, np.maximum(load, np.clip(2 * _blur(load, 1.5), 0, 1)), load)
    if rng.random() < ranges.rim_share:
        load = _union(load, _periventricular_rim(rng, window, ranges))
    host = np.clip(window.white + _GREY_INVASION * window.grey, 0, 1)
    load = np.clip(load, 0, 1) * host
    spread = _blur(load, rng.uniform(*ranges.halo_mm))
    # Varies between lesions, and increases from the edge to the core.
    severity = rng.uniform(*ranges.severity) + rng.uniform(*ranges.severity_sd) * smooth_field(
        rng, window.shape, 9.0
    )
    severity = np.clip(severity + 0.3 * (_blur(load, 1.5) - 0.5), 0, 1)
    if not healthy and rng.random() < ranges.cavity_share:
        fluid = np.maximum(fluid, np.clip((_blur(load, 1.0) - 0.8) * 8, 0, 1) * (severity > 0.5))
    return LesionFields(
        load,
        np.clip(spread * rng.uniform(*ranges.halo) * 2, 0, 0.6) * window.white,
        severity.astype(np.float32),
        fluid,
    )


def _union(a: Array, b: Array) -> Array:
    return 1 - (1 - a) * (1 - b)


def _blur(image: Array, sd: float) -> Array:
    return apply_along(
        [sampling_matrix(n, np.arange(n, dtype=float), sd=sd) for n in image.shape], image
    )


def _patient_lesions(rng: np.random.Generator, window: Window, mask: Array) -> Array:
    """Returns the lesions of a whole patient, warped and possibly mirrored."""
    jitter = np.stack([smooth_field(rng, window.shape, 16.0) for _ in range(3)])
    positions = window.mni + jitter * np.float32(rng.uniform(0.5, 2.0))
    if rng.random() < 0.5:  # mirrored
        positions[0] = mask.shape[0] - 1 - positions[0]
    return look_up(mask, positions).astype(np.float32) / 255


def _single_lesions(
    rng: np.random.Generator, window: Window, library: LesionLibrary, ranges: LesionRanges
) -> Array:
    """Returns single lesions of patients at positions drawn from the lesion prior."""
    chance = window.white * (0.03 + look_up(library.prior, window.mni))
    cumulative = np.cumsum(chance.ravel(), dtype=np.float64)
    out = np.zeros(window.shape, np.float32)
    if cumulative[-1] <= 0:
        return out
    low, high = np.log(ranges.count)
    expected = np.exp(rng.uniform(low, high)) * out.size / _REFERENCE_VOLUME
    for _ in range(rng.poisson(expected)):
        at = np.unravel_index(np.searchsorted(cumulative, rng.random() * cumulative[-1]), out.shape)
        k = rng.integers(len(library.offsets) - 1)
        points = library.voxels[library.offsets[k] : library.offsets[k + 1]]
        if len(points) > _LARGEST:
            continue
        scale = rng.uniform(*ranges.scale)
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        placed = points @ (scale * turn) + np.array(at) + rng.uniform(-0.5, 0.5, 3)
        if scale > 1:  # fills gaps between the scaled points
            placed = np.concatenate([placed, placed + rng.uniform(-0.5, 0.5, placed.shape) * scale])
        out += _splat(placed, out.shape, weight=scale**3 / (2 if scale > 1 else 1))
    return np.clip(_blur(out, 0.6) * 1.3, 0, 1)


def _splat(points: Array, shape: tuple[int, ...], weight: float) -> Array:
    """Returns the number of points in each voxel times a weight, at most 1."""
    index = np.rint(points).astype(np.int64)
    inside = ((index >= 0) & (index < np.array(shape))).all(axis=1)
    flat = np.ravel_multi_index(tuple(index[inside].T), shape)
    counts = np.bincount(flat, minlength=int(np.prod(shape))).astype(np.float32)
    return np.minimum(counts * np.float32(weight), 1).reshape(shape)


def _periventricular_rim(rng: np.random.Generator, window: Window, ranges: LesionRanges) -> Array:
    """Returns periventricular rims and caps, with a thickness that varies smoothly."""
    thickness = rng.uniform(*ranges.rim_mm) * np.clip(
        0.5 + 0.7 * smooth_field(rng, window.shape, 14.0), 0.0, 2.5
    )
    distance = window.ventricle_distance.astype(np.float32)
    rim = np.clip(1.2 - distance / np.maximum(thickness, 0.1), 0, 1) * (distance > 0)
    return _blur(rim * np.float32(rng.uniform(0.3, 1.0)), 0.6)


def _perivascular_spaces(rng: np.random.Generator, window: Window, ranges: LesionRanges) -> Array:
    """Returns thin tubes of fluid in white matter and deep grey matter."""
    out = np.zeros(window.shape, np.float32)
    expected = rng.uniform(*ranges.perivascular) * out.size / _REFERENCE_VOLUME
    tissue = np.flatnonzero((window.white > 0.9) | ((window.grey > 0.9) & _deep(window)))
    if not len(tissue):
        return out
    for _ in range(rng.poisson(expected)):
        middle = np.array(np.unravel_index(rng.choice(tissue), out.shape))
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        length, radius = rng.uniform(4, 16), rng.uniform(*ranges.perivascular_mm)
        line = np.arange(-length / 2, length / 2, 0.25)[:, None] * direction
        curve = np.sin(np.linspace(0, 3, len(line)))[:, None] * rng.standard_normal(3) * 0.8
        out += _splat(middle + line + curve, out.shape, weight=0.25 * np.pi * radius**2)
    return np.clip(_blur(out, 0.4), 0, 1) * (window.brain - window.fluid)


def _lacunes(rng: np.random.Generator, window: Window, ranges: LesionRanges) -> Array:
    """Returns one to three small cavities in white matter or deep grey matter."""
    out = np.zeros(window.shape, np.float32)
    tissue = np.flatnonzero((window.white > 0.9) | ((window.grey > 0.9) & _deep(window)))
    if not len(tissue):
        return out
    grid = np.indices(window.shape, sparse=True)
    for _ in range(rng.integers(1, 4)):
        middle = np.unravel_index(rng.choice(tissue), out.shape)
        radii = rng.uniform(*ranges.lacune_mm) * rng.uniform(0.7, 1.3, 3)
        away = sum(
            ((axis - at) / radius) ** 2
            for axis, at, radius in zip(grid, middle, radii, strict=True)
        )
        out = np.maximum(out, np.clip((1.15 - np.sqrt(away)) * radii.min(), 0, 1))
    return (out * (window.brain - window.fluid)).astype(np.float32)


def _deep(window: Window) -> Array:
    """Returns the voxels far from the cortex, bool[x, y, z]."""
    return window.cortex_distance > 4
