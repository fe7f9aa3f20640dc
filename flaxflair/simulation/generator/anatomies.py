"""Reading of label maps of whole heads and of lesions of patients, for the generator.

Independent of contrasts.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, InputError
from flaxflair.imaging.orientation import to_ras
from flaxflair.io.nifti import read_volume
from flaxflair.simulation.generator.classes import (
    AIR,
    CORTEX,
    FLUID,
    VENTRICLES,
    WHITE,
    class_table,
    members,
)

# Extent of the cerebrum in MNI152 space, mm: along x, along y, and its top. The base is not used,
# since label maps end at different heights of the brainstem.
_MNI_X, _MNI_Y, _MNI_TOP = (-69.0, 69.0), (-103.0, 72.0), 78.0
_MARGIN = 12  # voxels of head kept around the brain
MNI_SHAPE, MNI_ORIGIN = (182, 218, 182), (-91.0, -126.0, -72.0)  # RAS, 1 mm
_FAR = 60  # upper limit of stored distances, mm
_MOST_OFF = 0.05  # maximum difference of a label map's voxel edges from 1 mm


@dataclass(frozen=True)
class Anatomy:
    """One head.

    Attributes:
      classes: uint8[x, y, z], indices in `CLASSES`; voxels of 1 mm, axes right, anterior, superior.
      to_mni: float64[3, 2], scale and offset of each axis from voxels to mm in MNI152 space.
      ventricle_distance: uint8[x, y, z], mm to the nearest ventricle, at most 60.
      cortex_distance: uint8[x, y, z], mm to the nearest cortex, at most 60.
      white: int32[n, 3], the voxels of cerebral white matter.
    """

    classes: Array
    to_mni: Array
    ventricle_distance: Array
    cortex_distance: Array
    white: Array


@dataclass(frozen=True)
class LesionLibrary:
    """Lesions drawn from patients.

    Attributes:
      voxels: int16[n, 3], the voxels (1 mm) of all single lesions, relative to each one's centre.
      offsets: int64[k + 1], start of each lesion in `voxels`.
      masks: uint8[p, x, y, z], smoothed lesion masks of whole patients in MNI152 space
        (`MNI_SHAPE`), 0 to 255.
      prior: float32[x, y, z], lesion probability on that grid, 0 to 1.
    """

    voxels: Array
    offsets: Array
    masks: Array
    prior: Array


@dataclass(frozen=True)
class Library:
    """Anatomies and lesions that the generator draws from.

    Attributes:
      anatomies: heads.
      lesions: lesions of patients.
    """

    anatomies: tuple[Anatomy, ...]
    lesions: LesionLibrary


class LibraryFiles(NamedTuple):
    """The files that a library is read from.

    Attributes:
      labels: label maps.
      shapes: lesion shapes.
      prior: prior map of lesions.
      masks: lesion masks of whole patients.
    """

    labels: list[Path]
    shapes: Path
    prior: Path
    masks: list[Path]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.labels, self.shapes, self.prior, *self.masks)


def find_library(labels: Path, shapes: Path, masks: Path) -> LibraryFiles:
    """Finds the files of a library by their names; see `load_library`.

    Raises:
      InputError: a folder has no such file.
    """
    return LibraryFiles(
        _list(labels, "*.nii.gz", "label map"),
        _list(shapes, "lesion_shapes.npz", "lesion shapes")[0],
        _list(shapes, "*prior*_space-MNI152.nii.gz", "prior map of lesions")[0],
        _list(masks, "*lesion_mask.nii.gz", "lesion mask"),
    )


def load_library(labels: Path, shapes: Path, masks: Path) -> Library:
    """Reads label maps and lesions.

    Args:
      labels: folder of label maps, `*.nii.gz`, 1 mm, FreeSurfer labels.
      shapes: folder with `lesion_shapes.npz` (`voxels`, `offsets`) and a prior map
        `*prior*_space-MNI152.nii.gz`.
      masks: folder of lesion masks of whole patients in MNI152 space, 1 mm.

    Raises:
      InputError: a folder has no such file, or a file is damaged, in another space, or empty.
    """
    files = find_library(labels, shapes, masks)
    voxels, offsets = _read_shapes(files.shapes)
    for start, stop in pairwise(offsets):
        voxels[start:stop] -= np.round(voxels[start:stop].mean(axis=0)).astype(np.int16)
    soft = [
        (255 * ndimage.gaussian_filter((_read_mni(path) > 0.5).astype(np.float32), 0.6))
        for path in files.masks
    ]
    return Library(
        tuple(_read_anatomy(path) for path in files.labels),
        LesionLibrary(
            voxels,
            offsets,
            np.stack([mask.astype(np.uint8) for mask in soft]),
            ndimage.gaussian_filter(_read_mni(files.prior), 2.0),
        ),
    )


def _list(folder: Path, pattern: str, what: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise InputError(f"{folder}: holds no {what} ({pattern}); name the folder that does")
    return found


def _read_shapes(path: Path) -> tuple[Array, Array]:
    """Returns `voxels` and `offsets` of `LesionLibrary`, the lesions not yet centred."""
    voxels = offsets = np.empty(0)
    try:
        # numpy does not close a file that is not an archive.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as packed:
            voxels, offsets = packed["voxels"].astype(np.int16), packed["offsets"].astype(np.int64)
        whole = (
            voxels.shape[1:] == (3,)
            and offsets.ndim == 1
            and (offsets[0], offsets[-1]) == (0, len(voxels))
            and bool((np.diff(offsets) > 0).all())
            and len(offsets) > 1
        )
    except (*_UNREADABLE, TypeError, AttributeError, IndexError):
        whole = False
    if not whole:
        raise InputError(
            f"{path}: is damaged, or holds no lesions as voxels[n, 3] and offsets[k]; copy it again"
        )
    return voxels, offsets


# Exceptions of numpy for files that are not arrays or archives of arrays.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)


def _read_mni(path: Path) -> Array:
    volume = to_ras(read_volume(path))
    affine = np.eye(4)
    affine[:3, 3] = MNI_ORIGIN
    if not volume.geometry.matches(Geometry(MNI_SHAPE, affine)):
        shape, origin = volume.array.shape, volume.geometry.affine[:3, 3].round(1).tolist()
        raise InputError(
            f"{path}: has shape {shape} and begins at {origin} mm; 1 mm MNI152 space has "
            f"{MNI_SHAPE} and {list(MNI_ORIGIN)}, so resample it"
        )
    if not volume.array.any():
        raise InputError(f"{path}: is zero everywhere; leave it out")
    return volume.array


def _read_anatomy(path: Path) -> Anatomy:
    volume = to_ras(read_volume(path))
    array, size = volume.array, volume.geometry.voxel_size
    if max(abs(edge - 1) for edge in size) > _MOST_OFF:
        shown = "×".join(f"{edge:.3g}" for edge in size)
        raise InputError(f"{path}: has voxels of {shown} mm; label maps of 1 mm are needed")
    classes = class_table()[np.clip(np.round(array), 0, 1023).astype(np.int16)]
    inside = members("white", "grey", "fluid")[classes]
    parts = (WHITE, CORTEX, VENTRICLES)
    if not all((classes == part).any() for part in parts):
        raise InputError(
            f"{path}: holds no labels of white matter, cortex and ventricles; give a "
            "FreeSurfer label map"
        )
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    low = [max(0, axis.start - _MARGIN) for axis in box]
    # Excludes the neck, below the cerebellum.
    classes = np.ascontiguousarray(
        classes[tuple(slice(a, axis.stop + _MARGIN) for a, axis in zip(low, box, strict=True))]
    )
    classes = _fill_sulci(classes)
    cerebrum = np.isin(classes, (WHITE, CORTEX))
    return Anatomy(
        classes,
        _fit_mni(cerebrum),
        _distance(classes == VENTRICLES),
        _distance(classes == CORTEX),
        np.argwhere(classes == WHITE).astype(np.int32),
    )


def _fill_sulci(classes: Array) -> Array:
    """Returns the map with unlabelled voxels within the closed brain mask set to fluid."""
    brain = members("white", "grey", "fluid")[classes]
    padded = np.pad(brain, 5)
    hull = ndimage.binary_closing(padded, iterations=4)[5:-5, 5:-5, 5:-5]
    filled = classes.copy()
    filled[hull & (classes == AIR)] = FLUID
    return filled


def _fit_mni(cerebrum: Array) -> Array:
    """Returns scale and offset of each axis, float64[3, 2], that map a cerebrum to MNI152 mm."""
    ends = []
    for axis in range(3):
        line = np.flatnonzero(cerebrum.any(axis=tuple({0, 1, 2} - {axis})))
        ends.append((float(line[0]), float(line[-1])))
    (x0, x1), (y0, y1), (_, top) = ends
    sx = (_MNI_X[1] - _MNI_X[0]) / (x1 - x0)
    sy = (_MNI_Y[1] - _MNI_Y[0]) / (y1 - y0)
    sz = (sx * sy) ** 0.5
    return np.array(
        [[sx, _MNI_X[0] - sx * x0], [sy, _MNI_Y[0] - sy * y0], [sz, _MNI_TOP - sz * top]]
    )


def _distance(region: Array) -> Array:
    """Returns uint8, mm to a region, at most `_FAR`."""
    distance = np.asarray(ndimage.distance_transform_edt(~region))
    return np.minimum(distance, _FAR).astype(np.uint8)
