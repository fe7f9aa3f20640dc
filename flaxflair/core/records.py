"""Records: geometry, volumes, subjects, and errors of inputs.

Independent of files and networks.

Axis legend, for the whole package:

    b        subject (or window) in a batch
    x y z    voxel axes: in a `Subject` closest to right, anterior, superior (RAS), independent of
             the order in its files (`native`); in a `Volume`, the axes of its affine
    m        pulse sequence, as an input channel
    f        filters of a hidden layer

A comment such as `# b x y z m -> b x y z` states the axes before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Array = np.ndarray
Grade = Literal["good", "look", "unusable"]


class InputError(ValueError):
    """An input cannot be used; the message names it and the remedy."""


class GeometryError(InputError):
    """A grid or an affine cannot be used, or differs from the required one."""


@dataclass(frozen=True)
class Geometry:
    """Grid of voxels in the scanner's space.

    Attributes:
      shape: voxels along x, y, z.
      affine: float64[4, 4], voxel indices to millimetres (RAS+).
    """

    shape: tuple[int, int, int]
    affine: Array

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def centre(self) -> Array:
        """Centre of the grid, world mm, float64[3]."""
        middle = (np.array(self.shape) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]

    def part(self, at: tuple[slice, slice, slice]) -> Geometry:
        """Returns the grid of the voxels that slices along x, y, z select."""
        x, y, z = (range(size)[along] for size, along in zip(self.shape, at, strict=True))
        to_whole = np.diag([x.step, y.step, z.step, 1.0])
        to_whole[:3, 3] = (x.start, y.start, z.start)
        return Geometry((len(x), len(y), len(z)), self.affine @ to_whole)

    def matches(self, other: Geometry) -> bool:
        """Whether both grids are equal: shapes, and corners within a hundredth of a voxel."""
        if self.shape != other.shape:
            return False
        corner = np.array([*self.shape, 1.0])
        tolerance = 0.01 * min(self.voxel_size)
        return all(
            np.abs((self.affine - other.affine) @ point).max() <= tolerance
            for point in (np.array([0.0, 0.0, 0.0, 1.0]), corner)
        )


def strides(edges: Sequence[float], millimetres: float) -> tuple[int, ...]:
    """Returns the voxels of these edges (mm) that fit into a length (mm), per axis; at least 1.

    Edges may exceed a divisor of the length by 1 %.
    """
    return tuple(max(1, int(millimetres / edge + 0.01)) for edge in edges)


@dataclass(frozen=True)
class Volume:
    """An image with its geometry.

    Attributes:
      array: float32[x, y, z]; from `nifti.read_volume`, in the axis order of the file.
      geometry: grid of the image.
    """

    array: Array
    geometry: Geometry


@dataclass(frozen=True)
class Masks:
    """Regions of one subject, bool[x, y, z]; None if unknown.

    Attributes:
      brain: everything inside the skull; always known.
      lesion: white-matter lesions; all False in a healthy subject.
      white_matter: white matter, lesions included.
      ventricles: ventricular cerebrospinal fluid.
    """

    brain: Array
    lesion: Array | None = None
    white_matter: Array | None = None
    ventricles: Array | None = None

    @property
    def nawm(self) -> Array | None:
        """Normal-appearing white matter: white matter without lesions."""
        if self.white_matter is None:
            return None
        return self.white_matter if self.lesion is None else self.white_matter & ~self.lesion


@dataclass(frozen=True)
class Subject:
    """One scanning session of one participant, every sequence on one grid.

    Attributes:
      participant: BIDS label with prefix (`sub-01`); its sessions are always in one fold.
      session: BIDS label with prefix (`ses-1`), or None.
      group: `MS`, `HC`, or another value from `participants.tsv`; empty if not given.
      sequences: names of the channels of `images`, in order.
      images: float32[x, y, z, m].
      flair: float32[x, y, z], scanned FLAIR, or None.
      masks: regions.
      geometry: common grid, its axes closest to right, anterior, superior.
      native: grid of the same voxels in the axis order of the files, in which results are written;
        None if it is the same.
      space: BIDS `space` label of the files, or None.
      sources: the files read, relative to the data set's root: those of `sequences` in their
        order, then the FLAIR.
      scanned: sequence -> mm, edges of its scanned voxels along x, y, z; those of `geometry` for a
        missing sequence.
      noisefree: float32[x, y, z], noise-free FLAIR; of phantoms only.
      warnings: possible problems of the images, one sentence each.
      quality: measure -> value, see `evaluation.verdict.MEASURES`; a measure of one sequence is
        named `measure_SEQUENCE`.
    """

    participant: str
    session: str | None
    group: str
    sequences: tuple[str, ...]
    images: Array = field(repr=False)
    flair: Array | None = field(repr=False)
    masks: Masks = field(repr=False)
    geometry: Geometry
    native: Geometry | None = None
    space: str | None = None
    sources: tuple[str, ...] = ()
    scanned: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    noisefree: Array | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """`sub-01`, or `sub-01_ses-1`."""
        return name_session(self.participant, self.session)

    def voxel_size(self, sequence: str) -> tuple[float, float, float]:
        """Edges in mm, along x, y, z, of the voxels in which a sequence was scanned."""
        return self.scanned.get(sequence, self.geometry.voxel_size)


class Verdict(NamedTuple):
    """Whether the synthetic FLAIR of a session can be used; see `evaluation.verdict`.

    Attributes:
      grade: `good`, `look` at it first, or `unusable`.
      reasons: one sentence each, those of the grade first; empty if it is `good`.
    """

    grade: Grade
    reasons: tuple[str, ...]


def name_session(participant: str, session: str | None) -> str:
    """Returns `sub-01`, or `sub-01_ses-1`: the beginning of its files' names."""
    return participant if session is None else f"{participant}_{session}"
