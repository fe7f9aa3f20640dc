"""Standard form of a session, which is the input of a universal network, and its inverse.

Every sequence is one channel with standard tissue levels on a grid of 1 mm; absent sequences are
zero. Independent of files and of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array, Geometry, InputError, Subject
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.resampling import bounding_box, resample, slabs
from flaxflair.imaging.tissue_levels import fit_tissue_levels, to_standard

EDGE = 1.0  # edge of the grid's voxels, mm
MARGIN = 8.0  # mm around the brain
BRIGHTEST = 6.0  # upper limit in units of standard white matter, which clips fat and vessels
# The grid's shape is a multiple of this, so that sessions of similar size share a compilation.
MULTIPLE = 16
CONDITION = 4 * len(INPUTS)
# Ranges of voxel edges in the training data, mm: of the two shorter edges, and of the longest.
FINE, COARSE = (0.45, 1.3), (0.45, 7.0)
_CUT = 4.0  # mm around the brain, more than the extent of the averaging by `resample`
_SAME = 0.02  # mm; voxels whose edges differ from 1 mm by less are not interpolated


class Standard(NamedTuple):
    """A session in standard form.

    Attributes:
      images: float32[x, y, z, m], the sequences of `INPUTS`; zero where absent.
      condition: float32[c], see `encode_condition`.
      brain: bool[x, y, z].
      geometry: the grid, its axes parallel to the subject's.
    """

    images: Array
    condition: Array
    brain: Array
    geometry: Geometry


def encode_condition(resolutions: Mapping[str, tuple[float, float, float]]) -> Array:
    """Returns the condition vector of a network, float32[4 m].

    For each sequence of `INPUTS`: 1 if present, and the base-2 logarithms of its voxel edges along
    x, y, z in mm; zeros if absent.

    Args:
      resolutions: sequence -> voxel edges in mm, for the sequences present.
    """
    rows = np.zeros((len(INPUTS), 4), np.float32)
    for name, edges in resolutions.items():
        rows[INPUTS.index(name)] = (1, *np.log2(edges))
    return rows.ravel()


def standardize(subject: Subject, *, brain_only: bool = True) -> Standard:
    """Returns a session in standard form.

    Args:
      subject: with one or more of `INPUTS`; bias-corrected scanner intensities.
      brain_only: whether images are zero outside the brain and the grid covers the brain plus
        `MARGIN`; otherwise the grid covers the whole field of view.

    Raises:
      InputError: a sequence is not one of `INPUTS`, or tissue levels cannot be estimated.
    """
    unknown = [name for name in subject.sequences if name not in INPUTS]
    if unknown or not subject.sequences:
        raise InputError(f"{subject.name}: {unknown or 'nothing'} is not an input of the model")
    brain = subject.masks.brain
    try:
        levels = fit_tissue_levels(
            subject.images, subject.sequences, brain, subject.geometry.voxel_size
        )
    except InputError as error:
        raise InputError(f"{subject.name}: {error}") from None
    region = brain if brain_only else np.ones_like(brain)
    geometry = standard_grid(subject.geometry, region, MARGIN if brain_only else 0.0)
    same = np.eye(4)
    # Images are zero outside the brain, and so are cut to it.
    box, at = bounding_box(subject.geometry, region, _CUT)
    images = np.zeros((*geometry.shape, len(INPUTS)), np.float32)
    for channel, name in enumerate(subject.sequences):
        image = np.empty(box.shape, np.float32)
        for part, _ in slabs(box):
            values = to_standard(subject.images[(*at, channel)][part], levels[name], name)
            image[part] = np.clip(values, 0, BRIGHTEST)
        if brain_only:
            image *= brain[at]
        channels = images[..., INPUTS.index(name)]
        channels[:] = resample(image, box.affine, geometry, same, beyond="zero")
    part = brain[at].astype(np.float32)
    inside = resample(part, box.affine, geometry, same, beyond="zero") > 0.5
    if brain_only:
        images *= inside[..., None]
    return Standard(images, subject_condition(subject), inside, geometry)


def subject_condition(subject: Subject) -> Array:
    """Returns the condition vector of a subject, with voxel edges clipped to the trained ranges.

    Networks do not extrapolate beyond `FINE` and `COARSE`.
    """
    edges = {}
    for name in subject.sequences:
        limits = [FINE] * 3
        found = _edges(subject, name)
        limits[int(found.argmax())] = COARSE
        x, y, z = (float(np.clip(e, *limit)) for e, limit in zip(found, limits, strict=True))
        edges[name] = (x, y, z)
    return encode_condition(edges)


def coarse_sequences(subject: Subject) -> tuple[str, ...]:
    """Returns the sequences whose voxels are larger than any in the training data."""
    sizes = {name: np.sort(_edges(subject, name)) for name in subject.sequences}
    return tuple(
        name for name, size in sizes.items() if size[1] > 1.2 * FINE[1] or size[2] > 1.2 * COARSE[1]
    )


def _edges(subject: Subject, sequence: str) -> Array:
    """Returns the resolution of a sequence on the subject's grid, float64[3], mm."""
    return np.maximum(subject.voxel_size(sequence), subject.geometry.voxel_size)


def standard_grid(geometry: Geometry, region: Array, margin: float) -> Geometry:
    """Returns a grid with voxels of `EDGE` that covers a region, parallel to another grid.

    Its shape is a multiple of `MULTIPLE`. A grid of 1 mm is only cropped and padded, without
    interpolation.

    Args:
      geometry: the other grid.
      region: bool[x, y, z] on that grid, not empty.
      margin: mm around the region.
    """
    size = np.array(geometry.voxel_size)
    edges = np.where(np.abs(size - EDGE) < _SAME, size, EDGE)
    low, high = np.zeros(3), np.zeros(3)
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        found = np.flatnonzero(region.any(axis=others))
        low[axis], high[axis] = found[0], found[-1]
    ratio = edges / size  # voxels of the old grid per voxel of the new one
    first = np.floor((low * size - margin) / edges)
    last = np.ceil((high * size + margin) / edges)
    count = last - first + 1
    filled = np.ceil(count / MULTIPLE) * MULTIPLE
    first -= (filled - count) // 2
    to_old = np.eye(4)
    to_old[:3, :3] = np.diag(ratio)
    to_old[:3, 3] = first * ratio
    x, y, z = (int(number) for number in filled)
    return Geometry((x, y, z), geometry.affine @ to_old)


def to_subject_grid(subject: Subject, array: Array, geometry: Geometry) -> Array:
    """Returns an image resampled from the standard grid to the subject's, averaged over its voxels.

    Args:
      subject: subject with the target grid.
      array: [x, y, z], on `geometry`.
      geometry: from `standardize`.

    Returns:
      float32[x, y, z]; zero beyond the standard grid.
    """
    back = resample(array, geometry.affine, subject.geometry, np.eye(4), beyond="zero")
    return back.astype(np.float32, copy=False)
