"""Windows of real sessions with an acquired FLAIR, for training in addition to simulated ones.

A session is standardised once and stored as arrays; windows are cut from it with random errors of
tissue levels, noise and slice thickness. Independent of networks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from flaxflair.core.records import Array, InputError, Subject
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.evaluation.lesion_segmentation import segment
from flaxflair.imaging.resampling import resample
from flaxflair.imaging.standard import BRIGHTEST, encode_condition, standardize
from flaxflair.imaging.tissue_levels import (
    STANDARD,
    fit_tissue_levels,
    separate_levels,
    to_standard,
)
from flaxflair.simulation.generator.acquisition import acquire, draw_resolution
from flaxflair.simulation.generator.generator import Example
from flaxflair.simulation.generator.ranges import ScannerRanges
from flaxflair.simulation.generator.splines import linear_matrix, sampling_matrix
from flaxflair.simulation.generator.storage import load_arrays, write_folder

LESION_CENTRED = 0.6  # share of windows around a lesion, if the session has lesions
ALL_SEQUENCES = 0.5  # share of windows with every sequence of the session
DEGRADED = 0.2  # share of windows of high-resolution sessions with simulated lower resolution
LEVEL_ERRORS = 0.5  # SD of the errors of tissue levels, relative to those of simulated windows
THICK = 1.6  # mm; finer scans may be degraded, and finer FLAIRs need no slice profile


@dataclass(frozen=True)
class RealSession:
    """One session in standard form.

    Attributes:
      images: float16[x, y, z, k], the scanned sequences.
      present: int64[k], their indices in `INPUTS`.
      edges: float64[k, 3], voxel edges of each scan, mm.
      flair: float32[x, y, z], white matter about 1.
      flair_first: float64[3], position of the FLAIR's first voxel along each axis, in voxels.
      flair_step: float64[3], distance of the FLAIR's voxels, likewise.
      brain: bool[x, y, z].
      lesion: float16[x, y, z], lesion fraction of each voxel, from the session's mask or else from
        the rule-based segmentation of its FLAIR and T1; zero without mask and T1.
      segmented: bool[], whether the session has a lesion mask.
    """

    images: Array
    present: Array
    edges: Array
    flair: Array
    flair_first: Array
    flair_step: Array
    brain: Array
    lesion: Array
    segmented: Array


def make_session(subject: Subject) -> RealSession:
    """Returns a session in standard form.

    Args:
      subject: with a FLAIR, on one grid.

    Raises:
      InputError: the FLAIR is missing, or tissue levels cannot be estimated.
    """
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR to learn from")
    standard = standardize(subject)
    source, grid, brain = subject.geometry, standard.geometry, subject.masks.brain
    levels = fit_tissue_levels(subject.flair[..., None], (TARGET,), brain, source.voxel_size)[
        TARGET
    ]
    same = np.eye(4)
    flair = resample(subject.flair * brain / levels.white, source.affine, grid, same, beyond="zero")
    lesion = np.zeros(grid.shape, np.float16)
    mask = _lesion_mask(subject)
    if mask is not None:
        mask = mask.astype(np.float32)
        lesion = resample(mask, source.affine, grid, same, beyond="zero").astype(np.float16)
    to_grid = np.linalg.inv(grid.affine) @ source.affine
    present = np.array([INPUTS.index(name) for name in subject.sequences])
    edges = [np.maximum(subject.voxel_size(n), source.voxel_size) for n in subject.sequences]
    return RealSession(
        standard.images[..., present].astype(np.float16),
        present,
        np.array(edges, np.float64),
        flair.astype(np.float32),
        to_grid[:3, 3],
        np.diag(to_grid[:3, :3]).copy(),
        standard.brain,
        lesion,
        np.array(subject.masks.lesion is not None),
    )


def _lesion_mask(subject: Subject) -> Array | None:
    """Returns the lesion mask of a session, or else its rule-based lesion segmentation."""
    if subject.masks.lesion is not None or "T1" not in subject.sequences:
        return subject.masks.lesion
    assert subject.flair is not None
    t1 = subject.images[..., subject.sequences.index("T1")]
    return segment(subject.flair, t1, subject.masks.brain, subject.geometry.voxel_size)


def save_session(folder: Path, session: RealSession) -> None:
    """Writes a session as arrays, for `open_session`; `folder` must not exist."""
    with write_folder(folder) as partial:
        for field in fields(session):
            np.save(partial / f"{field.name}.npy", getattr(session, field.name))


def open_session(folder: Path) -> RealSession:
    """Opens a session written by `save_session`, memory-mapped and read-only."""
    return RealSession(**load_arrays(folder, (field.name for field in fields(RealSession))))


def draw_window(
    rng: np.random.Generator, session: RealSession, ranges: ScannerRanges, edge: int
) -> tuple[Example, Array]:
    """Draws a window of a session, mirrored with probability 1/2.

    Args:
      rng: random generator.
      session: the session.
      ranges: ranges of the simulated errors.
      edge: voxels along each axis.

    Returns:
      The window; and float32[3, edge, edge], matrices along x, y and z that apply the slice profile
      and the interpolation of the scanned FLAIR to a predicted one.
    """
    low = _draw_corner(rng, session, edge)
    cut = tuple(slice(start, start + edge) for start in low)
    channels = _draw_channels(rng, len(session.present))
    images = np.zeros((edge, edge, edge, len(INPUTS)), np.float32)
    brain = np.asarray(session.brain[cut])
    fine = session.edges.max() < THICK
    degraded = bool(fine and rng.random() < DEGRADED)
    shared = draw_resolution(rng, ranges)
    resolutions = {}
    for channel in channels:
        name = INPUTS[session.present[channel]]
        image = np.asarray(session.images[cut][..., channel], np.float32)
        edges = session.edges[channel]
        if degraded:
            resolution = shared if rng.random() < 0.5 else draw_resolution(rng, ranges)
            image = acquire(rng, image, resolution, ranges, STANDARD[name].white)
            edges = np.maximum(edges, resolution.edges)
        images[..., session.present[channel]] = _disturb_levels(rng, image, name, ranges)
        resolutions[name] = (float(edges[0]), float(edges[1]), float(edges[2]))
    images *= brain[..., None]
    example = Example(
        images,
        encode_condition(resolutions),
        np.asarray(session.flair[cut]),
        np.asarray(session.lesion[cut], np.float32),
        brain,
        brain.astype(np.float32),
    )
    observe = np.stack([_observation(session, axis, low[axis], edge) for axis in range(3)])
    if rng.random() < 0.5:
        example = Example(*(_mirror(part) if part.ndim > 1 else part for part in example))
        observe[0] = observe[0, ::-1, ::-1].copy()
    return example, observe


def _draw_corner(rng: np.random.Generator, session: RealSession, edge: int) -> tuple[int, ...]:
    """Draws the first voxel of a window around a lesion or a voxel of the brain."""
    inside = session.brain
    if rng.random() < LESION_CENTRED and (session.lesion > 0.5).any():
        inside = session.lesion > 0.5
    voxels = np.flatnonzero(inside)
    centre = np.array(np.unravel_index(rng.choice(voxels), inside.shape))
    centre = centre + rng.integers(-edge // 6, edge // 6 + 1, 3)
    most = np.array(inside.shape) - edge
    return tuple(int(v) for v in np.clip(centre - edge // 2, 0, np.maximum(most, 0)))


def _draw_channels(rng: np.random.Generator, count: int) -> list[int]:
    """Draws the sequences present: all with probability `ALL_SEQUENCES`, else any subset."""
    if rng.random() < ALL_SEQUENCES:
        return list(range(count))
    number = int(rng.integers(1, 2**count))
    return [channel for channel in range(count) if number >> channel & 1]


def _disturb_levels(
    rng: np.random.Generator, image: Array, name: str, ranges: ScannerRanges
) -> Array:
    """Returns an image at standard levels with simulated errors of the estimated levels."""
    standard = STANDARD[name]
    errors = np.exp(LEVEL_ERRORS * np.array(ranges.level_sd) * rng.standard_normal(3))
    levels = separate_levels(
        np.array([standard.fluid, standard.grey, standard.white]) * errors, name
    )
    gamma = np.exp(rng.normal(0, LEVEL_ERRORS * ranges.gamma_sd))
    transformed = np.maximum(to_standard(image, levels, name), 0) ** gamma
    return np.clip(transformed, 0, BRIGHTEST).astype(np.float32)


def _observation(session: RealSession, axis: int, low: int, edge: int) -> Array:
    """Returns slice profile and interpolation of the FLAIR along an axis, float32[edge, edge]."""
    step = float(session.flair_step[axis])
    if step < THICK:
        return np.eye(edge, dtype=np.float32)
    first = float(session.flair_first[axis]) - low
    begin = int(np.floor(-first / step))
    at = first + step * np.arange(begin, begin + int(np.ceil(edge / step)) + 2)
    return linear_matrix(at, edge) @ sampling_matrix(edge, at, width=step)


def _mirror(array: Array) -> Array:
    return np.ascontiguousarray(array[::-1])
