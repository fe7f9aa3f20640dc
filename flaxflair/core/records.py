"""Records: geometry, volumes, subjects, and the errors that name them.

Knows nothing of files, of intensities or of networks.

Axis legend, for the whole package:

    b        subject (or window) in a batch
    x y z    voxel axes: those of a `Subject` run closest to right, anterior, superior, whatever
             the order in its files (`native`); a `Volume` has the axes that its affine states
    m        pulse sequence, as an input channel
    f        filters of a hidden layer

A comment such as `# b x y z m -> b x y z` states the axes before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and says what to do."""


class GeometryError(InputError):
    """A grid or an affine cannot be used, or differs from the one it has to equal."""


@dataclass(frozen=True)
class Geometry:
    """Where a grid of voxels lies in the scanner's space.

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
        """The middle of the grid, world mm, float64[3]."""
        middle = (np.array(self.shape) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]

    def matches(self, other: Geometry) -> bool:
        """Whether both are one grid: equal shapes, and corners within a hundredth of a voxel."""
        if self.shape != other.shape:
            return False
        corner = np.array([*self.shape, 1.0])
        tolerance = 0.01 * min(self.voxel_size)
        return all(
            np.abs((self.affine - other.affine) @ point).max() <= tolerance
            for point in (np.array([0.0, 0.0, 0.0, 1.0]), corner)
        )


def strides(edges: Sequence[float], millimetres: float) -> tuple[int, ...]:
    """Returns how many voxels of these edges (mm) fit into so many mm, along each axis; at least 1.

    A voxel that is a hundredth too large fits all the same.
    """
    return tuple(max(1, int(millimetres / edge + 0.01)) for edge in edges)


@dataclass(frozen=True)
class Volume:
    """An image and its place in space, which never part.

    Attributes:
      array: float32[x, y, z]; from `nifti.read_volume`, in the axis order of the file.
      geometry: its grid.
    """

    array: Array
    geometry: Geometry


@dataclass(frozen=True)
class Masks:
    """Regions of one subject, bool[x, y, z]; None where the data set does not know one.

    Attributes:
      brain: everything inside the skull. Always known.
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
      participant: BIDS label with prefix (`sub-01`); folds never part its sessions.
      session: BIDS label with prefix (`ses-1`), or None.
      group: `MS`, `HC`, or whatever `participants.tsv` says; empty if it says nothing.
      sequences: names of the channels of `images`, in order.
      images: float32[x, y, z, m].
      flair: float32[x, y, z], the FLAIR that was scanned, or None.
      masks: regions.
      geometry: the one grid, its axes running closest to right, anterior, superior.
      native: the grid of the same voxels in the order of the files, to which results return; None
        if it is the same.
      space: BIDS `space` label of the files, or None.
      sources: the files read, relative to the data set's root.
      scanned: sequence -> mm, the edges of the voxels in which it was scanned, along x, y, z; those
        of `geometry` where a sequence is not named.
      noisefree: float32[x, y, z], the FLAIR before noise; only a phantom has one.
      warnings: what should be looked at before what is made of it is trusted, a sentence each.
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

    @property
    def name(self) -> str:
        """`sub-01`, or `sub-01_ses-1`."""
        return name_session(self.participant, self.session)

    def voxel_size(self, sequence: str) -> tuple[float, float, float]:
        """Edges in mm, along x, y, z, of the voxels in which a sequence was scanned."""
        return self.scanned.get(sequence, self.geometry.voxel_size)


def name_session(participant: str, session: str | None) -> str:
    """Returns `sub-01`, or `sub-01_ses-1`: the beginning of its files' names."""
    return participant if session is None else f"{participant}_{session}"
