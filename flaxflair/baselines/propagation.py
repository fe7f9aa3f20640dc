"""Modality propagation: every voxel takes the FLAIR of the training subjects' most similar patch.

Similarity is the sum of squared differences over 3×3×3 voxels and all sequences. Patches are
compared within a window around the same position, so all subjects must share one grid and be
roughly aligned. The search is exact. Independent of intensities, units and files.

Source: Ye, Zikic, Glocker, Criminisi and Konukoglu, Modality Propagation, MICCAI 2013: its search
for the nearest patch, as used by Wei et al. 2019; without its later iterations, which repeat the
search with the estimate as an additional image.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from flaxflair.core.arrays import Spec, expect_arrays
from flaxflair.core.records import Array, InputError

# Voxels of a slab: its arrays stay in a core's cache while every shift of every subject passes.
_SLAB = 1 << 15


class Atlas(NamedTuple):
    """The training subjects, and the search range around a voxel.

    Attributes:
      images: float32[b, x, y, z, m].
      flair: float32[b, x, y, z].
      region: bool[b, x, y, z], the voxels that may be taken.
      search: voxels to each side along x, y, z.
    """

    images: Array
    flair: Array
    region: Array
    search: tuple[int, int, int]


def fit(examples: Iterable[tuple[Array, Array, Array]], *, search: tuple[int, int, int]) -> Atlas:
    """Stores the training subjects.

    Args:
      examples: (images [x, y, z, m], flair [x, y, z], region bool[x, y, z]) of each subject. The
        images' scales weigh the sequences, so give z-scores.
      search: voxels to each side along x, y, z; zeros compare the same position alone.

    Raises:
      InputError: there is no subject or no voxel to take, grids or sequences differ, or `search` is
        negative.
    """
    if min(search) < 0:
        raise InputError(f"search is {search}; give voxels to each side, zero or more")
    subjects = list(examples)
    if not subjects:
        raise InputError("no subject to propagate from")
    first = subjects[0][0].shape
    for images, _, _ in subjects:
        if images.shape != first:
            raise InputError(
                f"modality propagation needs one grid and the same sequences throughout: a "
                f"training subject has {_format_shape(images.shape)}, the first has "
                f"{_format_shape(first)}; bring the images onto one grid, or leave the method out"
            )
    images, flair, region = zip(*subjects, strict=True)
    if not any(mask.any() for mask in region):
        raise InputError("the regions of the training subjects are empty; check their masks")
    return Atlas(
        np.stack(images, dtype=np.float32),
        np.stack(flair, dtype=np.float32),
        np.stack(region),
        search,
    )


def predict(model: Atlas, images: Array, inside: Array | None = None) -> Array:
    """Returns the prediction, x y z m -> x y z, float32.

    Outside the grid images are 0, the mean of z-scores. Among equally near patches, the first
    subject's with the lowest shift (x, then y, then z) is taken. A voxel without a training voxel
    in its window gets the mean FLAIR over subjects at the closest position in any region.

    Args:
      model: from `fit`.
      images: [x, y, z, m], scaled as those that it was fitted to.
      inside: bool[x, y, z], the voxels to compute, the others being 0; None for all.

    Raises:
      InputError: the images' grid or number of sequences is not the model's.
    """
    if images.shape != model.images.shape[1:]:
        raise InputError(
            f"modality propagation needs images on the training subjects' grid: they have "
            f"{_format_shape(model.images.shape[1:])}, these have {_format_shape(images.shape)}; "
            "bring the images onto one grid, or leave the method out"
        )
    shape = images.shape[:-1]
    inside = np.ones(shape, bool) if inside is None else inside
    flair = np.full(shape, np.nan, np.float32)
    slabs = _slabs(inside, model.search)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        searched = pool.map(lambda slab: _search(model, images, slab), slabs)
        for slab, found in zip(slabs, searched, strict=True):
            flair[slab] = found
    alone = inside & np.isnan(flair)
    if alone.any():
        flair[alone] = _closest(model)[alone]
    return np.where(inside, flair, np.float32(0))


def _slabs(inside: Array, search: tuple[int, int, int]) -> list[tuple[slice, slice, slice]]:
    """Cuts the bounding box of the voxels to predict into slabs along x."""
    if not inside.any():
        return []
    x, y, z = (slice(int(n.min()), int(n.max()) + 1) for n in np.nonzero(inside))
    plane = math.prod(s.stop - s.start + 2 * n + 2 for s, n in zip((y, z), search[1:], strict=True))
    thick = max(_SLAB // plane, 2 * search[0] + 2)
    starts = range(x.start, x.stop, thick)
    return [(slice(start, min(start + thick, x.stop)), y, z) for start in starts]


def _search(model: Atlas, images: Array, slab: tuple[slice, slice, slice]) -> Array:
    """Returns the FLAIR of the nearest patch for each voxel of a slab, NaN without a candidate.

    All arrays are padded alike and flattened, so that a shift is an offset and every pass runs over
    contiguous memory; values that wrap from one row into the next are cropped with the padding.
    """
    margin = [n + 1 for n in model.search]
    shape = [s.stop - s.start + 2 * n for s, n in zip(slab, margin, strict=True)]
    strides = shape[1] * shape[2], shape[2], 1
    reach, patch = int(np.dot(strides, margin)), sum(strides)
    size = math.prod(shape) - 2 * reach
    target = _cut_images(images, slab, margin)[:, reach - patch : reach + size + patch]
    difference = np.empty_like(target)
    nearest = np.full(size, np.inf, np.float32)
    taken = np.full(size, np.nan, np.float32)
    for atlas, flair, region in zip(model.images, model.flair, model.region, strict=True):
        counts = _cut(region, slab, margin).ravel()
        if not counts.any():
            continue
        barred = np.where(counts, np.float32(0), np.float32(np.inf))
        source, values = _cut_images(atlas, slab, margin), _cut(flair, slab, margin).ravel()
        for shift in itertools.product(*(range(-n, n + 1) for n in model.search)):
            at = reach + int(np.dot(strides, shift))
            np.subtract(target, source[:, at - patch : at + size + patch], out=difference)
            np.square(difference, out=difference)
            distance = difference.sum(axis=0)
            for stride in strides:
                last = len(distance) - stride
                distance = (
                    distance[: last - stride] + distance[stride:last] + distance[2 * stride :]
                )
            distance += barred[at : at + size]
            closer = np.flatnonzero(distance < nearest)
            nearest[closer] = distance[closer]
            taken[closer] = values[at + closer]
    padded = np.pad(taken, reach).reshape(shape)
    return padded[tuple(slice(n, -n) for n in margin)]


def _cut_images(images: Array, slab: tuple[slice, slice, slice], margin: list[int]) -> Array:
    """Returns a slab with a margin, float32[m, x · y · z]."""
    cut = np.moveaxis(_cut(images, slab, margin), -1, 0)
    return np.ascontiguousarray(cut, np.float32).reshape(len(cut), -1)


def _cut(array: Array, slab: tuple[slice, slice, slice], margin: list[int]) -> Array:
    """Returns a slab with a margin, zero outside the grid."""
    wanted = [(s.start - n, s.stop + n) for s, n in zip(slab, margin, strict=True)]
    sizes = array.shape[:3]
    inside = tuple(slice(max(lo, 0), min(hi, n)) for (lo, hi), n in zip(wanted, sizes, strict=True))
    beyond = [(max(-lo, 0), max(hi - n, 0)) for (lo, hi), n in zip(wanted, sizes, strict=True)]
    return np.pad(array[inside], beyond + [(0, 0)] * (array.ndim - 3))


def _closest(model: Atlas) -> Array:
    """Returns, at each voxel, the mean FLAIR at the closest position in any subject's region."""
    known = model.region.any(axis=0)
    total = np.where(model.region, model.flair, 0).sum(axis=0, dtype=np.float64)
    mean = (total / np.maximum(model.region.sum(axis=0), 1)).astype(np.float32)
    at = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return mean[tuple(np.asarray(at))]


def _format_shape(shape: tuple[int, ...]) -> str:
    return f"{'×'.join(map(str, shape[:-1]))} voxels of {shape[-1]} sequences"


def pack(model: Atlas) -> dict[str, Array]:
    """Returns the arrays to store."""
    return {**model._asdict(), "search": np.array(model.search, np.int64)}


def unpack(arrays: Mapping[str, Array], sequences: int) -> Atlas:
    """Undoes `pack`; `sequences` are the channels that it reads.

    Raises:
      InputError: the arrays are no atlas of so many sequences.
    """
    subjects = arrays["flair"].shape if "flair" in arrays else (None,) * 4
    expect_arrays(
        arrays,
        {
            "images": Spec((*subjects, sequences), ("float32",)),
            "flair": Spec((None,) * 4, ("float32",)),
            "region": Spec(subjects, ("bool",)),
            "search": Spec((3,), ("int64",)),
        },
    )
    x, y, z = map(int, arrays["search"])
    if min(x, y, z) < 0 or max(x, y, z) > max(arrays["flair"].shape[1:]):
        raise InputError(f"a search of {x}, {y} and {z} voxels is none within the atlas")
    if not arrays["region"].any():
        raise InputError("no voxel of the atlas may be taken")
    return Atlas(arrays["images"], arrays["flair"], arrays["region"], (x, y, z))
