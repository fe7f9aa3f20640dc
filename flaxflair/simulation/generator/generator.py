"""Sampling of training examples: `sample(library, ranges, seed)`.

Combines anatomy, lesions, contrasts and acquisition. Independent of networks and training.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import BRIGHTEST, encode_condition
from flaxflair.imaging.tissue_levels import separate_levels, to_standard
from flaxflair.simulation.generator.acquisition import (
    acquire,
    draw_mask,
    draw_resolution,
)
from flaxflair.simulation.generator.anatomies import MNI_ORIGIN, Anatomy, Library
from flaxflair.simulation.generator.contrasts import (
    TIMINGS,
    Contrast,
    Relaxation,
    draw_relaxation,
    make_contrast,
    make_mixture,
    make_target,
)
from flaxflair.simulation.generator.lesions import LesionFields, draw_lesions
from flaxflair.simulation.generator.ranges import Ranges
from flaxflair.simulation.generator.window import Window, cut_window

# Subsets of sequences that hospitals acquire, used for half of the samples.
USUAL: tuple[tuple[str, ...], ...] = (
    ("T1",),
    ("T2",),
    ("T1", "T2"),
    ("T1", "T2"),
    ("T1", "T2"),
    ("T2", "PD"),
    ("T1", "T2", "PD"),
    ("T1SE", "T2", "PD"),
    INPUTS,
)
LESION_CENTRED = 0.6  # share of windows around a lesion, if a patient's mask is used


class Example(NamedTuple):
    """One window, as input and target of a network.

    Attributes:
      images: float32[x, y, z, m], every sequence of `INPUTS`, standardised; zero where absent.
      condition: float32[c], see `encode_condition`.
      flair: float32[x, y, z], the noise-free FLAIR; normal-appearing white matter is 1.
      lesion: float32[x, y, z], lesion fraction of each voxel.
      brain: bool[x, y, z], the brain mask used for preparation, with simulated errors.
      weight: float32[x, y, z], weight of each voxel in the loss.
    """

    images: Array
    condition: Array
    flair: Array
    lesion: Array
    brain: Array
    weight: Array


def sample(
    library: Library,
    ranges: Ranges,
    seed: tuple[int, ...],
    *,
    shape: tuple[int, int, int] = (64, 64, 64),
    count: int = 2,
    sequences: tuple[str, ...] | None = None,
    centred: bool = False,
) -> list[Example]:
    """Returns examples of one window of one anatomy, each with different sequences and scanners.

    A pure function of its arguments.

    Args:
      library: anatomies and lesions to draw from.
      ranges: ranges of all random parameters.
      seed: seed of the random generator.
      shape: voxels of 1 mm along x, y, z.
      count: number of examples, which share anatomy, lesions and relaxation.
      sequences: sequences present; None to draw them for each example.
      centred: whether the window is near the centre of the cerebral white matter, instead of
        anywhere in it.
    """
    rng = np.random.default_rng(seed)
    anatomy = library.anatomies[rng.integers(len(library.anatomies))]
    masks = library.lesions.masks
    patient = int(rng.integers(len(masks))) if rng.random() < ranges.lesion.mask_share else None
    if centred:
        centre = anatomy.white.mean(axis=0) + rng.normal(0, 10, 3) * (0, 0, 1)
    else:
        centre = _draw_centre(rng, anatomy, None if patient is None else masks[patient])
    window = cut_window(rng, anatomy, ranges.anatomy, centre, shape)
    lesions = draw_lesions(rng, window, library.lesions, ranges.lesion, patient)
    relaxation = draw_relaxation(rng, window.shape, ranges.tissue, ranges.lesion)
    flair = make_target(window, relaxation, lesions)
    return [
        _observe(rng, window, lesions, relaxation, flair, ranges, sequences or draw_sequences(rng))
        for _ in range(count)
    ]


def draw_sequences(rng: np.random.Generator) -> tuple[str, ...]:
    """Draws the sequences present: one of `USUAL` with probability 1/2, else any subset."""
    if rng.random() < 0.5:
        return USUAL[rng.integers(len(USUAL))]
    number = int(rng.integers(1, 2 ** len(INPUTS)))
    return tuple(name for bit, name in enumerate(INPUTS) if number >> bit & 1)


def _draw_centre(rng: np.random.Generator, anatomy: Anatomy, mask: Array | None) -> Array:
    """Draws the centre of a window, float64[3]: a voxel of white matter, or of a lesion."""
    if mask is not None and rng.random() < LESION_CENTRED:
        inside = np.flatnonzero(mask > 127)
        if len(inside):
            at = np.unravel_index(rng.choice(inside), mask.shape)
            scale, offset = anatomy.to_mni.T
            centre = (np.array(at) + MNI_ORIGIN - offset) / scale
            return np.clip(centre, 0, np.array(anatomy.classes.shape) - 1)
    return anatomy.white[rng.integers(len(anatomy.white))] + rng.normal(0, 12, 3)


def _observe(
    rng: np.random.Generator,
    window: Window,
    lesions: LesionFields,
    relaxation: Relaxation,
    flair: Array,
    ranges: Ranges,
    present: tuple[str, ...],
) -> Example:
    """Returns one example with a random scanner and preparation."""
    mask = draw_mask(rng, np.clip(window.brain, 0, 1), ranges.scanner)
    images = np.zeros((*window.shape, len(INPUTS)), np.float32)
    shared = draw_resolution(rng, ranges.scanner)
    resolutions = {}
    for name in present:
        contrast = _contrast(rng, name, window, lesions, relaxation, ranges)
        # Sequences of one protocol often share their resolution.
        resolution = shared if rng.random() < 0.4 else draw_resolution(rng, ranges.scanner)
        image = acquire(rng, contrast.image, resolution, ranges.scanner, contrast.levels[2])
        images[..., INPUTS.index(name)] = _observe_levels(rng, name, image, contrast, ranges)
        resolutions[name] = resolution.edges
    if rng.random() < ranges.scanner.stripped_share:
        images *= mask[..., None]
    weight = np.where(mask, np.float32(1), np.float32(0.1))
    return Example(images, encode_condition(resolutions), flair, lesions.load, mask, weight)


def _contrast(
    rng: np.random.Generator,
    name: str,
    window: Window,
    lesions: LesionFields,
    relaxation: Relaxation,
    ranges: Ranges,
) -> Contrast:
    protocol = TIMINGS[name](rng, relaxation.low_field)
    if name.startswith("T1") and rng.random() < ranges.lesion.isointense_share:
        faint = LesionFields(0.15 * lesions.load, 0 * lesions.halo, lesions.severity, lesions.fluid)
        return make_contrast(window, relaxation, faint, protocol)
    if rng.random() < ranges.tissue.mixture_share:
        return make_mixture(rng, window, relaxation, lesions, protocol, ranges.tissue)
    return make_contrast(window, relaxation, lesions, protocol)


def _observe_levels(
    rng: np.random.Generator, name: str, image: Array, contrast: Contrast, ranges: Ranges
) -> Array:
    """Returns the image at standard levels, with simulated errors of the estimated levels."""
    errors = np.exp(np.array(ranges.scanner.level_sd) * rng.standard_normal(3))
    levels = separate_levels(np.array(contrast.levels) * errors, name)
    standard = to_standard(image, levels, name)
    gamma = np.exp(rng.normal(0, ranges.scanner.gamma_sd))
    return np.clip(np.maximum(standard, 0) ** gamma, 0, BRIGHTEST).astype(np.float32)
