"""The generator: `sample(library, ranges, seed)` returns training examples.

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

# Subsets of sequences that hospitals acquire; half of the samples have one of them.
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
LESION_CENTRED = 0.6


class Example(NamedTuple):
    """One window, as a network sees it.

    Attributes:
      images: float32[x, y, z, m], every sequence of `INPUTS`, standardised; zero where absent.
      condition: float32[c], see `encode_condition`.
      flair: float32[x, y, z], the clean FLAIR; normal-appearing white matter is 1.
      lesion: float32[x, y, z], the part of each voxel that is lesion.
      brain: bool[x, y, z], the brain mask that the network is given.
      weight: float32[x, y, z], of each voxel in the loss.
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
    """Returns windows of one anatomy, each with sequences and a scanner of its own.

    The same arguments always give the same examples, whatever was drawn before.

    Args:
      library: what anatomies and lesions are drawn from.
      ranges: of everything random.
      seed: the address of the draw.
      shape: voxels of 1 mm along x, y, z.
      count: examples; they share anatomy, lesions and relaxation, and little else.
      sequences: that are present; None draws them.
      centred: whether the window lies around the middle of the cerebral white matter, rather than
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
    """Draws the sequences that are present: usual ones in half of the samples, else any."""
    if rng.random() < 0.5:
        return USUAL[rng.integers(len(USUAL))]
    number = int(rng.integers(1, 2 ** len(INPUTS)))
    return tuple(name for bit, name in enumerate(INPUTS) if number >> bit & 1)


def _draw_centre(rng: np.random.Generator, anatomy: Anatomy, mask: Array | None) -> Array:
    """Returns a voxel of white matter, or in some samples one of a lesion."""
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
    """Returns one example: scanner and preparation drawn anew."""
    mask = draw_mask(rng, np.clip(window.brain, 0, 1), ranges.scanner)
    images = np.zeros((*window.shape, len(INPUTS)), np.float32)
    shared = draw_resolution(rng, ranges.scanner)
    resolutions = {}
    for name in present:
        contrast = _contrast(rng, name, window, lesions, relaxation, ranges)
        # Sequences of one protocol often share slices.
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
    """Returns the image at standard levels, with the errors that finding levels makes."""
    errors = np.exp(np.array(ranges.scanner.level_sd) * rng.standard_normal(3))
    levels = separate_levels(np.array(contrast.levels) * errors, name)
    standard = to_standard(image, levels, name)
    gamma = np.exp(rng.normal(0, ranges.scanner.gamma_sd))
    return np.clip(np.maximum(standard, 0) ** gamma, 0, BRIGHTEST).astype(np.float32)
