"""Loading of prepared BIDS data sets as subjects, all at once or one by one.

Sessions are found first, from file names only, and read later. Independent of folds, normalisation
and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from flaxflair.core.json_objects import read_object
from flaxflair.core.records import (
    Array,
    Geometry,
    GeometryError,
    InputError,
    Masks,
    Subject,
    Volume,
)
from flaxflair.core.sequences import TARGET
from flaxflair.imaging.contrasts import check_contrasts
from flaxflair.imaging.findings import refuse_or_warn
from flaxflair.imaging.masks import binarize, check_brain_mask, check_brain_volume, expect_mask
from flaxflair.imaging.normalization import zero_outside
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.session_checks import check_volumes
from flaxflair.imaging.tissue import white_matter
from flaxflair.io import bids
from flaxflair.io.masks import BRAIN
from flaxflair.io.nifti import read_volume
from flaxflair.io.provenance import check_provenance
from flaxflair.io.session_files import FlairUse, SessionFiles, choose_images, find_sessions

# Maximum fraction of non-zero voxels in brain-extracted images; a brain fills about a fifth of its
# scan.
MAX_BRAIN = 0.7
# Field of a prepared image's sidecar: edges of its scanned voxels in mm, along the axes of its grid
# in RAS order.
VOXEL_SIZE = "ScannedVoxelSize"


def load_cohort(
    root: Path,
    inputs: Sequence[str],
    *,
    need_flair: bool = True,
    patterns: Mapping[str, str] | None = None,
    on_subject: Callable[[str], None] = lambda name: None,
) -> list[Subject]:
    """Loads every session of a prepared data set.

    Args:
      root: prepared BIDS data set: all images of a session are on one grid.
      inputs: names of the input sequences, which become channels in this order.
      need_flair: whether a session without a FLAIR is refused.
      patterns: see `bids.find_images`.
      on_subject: called with the name of each session before it is read.

    Returns:
      Subjects, sorted by participant and session.

    Raises:
      InputError: a sequence is missing or present twice, or a file cannot be used (see
        `nifti.read_volume`); the message names it.
      GeometryError: the grids of a session differ.
    """
    flair: FlairUse = "needed" if need_flair else "welcome"
    sessions = find_sessions(root, inputs, flair=flair, patterns=patterns)
    for session in sessions:
        choose_images(session)  # fails on missing sequences before minutes of reading
    subjects = []
    for session in sessions:
        on_subject(session.name)
        subjects.append(load_session(session))
    return subjects


def load_session(
    files: SessionFiles, voxel_size: tuple[float, float, float] | None = None
) -> Subject:
    """Reads one prepared session in RAS order.

    Every file is read once. Warnings of `check_volumes` and `check_contrasts` are kept in the
    subject.

    Args:
      files: files of the session, all on one grid.
      voxel_size: mm, of the model's training images; None if there is no model.

    Raises:
      InputError: a sequence is missing or present twice, a file cannot be used, an image cannot be
        of its stated sequence, or the FLAIR is needed and is a synthetic one.
      GeometryError: the grids differ.
    """
    chosen = choose_images(files)
    reference = TARGET if TARGET in chosen else files.inputs[0]
    first = read_volume(chosen[reference].path)
    native, first = first.geometry, to_ras(first)
    geometry = first.geometry
    # Filled in place: a list of volumes and their stack would double the memory of the inputs.
    images = np.empty((*geometry.shape, len(files.inputs)), np.float32)
    volumes: dict[str, Volume] = {}
    for sequence, image in chosen.items():
        is_first = sequence == reference
        array = first.array if is_first else read_onto(image.path, reference, geometry)
        if sequence in files.inputs:
            channel = files.inputs.index(sequence)
            images[..., channel] = array
            array = images[..., channel]
        volumes[sequence] = Volume(array, geometry)
    del first
    paths = {name: image.path for name, image in chosen.items()}
    provenance = check_provenance(paths, truth=files.flair == "needed")
    warnings = refuse_or_warn([*provenance, *check_volumes(volumes, voxel_size)], paths)
    scanned, sidecar_warnings = _read_scanned(chosen)
    masks, doubts = _load_masks(files, volumes, geometry, reference)
    if not doubts:  # contrasts are measured within the mask
        shown = {name: volume.array for name, volume in volumes.items()}
        doubts = refuse_or_warn(check_contrasts(shown, masks.brain, geometry.voxel_size), paths)
    return Subject(
        participant=files.participant,
        session=files.session,
        group=files.group,
        sequences=files.inputs,
        images=images,
        flair=volumes[TARGET].array if TARGET in volumes else None,
        masks=masks,
        geometry=geometry,
        native=native,
        space=chosen[reference].entities.get("space"),
        sources=tuple(image.relative for image in chosen.values()),
        scanned=scanned,
        noisefree=_read_noisefree(files, reference, geometry),
        warnings=(*files.notes, *warnings, *sidecar_warnings, *doubts),
    )


def _read_noisefree(files: SessionFiles, reference: str, geometry: Geometry) -> Array | None:
    """Returns the noise-free FLAIR of a simulated session, if it is wanted and exists."""
    if files.flair == "ignored":
        return None
    truths = files.find(TARGET, desc="noisefree")
    return next((read_onto(image.path, reference, geometry) for image in truths), None)


def _read_scanned(
    chosen: Mapping[str, bids.Image],
) -> tuple[dict[str, tuple[float, float, float]], list[str]]:
    """Returns sequence -> edges of its scanned voxels in mm, from sidecars; and warnings."""
    scanned: dict[str, tuple[float, float, float]] = {}
    warnings = []
    for sequence, image in chosen.items():
        path = bids.sidecar(image.path)
        remedy = f"the scanned voxel size of the {sequence} is assumed to be that of its grid"
        try:
            edges = read_object(path, remedy).get(VOXEL_SIZE) if path.is_file() else None
            if edges is not None:
                scanned[sequence] = _parse_edges(edges)
        except InputError as error:
            warnings.append(str(error))
        except (TypeError, ValueError):
            warnings.append(f"{path}: {VOXEL_SIZE} is not three edges of a voxel in mm; {remedy}")
    return scanned, warnings


def _parse_edges(edges: Iterable[Any]) -> tuple[float, float, float]:
    x, y, z = (float(edge) for edge in edges)
    if not all(0.01 <= edge <= 100 for edge in (x, y, z)):
        raise ValueError("not the edges of a voxel")
    return x, y, z


_ONE_GRID = "bring every sequence onto one grid first"


def read_onto(path: Path, reference: str, geometry: Geometry, remedy: str = _ONE_GRID) -> Array:
    """Reads an image on the grid of the reference, in any axis order of the file.

    Args:
      path: path of the image.
      reference: name of the image that defines the grid, for the message.
      geometry: the grid.
      remedy: what to do if the grids differ, for the message.

    Returns:
      float32[x, y, z], in RAS order.

    Raises:
      InputError: the file cannot be used.
      GeometryError: the grids differ.
    """
    volume = to_ras(read_volume(path))
    found = volume.geometry
    if found.shape != geometry.shape:
        shapes = " against ".join("×".join(map(str, g.shape)) for g in (found, geometry))
        raise GeometryError(
            f"{path}: its grid differs from the {reference}'s, {shapes} voxels; {remedy}"
        )
    if not found.matches(geometry):
        shift = np.abs(found.affine - geometry.affine).max()
        raise GeometryError(
            f"{path}: its affine differs from the {reference}'s by up to {shift:.3g} mm; {remedy}"
        )
    return volume.array


def _load_masks(
    files: SessionFiles, volumes: Mapping[str, Volume], geometry: Geometry, reference: str
) -> tuple[Masks, tuple[str, ...]]:
    """Reads the masks, and derives brain and white matter if their masks are missing.

    Returns:
      The masks, and warnings about the brain mask, one sentence each.

    Raises:
      InputError: no brain is known, or an image is constant or empty within it.
    """

    def find(kind: str) -> Array | None:
        if (image := files.mask_of(kind)) is None:
            return None
        mask = binarize(read_onto(image.path, reference, geometry))
        if kind == BRAIN:
            expect_mask(mask, str(image.path))
        return mask

    brain = find(BRAIN)
    doubts = () if brain is None else check_brain_mask(Volume(brain, geometry), volumes[reference])
    if brain is None:
        brain = brain_of_stripped({name: volume.array for name, volume in volumes.items()})
    if brain is None:
        raise InputError(
            f"{files.root}: {files.name} has no brain mask and its images are not "
            f"brain-extracted; give one (in a data set, {files.name}_desc-brain_mask.nii.gz)"
        )
    for sequence, volume in volumes.items():
        inside = volume.array[brain]
        if inside.size == 0 or inside.min() == inside.max():
            raise InputError(
                f"{files.root}: the {sequence} of {files.name} holds one value or none within "
                "the brain; correct the brain mask or the image"
            )
    doubts += check_brain_volume(brain, geometry.voxel_size)
    if files.flair == "ignored":
        return Masks(brain), doubts
    lesion = find("lesion")
    white, nawm = None, find("NAWM")
    if nawm is not None:
        white = nawm if lesion is None else nawm | lesion
    elif "T1" in volumes:
        white = white_matter(volumes["T1"].array, brain, lesion)
    return Masks(brain, lesion, white, find("ventricles")), doubts


def brain_of_stripped(images: Mapping[str, Array]) -> Array | None:
    """Returns the brain of brain-extracted images: voxels non-zero in all of them, holes filled.

    Returns None if the images are not brain-extracted.

    Args:
      images: sequence -> [x, y, z].
    """
    first, *others = images.values()
    inside = first != 0
    for image in others:
        inside &= image != 0
    if inside.mean() > MAX_BRAIN:
        return None
    return np.asarray(ndimage.binary_fill_holes(inside), bool)


def extract_brain(subject: Subject) -> Subject:
    """Returns the subject with images, FLAIR and noise-free FLAIR zero outside the brain mask."""
    brain = subject.masks.brain
    flair, noisefree = (
        None if image is None else zero_outside(brain, image)
        for image in (subject.flair, subject.noisefree)
    )
    images = zero_outside(brain, subject.images)
    return replace(subject, images=images, flair=flair, noisefree=noisefree)


def by_grid(subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """Yields groups of subjects of one grid shape, which can be stacked."""
    shapes = dict.fromkeys(subject.geometry.shape for subject in subjects)
    for shape in shapes:
        yield [subject for subject in subjects if subject.geometry.shape == shape]
