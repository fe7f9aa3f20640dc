"""Cohort: a prepared BIDS data set becomes a list of subjects. The one loader there is.

Knows file names and grids; knows nothing of folds, normalisation or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from flaxflair import bids
from flaxflair.nifti import read_volume
from flaxflair.sequences import SEQUENCES, TARGET
from flaxflair.tissue import white_matter
from flaxflair.volume import Array, Geometry, GeometryError, InputError, Masks, Subject, Volume

Session = tuple[str, str | None]

# A brain fills about a fifth of its scan; images that are non-zero nearly everywhere have a head.
MOST_BRAIN = 0.7


def load_cohort(
    root: Path,
    inputs: Sequence[str],
    *,
    need_flair: bool = True,
    on_subject: Callable[[str], None] = lambda name: None,
) -> list[Subject]:
    """Loads every session of a prepared data set that holds the inputs asked for.

    Args:
      root: prepared BIDS data set: all images of a session on one grid.
      inputs: names of the input sequences, which become channels in this order.
      need_flair: whether a session without a FLAIR is refused.
      on_subject: told each session's name before it is read.

    Returns:
      Subjects, by participant and session.

    Raises:
      InputError: a sequence is missing or there twice, or a file cannot be used; the message names
        it. See `nifti.read_volume` for what makes a file unusable.
      GeometryError: the grids of a session differ.
    """
    images = bids.find_images(root)
    groups = bids.read_groups(root)
    wanted = [*inputs, TARGET] if need_flair else list(inputs)
    found = {(image.participant, image.session) for image in images if image.sequence is not None}
    sessions = sorted(found, key=_name)
    if not sessions:
        raise InputError(f"{root}: holds no image of {', '.join(wanted)}; is it a BIDS data set?")
    chosen = {session: _choose(root, images, session, wanted) for session in sessions}
    candidates = [*images, *bids.find_derivatives(root)]
    subjects = []
    for session in sessions:
        on_subject(_name(session))
        subjects.append(_load(root, session, inputs, chosen[session], candidates, groups))
    return subjects


def _name(session: Session) -> str:
    return "_".join(part for part in session if part)


def _choose(
    root: Path, images: list[bids.Image], session: Session, wanted: Sequence[str]
) -> dict[str, bids.Image]:
    """Returns sequence -> the one image that holds it, for a session."""
    chosen: dict[str, bids.Image] = {}
    name = _name(session)
    for sequence in dict.fromkeys([*wanted, TARGET]):
        own = [
            i for i in images if (i.participant, i.session) == session and i.sequence == sequence
        ]
        if len(own) > 1:
            both = " and ".join(image.relative for image in own[:2])
            raise InputError(f"{root}: {name} has {sequence} twice, {both}; keep one of them")
        if own:
            chosen[sequence] = own[0]
        elif sequence in wanted:
            spec = SEQUENCES[sequence]
            label = f"acq-{spec.acquisition}_{spec.suffix}" if spec.acquisition else spec.suffix
            way_out = "out the session" if sequence == TARGET else "the sequence out of the inputs"
            raise InputError(
                f"{root}: {name} has no {sequence} (a file ending in _{label}.nii.gz); "
                f"add it, or leave {way_out}"
            )
    return chosen


def _load(
    root: Path,
    session: Session,
    inputs: Sequence[str],
    chosen: dict[str, bids.Image],
    candidates: list[bids.Image],
    groups: dict[str, str],
) -> Subject:
    participant, label = session
    volumes = {sequence: _read(image.path) for sequence, image in chosen.items()}
    reference = TARGET if TARGET in volumes else inputs[0]
    geometry = volumes[reference].geometry
    for sequence, volume in volumes.items():
        _check_grid(chosen[sequence].path, volume.geometry, reference, geometry)
    images = np.stack([volumes[name].array for name in inputs], axis=-1)
    own = [i for i in candidates if (i.participant, i.session) == session]
    flair = volumes[TARGET].array if TARGET in volumes else None
    masks = _load_masks(root, _name(session), own, volumes, geometry, reference)
    noisefree = next(
        (read_volume(i.path).array for i in own if _matches(i, "FLAIR", desc="noisefree")), None
    )
    return Subject(
        participant=participant,
        session=label,
        group=groups.get(participant, ""),
        sequences=tuple(inputs),
        images=images,
        flair=flair,
        masks=masks,
        geometry=geometry,
        space=chosen[reference].entities.get("space"),
        sources=tuple(image.relative for image in chosen.values()),
        noisefree=noisefree,
    )


def _read(path: Path) -> Volume:
    volume = read_volume(path)
    if volume.array.min() == volume.array.max():
        value = volume.array.flat[0]
        raise InputError(
            f"{path}: every voxel is {value:g}, so it holds nothing to learn; replace the image"
        )
    return volume


def _check_grid(path: Path, own: Geometry, reference: str, geometry: Geometry) -> None:
    if own.shape != geometry.shape:
        found = " against ".join("×".join(map(str, g.shape)) for g in (own, geometry))
        raise GeometryError(
            f"{path}: its grid differs from the {reference}'s, {found} voxels; "
            "bring every sequence onto one grid first"
        )
    if not own.matches(geometry):
        shift = np.abs(own.affine - geometry.affine).max()
        raise GeometryError(
            f"{path}: its affine differs from the {reference}'s by up to {shift:.3g} mm; "
            "bring every sequence onto one grid first"
        )


def _load_masks(
    root: Path,
    name: str,
    own: list[bids.Image],
    volumes: dict[str, Volume],
    geometry: Geometry,
    reference: str,
) -> Masks:
    """Reads what masks there are, and derives brain and white matter where a mask is missing."""

    def find(**entities: str) -> Array | None:
        for image in own:
            if _matches(image, "mask", **entities):
                volume = read_volume(image.path)
                _check_grid(image.path, volume.geometry, reference, geometry)
                return volume.array > 0.5
        return None

    brain = find(desc="brain")
    if brain is None:
        brain = _brain_of_stripped(root, name, volumes)
    for sequence, volume in volumes.items():
        inside = volume.array[brain]
        if inside.size == 0 or inside.min() == inside.max():
            raise InputError(
                f"{root}: the {sequence} of {name} holds one value or none within the brain; "
                "correct the brain mask or the image"
            )
    lesion = find(label="lesion")
    white, nawm = None, find(label="NAWM")
    if nawm is not None:
        white = nawm if lesion is None else nawm | lesion
    elif "T1" in volumes:
        white = white_matter(volumes["T1"].array, brain)
        # Lesions may be dark on T1, so they are added; both ratios leave them out again.
        white = white if lesion is None else white | lesion
    return Masks(brain, lesion, white, find(label="ventricles"))


def _brain_of_stripped(root: Path, name: str, volumes: dict[str, Volume]) -> Array:
    """Returns the brain of images already extracted: what is zero in no sequence, holes filled."""
    inside = np.all([volume.array != 0 for volume in volumes.values()], axis=0)
    if inside.mean() > MOST_BRAIN:
        raise InputError(
            f"{root}: {name} has no brain mask and its images are not brain-extracted; "
            f"add {name}_desc-brain_mask.nii.gz"
        )
    return np.asarray(ndimage.binary_fill_holes(inside), bool)


def _matches(image: bids.Image, suffix: str, **entities: str) -> bool:
    return image.suffix == suffix and all(image.entities.get(k) == v for k, v in entities.items())


def extract_brain(subject: Subject) -> Subject:
    """Returns the subject with everything outside its brain mask zero: images, FLAIR and truth."""
    brain = subject.masks.brain

    def inside(image: Array | None) -> Array | None:
        return None if image is None else np.where(brain, image, np.float32(0))

    return replace(
        subject,
        images=np.where(brain[..., None], subject.images, np.float32(0)),
        flair=inside(subject.flair),
        noisefree=inside(subject.noisefree),
    )


def by_grid(subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """Yields subjects in groups of one grid shape, so that a group can be stacked."""
    shapes = dict.fromkeys(subject.geometry.shape for subject in subjects)
    for shape in shapes:
        yield [subject for subject in subjects if subject.geometry.shape == shape]
