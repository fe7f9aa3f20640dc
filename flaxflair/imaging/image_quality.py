"""Quality of the images of a session: noise, sharpness, slices, air, and tissue levels.

Measured on a registered session within its brain. Independent of files and of thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, strides
from flaxflair.imaging.tissue_levels import (
    CONTRASTS,
    TISSUES,
    Levels,
    TissueLevels,
    standard_landmarks,
    to_standard,
)

# Second difference, along each of two axes; the gain of both for white noise is 6
# (Immerkær, Comput. Vis. Image Underst. 64:300, 1996).
_SECOND_DIFFERENCE = (1.0, -2.0, 1.0)
_GAIN = 6.0
_MAD = 0.6745  # median absolute deviation of a normal distribution of SD 1
_RIM = 4.0  # mm below the brain's surface that are excluded: errors of the mask
# Sampling distances of measures that need no full resolution, and of the air; mm.
_APART, _AIR_APART = 2.5, 6.0
_NEAR, _FAR = 2.0, 8.0  # mm, distances of `sharpness`
_EMPTY = 0.05  # of the brain's median, below which a voxel is empty
# Standardised intensities beyond this multiple of the highest level, or below this part of the
# lowest, are implausible.
_HIGHEST, _LOWEST = 1.35, 0.4
# Depth in mm beyond which there are few vessels and no meninges, and the multiple of the highest
# level above which a voxel there is bright, as after a contrast agent.
_CORE, _BRIGHT = 10.0, 1.25
_AIR = 30.0  # mm outside the brain, above its centre, beyond which there is air
_FEWEST = 200  # voxels of a measure
_LARGE = 0.35  # of the largest slice's area, below which the tissues of a slice are others


def image_quality(
    images: Array,
    sequences: Sequence[str],
    brain: Array,
    voxel_size: tuple[float, float, float],
    levels: TissueLevels,
    scanned: Mapping[str, tuple[float, float, float]],
) -> dict[str, dict[str, float]]:
    """Measures each image of a session.

    Args:
      images: [x, y, z, m], registered, axes closest to right, anterior, superior.
      sequences: names of the m channels.
      brain: bool[x, y, z].
      voxel_size: mm.
      levels: tissue levels of the images.
      scanned: sequence -> mm, edges of its scanned voxels along x, y, z.

    Returns:
      Sequence -> measure -> value; without measures that have too few voxels. `noise`: SD of the
      noise relative to the reference tissue; `contrast_to_noise`: difference of grey and white
      matter relative to that SD; `sharpness`: squared differences at 2 mm relative to those at
      8 mm; `slice_jump`: largest deviation of a slice's median from that of its neighbours;
      `empty`: share of empty voxels; `empty_slice`: largest share of zeros in a slice;
      `implausible`: share of voxels far outside the standard levels; `bright`: share of voxels
      brighter than white matter deep in the brain, if that is the brightest tissue;
      `level_deviation`: largest deviation of a tissue level, relative to its SD among scanners;
      `air`: median outside the head, relative to the reference tissue.
    """
    found = {}
    steps = strides(voxel_size, _APART)
    coarse = tuple(slice(s // 2, None, s) for s in steps)
    spacing = [edge * step for edge, step in zip(voxel_size, steps, strict=True)]
    inside = np.pad(brain[coarse], 1)
    depth = np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing))[1:-1, 1:-1, 1:-1]
    outside = strides(voxel_size, _AIR_APART)
    sparse = tuple(slice(s // 2, None, s) for s in outside)
    air = _find_air(
        brain[sparse], [edge * step for edge, step in zip(voxel_size, outside, strict=True)]
    )
    thick = _thick_axis(voxel_size)
    box = _bounds(brain)
    slab = _middle_third(box, thick)
    every = tuple(slice(None, None, 1 if k == thick else s) for k, s in enumerate(steps))
    for channel, name in enumerate(sequences):
        image, level = images[..., channel], levels[name]
        sampled = image[coarse]
        deep = sampled[depth > _RIM]
        row = {} if deep.size < _FEWEST else _measure_voxels(deep, level, name)
        row |= _measure_core(sampled[depth > _CORE], level, name)
        edges = scanned.get(name, voxel_size)
        row |= _measure_texture(image[slab], brain[slab], voxel_size, edges, level, name)
        row["empty_slice"] = _find_empty(image[box], brain[box])
        row["slice_jump"] = _find_jump(image[every], brain[every], thick)
        around = image[sparse][air]
        if around.size >= _FEWEST and around.any():
            row["air"] = float(np.median(around)) / _reference(level, name)
        found[name] = {key: value for key, value in row.items() if np.isfinite(value)}
    return found


def _reference(level: Levels, name: str) -> float:
    """Returns the level of the reference tissue of a sequence: white matter, but grey on a DIR."""
    return float(getattr(level, CONTRASTS[name].reference))


def _measure_voxels(deep: Array, level: Levels, name: str) -> dict[str, float]:
    """Returns the measures of the intensities in the brain, float32[n]."""
    standard, landmarks = to_standard(deep, level, name), standard_landmarks(name)
    far = (standard > _HIGHEST * landmarks[-1]) | (standard < _LOWEST * landmarks[1])
    contrast = CONTRASTS[name]
    reference = contrast.reference
    others = [tissue for tissue in TISSUES if tissue != reference]
    deviations = []
    for tissue, spread in zip(others, contrast.spread, strict=True):
        usual = getattr(contrast.standard, tissue) / getattr(contrast.standard, reference)
        ratio = getattr(level, tissue) / getattr(level, reference)
        deviations.append(abs(ratio / usual - 1) / spread)
    return {
        "empty": float((deep < _EMPTY * np.median(deep)).mean()),
        "implausible": float(far.mean()),
        "level_deviation": max(deviations),
    }


def _measure_core(core: Array, level: Levels, name: str) -> dict[str, float]:
    """Returns the share of bright voxels among those deep in the brain, float32[n]."""
    # Where fluid or grey matter is brightest, normal voxels may exceed its level.
    if core.size < _FEWEST or CONTRASTS[name].order[-1] != "white":
        return {}
    top = _BRIGHT * standard_landmarks(name)[-1]
    return {"bright": float((to_standard(core, level, name) > top).mean())}


def _measure_texture(
    image: Array,
    brain: Array,
    voxel_size: tuple[float, float, float],
    scanned: tuple[float, float, float],
    level: Levels,
    name: str,
) -> dict[str, float]:
    """Returns the measures of noise and sharpness, along the two axes of the finest voxels.

    Noise is measured between voxels at least a scanned voxel apart, since interpolation makes
    nearer ones alike.
    """
    axes = [int(axis) for axis in np.argsort(voxel_size, kind="stable")[:2]]
    apart = [round(float(np.ceil(scanned[a] / voxel_size[a] - 0.1))) for a in axes]
    extent = [1, 1, 1]
    for axis, step in zip(axes, apart, strict=True):
        extent[axis] = 2 * step + 3
    inner = np.asarray(ndimage.minimum_filter(brain, extent), bool)
    if inner.sum() < _FEWEST:
        return {}
    residual = image
    for axis, step in zip(axes, apart, strict=True):
        kernel = np.zeros(2 * step + 1, np.float32)
        kernel[[0, step, -1]] = _SECOND_DIFFERENCE
        residual = ndimage.correlate1d(residual, kernel, axis=axis)
    noise = float(np.median(np.abs(np.asarray(residual)[inner]))) / _MAD / _GAIN
    differences = {
        distance: sum(_square(image, inner, a, distance / voxel_size[a]) for a in axes)
        for distance in (_NEAR, _FAR)
    }
    reference = _reference(level, name)
    return {
        "noise": noise / reference,
        "contrast_to_noise": abs(level.grey - level.white) / max(noise, 1e-6 * reference),
        "sharpness": differences[_NEAR] / max(differences[_FAR], 1e-12),
    }


def _square(image: Array, inner: Array, axis: int, voxels: float) -> float:
    """Returns the mean squared difference of voxels that are some voxels apart on an axis."""
    step = max(1, round(voxels))
    first, second = np.moveaxis(image, axis, 0)[:-step], np.moveaxis(image, axis, 0)[step:]
    where = np.moveaxis(inner, axis, 0)
    both = where[:-step] & where[step:]
    return float(np.mean((second[both] - first[both]) ** 2)) if both.any() else float("nan")


def _find_empty(image: Array, brain: Array) -> float:
    """Returns the largest share of zeros in a slice of the brain along any axis.

    A mask made of nonzero voxels lacks the slices of zeros; each slice is therefore assumed to have
    at least the area of its smaller neighbour.
    """
    present, shares = brain & (image != 0), [0.0]
    for axes in ((1, 2), (0, 2), (0, 1)):
        areas = brain.sum(axis=axes)
        expected = areas.copy()
        expected[1:-1] = np.maximum(areas[1:-1], np.minimum(areas[:-2], areas[2:]))
        large = expected >= max(_FEWEST, _LARGE * areas.max())
        shares += (1 - present.sum(axis=axes)[large] / expected[large]).tolist()
    return float(max(shares))


def _find_jump(image: Array, inside: Array, axis: int) -> float:
    """Returns the largest deviation of a slice's median from its neighbours', relative."""
    rows, masks = np.moveaxis(image, axis, 0), np.moveaxis(inside, axis, 0)
    areas = masks.sum(axis=(1, 2))
    large = areas >= max(_FEWEST, _LARGE * areas.max())
    medians = np.array([np.median(rows[k][masks[k]]) for k in np.flatnonzero(large)])
    if len(medians) < 3:
        return float("nan")
    jumps = np.abs(medians[1:-1] - (medians[:-2] + medians[2:]) / 2)
    return float(jumps.max() / max(float(np.median(medians)), 1e-9))


def _find_air(brain: Array, spacing: Sequence[float]) -> Array:
    """Returns the voxels outside the head, bool[x, y, z]: above the brain's centre, far from it."""
    distance = np.asarray(ndimage.distance_transform_edt(~brain, sampling=spacing))
    rows = np.flatnonzero(brain.any(axis=(0, 1)))
    above = np.zeros(brain.shape, bool)
    if rows.size:
        above[:, :, int(rows.mean()) :] = True
    return above & (distance > _AIR)


def _thick_axis(voxel_size: Sequence[float]) -> int:
    """Returns the axis of the largest voxels; of equal ones, the last, which is superior."""
    return 2 - int(np.argmax(np.round(voxel_size, 2)[::-1]))


def _bounds(brain: Array) -> tuple[slice, ...]:
    """Returns the box of the brain."""
    box = []
    for axis in range(3):
        rows = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0))
    return tuple(box)


def _middle_third(box: tuple[slice, ...], axis: int) -> tuple[slice, ...]:
    """Returns the middle third of a box along one axis."""
    low, high = box[axis].start, box[axis].stop
    third = (high - low) // 3
    return (*box[:axis], slice(low + third, high - third), *box[axis + 1 :])


def flatten(measures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns `measure_SEQUENCE` -> value, from sequence -> measure -> value."""
    return {f"{key}_{name}": value for name, row in measures.items() for key, value in row.items()}
