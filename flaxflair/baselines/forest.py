"""Random-forest regression on the 3×3×3 patches of every sequence.

Independent of intensities, units and files.

Source: Wei et al. 2019, 60 trees on the 3×3×3 patches of every sequence, after Jog, Carass, Roy,
Pham and Prince, Random forest regression for magnetic resonance image synthesis, Medical Image
Analysis 2017. The trees are those of Breiman 2001, from scikit-learn.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from flaxflair.baselines.trees import Trees, from_sklearn, walk
from flaxflair.baselines.trees import pack as pack_trees
from flaxflair.baselines.trees import unpack as unpack_trees
from flaxflair.core.records import Array, InputError

# Voxels per chunk and core: 18 MB of patches with five sequences.
_CHUNK = 1 << 15

_NEIGHBOURS = tuple(itertools.product(range(3), repeat=3))


class Forest(NamedTuple):
    """A fitted forest.

    Attributes:
      trees: over tables of patches.
      sequences: m, the channels that it reads.
    """

    trees: Trees
    sequences: int


def fit(
    examples: Iterable[tuple[Array, Array, Array]],
    *,
    trees: int,
    leaf: int,
    features: float,
    patches: int,
    share: float = 1.0,
    seed: int,
) -> Forest:
    """Grows the trees on all cores; the same seed and examples give the same forest.

    Memory is 108 bytes per patch and sequence, plus the trees.

    Args:
      examples: (images [x, y, z, m], flair [x, y, z], region bool[x, y, z]) of each subject. Only
        voxels of the region are fitted, but their patches extend beyond it.
      trees: number of trees.
      leaf: fewest patches in a leaf.
      features: fraction of a patch's values that are tried at a split; Breiman's choice for
        regression is 1/3.
      patches: at most this many in all, drawn at random without replacement, as evenly over the
        subjects as they have voxels; 0 for all.
      share: fraction of these drawn for each tree, with replacement; 1 is Breiman's bootstrap.
      seed: of the draw and of the trees, zero or more.

    Raises:
      InputError: all regions are empty, or the subjects differ in their number of sequences.
    """
    subjects = list(examples)
    counts = [int(region.sum()) for _, _, region in subjects]
    if not sum(counts):
        raise InputError("the regions of the training subjects are empty; check their masks")
    sequences = {images.shape[-1] for images, _, _ in subjects}
    if len(sequences) > 1:
        found = " and ".join(map(str, sorted(sequences)))
        raise InputError(f"the training subjects have {found} sequences; give all the same")
    width = sequences.pop()
    table, target = _draw_patches(subjects, _share(counts, patches), width, seed)
    # Imported in 0.9 s, and not needed to apply a forest.
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        trees,
        min_samples_leaf=leaf,
        max_features=float(features),
        max_samples=float(share),
        n_jobs=-1,
        random_state=seed,
    )
    return Forest(from_sklearn(forest.fit(table, target)), width)


def _draw_patches(
    subjects: Sequence[tuple[Array, Array, Array]], shares: Sequence[int], width: int, seed: int
) -> tuple[Array, Array]:
    """Returns patches, float32[n, values], and their FLAIR, float64[n].

    Args:
      subjects: (images, flair, region) of each.
      shares: patches of each.
      width: number of sequences.
      seed: of the draw.
    """
    table = np.empty((sum(shares), width * len(_NEIGHBOURS)), np.float32)
    target = np.empty(sum(shares))
    start = 0
    for number, ((images, flair, region), count) in enumerate(zip(subjects, shares, strict=True)):
        voxels = np.flatnonzero(region)
        if count < len(voxels):
            draw = np.random.default_rng([seed, number])
            voxels = np.sort(draw.choice(voxels, count, replace=False))
        rows = slice(start, start + count)
        table[rows] = _read_patches(_pad(images), voxels)
        target[rows] = flair.ravel()[voxels]
        start += count
    return table, target


def predict(model: Forest, images: Array, inside: Array | None = None) -> Array:
    """Returns the prediction, x y z m -> x y z, float32.

    Outside the grid, images are 0, the mean of z-scores.

    Args:
      model: from `fit`.
      images: [x, y, z, m], normalised as those that it was fitted to.
      inside: bool[x, y, z], voxels to predict, the others are 0; None for all.

    Raises:
      InputError: the number of sequences is not the model's.
    """
    if images.shape[-1] != model.sequences:
        raise InputError(
            f"the forest reads {model.sequences} sequences and the images hold {images.shape[-1]}; "
            "give those that it was fitted to"
        )
    shape = images.shape[:-1]
    voxels = np.arange(np.prod(shape)) if inside is None else np.flatnonzero(inside)
    padded = _pad(images)
    flair = np.zeros(int(np.prod(shape)), np.float32)

    def compute(chunk: Array) -> None:
        flair[chunk] = walk(model.trees, _read_patches(padded, chunk))

    chunks = [voxels[start : start + _CHUNK] for start in range(0, len(voxels), _CHUNK)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(compute, chunks))
    return flair.reshape(shape)


def pack(model: Forest) -> dict[str, Array]:
    """Returns the arrays to store."""
    return pack_trees(model.trees)


def unpack(arrays: Mapping[str, Array], sequences: int) -> Forest:
    """Undoes `pack`; `sequences` are the channels that it reads.

    Raises:
      InputError: the arrays are no forest of so many sequences.
    """
    return Forest(unpack_trees(arrays, sequences * len(_NEIGHBOURS)), sequences)


def _share(counts: Sequence[int], patches: int) -> list[int]:
    """Returns how many of `patches` each subject gives: equal shares, or all that it has."""
    if patches == 0:
        return list(counts)
    shares, left = [0] * len(counts), patches
    fewest_first = sorted(range(len(counts)), key=lambda number: counts[number])
    for place, number in enumerate(fewest_first):
        shares[number] = min(counts[number], left // (len(counts) - place))
        left -= shares[number]
    return shares


def _pad(images: Array) -> Array:
    return np.pad(images.astype(np.float32, copy=False), [(1, 1)] * 3 + [(0, 0)])


def _read_patches(padded: Array, voxels: Array) -> Array:
    """Returns float32[voxels, 27 · m], the patches around voxels of the grid that was padded."""
    shape, width = padded.shape[:-1], padded.shape[-1]
    corner = np.ravel_multi_index(np.unravel_index(voxels, [size - 2 for size in shape]), shape)
    flat = padded.reshape(-1, width)
    table = np.empty((len(voxels), len(_NEIGHBOURS), width), np.float32)
    for number, step in enumerate(_NEIGHBOURS):
        table[:, number] = flat[corner + np.ravel_multi_index(step, shape)]
    return table.reshape(len(voxels), -1)
