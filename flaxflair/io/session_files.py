"""Cohort: a prepared BIDS data set becomes subjects, all at once or one by one. The one loader.

Sessions are found first, which touches no image, and read later. Knows file names and grids; knows
nothing of folds, normalisation or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from flaxflair import bids
from flaxflair.nifti import read_volume
from flaxflair.normalize import zero_outside
from flaxflair.orientation import to_ras
from flaxflair.sequences import SEQUENCES, TARGET
from flaxflair.tissue import white_matter
from flaxflair.volume import (
    Array,
    Geometry,
    GeometryError,
    InputError,
    Masks,
    Subject,
    Volume,
    name_session,
)

# `ignored` is for prediction: neither the FLAIR nor a region that only scores it is read.
FlairUse = Literal["needed", "welcome", "ignored"]

# A brain fills about a fifth of its scan; images that are non-zero nearly everywhere have a head.
MOST_BRAIN = 0.7


@dataclass(frozen=True)
class SessionFiles:
    """The files of one session, none of them read yet. Some may be missing, or there twice.

    Attributes:
      root: of the data set.
      participant: `sub-01`.
      session: `ses-1`, or None.
      group: see `Subject`.
      inputs: names of the input sequences, which become channels in this order.
      flair: what the true FLAIR is for.
      images: what the data set holds of the session.
      derived: what the derivatives within the data set hold of it: masks, but never a sequence.
    """

    root: Path
    participant: str
    session: str | None
    group: str
    inputs: tuple[str, ...]
    flair: FlairUse
    images: tuple[bids.Image, ...] = field(repr=False)
    derived: tuple[bids.Image, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """`sub-01`, or `sub-01_ses-1`."""
        return name_session(self.participant, self.session)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences that there are, wanted or not."""
        there = {image.sequence for image in self.images}
        return tuple(name for name in SEQUENCES if name in there)

    def image_of(self, sequence: str) -> bids.Image | None:
        """Returns the one image that holds a sequence, or None.

        Raises:
          InputError: it is there twice.
        """
        own = [image for image in self.images if image.sequence == sequence]
        if len(own) > 1:
            both = " and ".join(image.relative for image in own[:2])
            raise InputError(
                f"{self.root}: {self.name} has {sequence} twice, {both}; keep one of them, or "
                "choose by a pattern"
            )
        return own[0] if own else None

    def find(self, suffix: str, **entities: str) -> Iterator[bids.Image]:
        """Yields the images of a suffix and entities, those within derivatives last."""
        for image in self.images + self.derived:
            if image.suffix == suffix and entities.items() <= image.entities.items():
                yield image


def load_cohort(
    root: Path,
    inputs: Sequence[str],
    *,
    need_flair: bool = True,
    patterns: Mapping[str, str] | None = None,
    on_subject: Callable[[str], None] = lambda name: None,
) -> list[Subject]:
    """Loads every session of a prepared data set that holds the inputs asked for.

    Args:
      root: prepared BIDS data set: all images of a session on one grid.
      inputs: names of the input sequences, which become channels in this order.
      need_flair: whether a session without a FLAIR is refused.
      patterns: see `bids.find_images`.
      on_subject: told each session's name before it is read.

    Returns:
      Subjects, by participant and session.

    Raises:
      InputError: a sequence is missing or there twice, or a file cannot be used; the message names
        it. See `nifti.read_volume` for what makes a file unusable.
      GeometryError: the grids of a session differ.
    """
    flair: FlairUse = "needed" if need_flair else "welcome"
    sessions = find_sessions(root, inputs, flair=flair, patterns=patterns)
    for session in sessions:
        choose_images(session)  # what is missing is said before minutes of reading
    subjects = []
    for session in sessions:
        on_subject(session.name)
        subjects.append(load_session(session))
    return subjects


def find_sessions(
    root: Path,
    inputs: Sequence[str],
    *,
    flair: FlairUse = "needed",
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    patterns: Mapping[str, str] | None = None,
) -> list[SessionFiles]:
    """Finds the sessions of a data set, raw or prepared, by file names alone.

    A session that misses a sequence is found all the same: `load_session` refuses it, so that one
    bad session need not stop the others.

    Args:
      root: BIDS data set.
      inputs: names of the input sequences.
      flair: what the true FLAIR is for.
      participants: labels to keep, with or without `sub-`; None for all.
      sessions: labels to keep, with or without `ses-`; None for all.
      patterns: see `bids.find_images`.

    Returns:
      By participant and session.

    Raises:
      InputError: it is no data set, or holds no image of ours, or no such label.
    """
    images = bids.find_images(root, patterns)
    groups = bids.read_groups(root)
    found = {(i.participant, i.session) for i in images if i.sequence is not None}
    if not found:
        wanted = ", ".join([*inputs, TARGET] if flair == "needed" else inputs)
        raise InputError(f"{root}: holds no image of {wanted}; is it a BIDS data set?")
    kept = _keep(root, "participant", "sub", participants, {p for p, _ in found})
    found = {(p, s) for p, s in found if p in kept}
    if sessions is not None:
        kept = _keep(root, "session", "ses", sessions, {s for _, s in found if s})
        found = {(p, s) for p, s in found if s in kept}
    raw, derived = (_by_session(i) for i in (images, bids.find_derivatives(root)))
    files = [
        SessionFiles(
            root=root,
            participant=participant,
            session=session,
            group=groups.get(participant, ""),
            inputs=tuple(inputs),
            flair=flair,
            images=tuple(raw[participant, session]),
            derived=tuple(derived.get((participant, session), ())),
        )
        for participant, session in found
    ]
    return sorted(files, key=lambda session: session.name)


def _by_session(images: list[bids.Image]) -> dict[tuple[str, str | None], list[bids.Image]]:
    sessions: dict[tuple[str, str | None], list[bids.Image]] = {}
    for image in images:
        sessions.setdefault((image.participant, image.session), []).append(image)
    return sessions


def _keep(
    root: Path, what: str, prefix: str, wanted: Collection[str] | None, known: set[str]
) -> set[str]:
    """Returns the labels wanted, with their prefix."""
    if wanted is None:
        return known
    labels = {f"{prefix}-{label.removeprefix(f'{prefix}-')}" for label in wanted}
    if unknown := sorted(labels - known):
        there = sorted(known)
        shown = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise InputError(f"{root}: has no {what} {unknown[0]}; it has {shown or 'none'}")
    return labels


def name_files(
    paths: Mapping[str, Path],
    inputs: Sequence[str],
    *,
    flair: FlairUse = "ignored",
    brain: Path | None = None,
    lesions: Path | None = None,
) -> SessionFiles:
    """Returns single files as what `find_sessions` would find of them in a data set.

    Args:
      paths: sequence -> file, at least the inputs.
      inputs: names of the input sequences.
      flair: what the true FLAIR is for.
      brain: brain mask.
      lesions: lesion mask.

    Raises:
      InputError: an input is missing.
    """
    if missing := [name for name in inputs if name not in paths]:
        raise InputError(f"no file for {missing[0]}; {','.join(inputs)} are needed")
    images = [
        bids.Image(path, path.name, SEQUENCES[name].suffix, {}, name)
        for name, path in paths.items()
    ]
    masks = [
        bids.Image(path, path.name, "mask", entities, None)
        for path, entities in ((brain, {"desc": "brain"}), (lesions, {"label": "lesion"}))
        if path is not None
    ]
    first = paths[inputs[0]]
    return SessionFiles(
        root=first.parent,
        participant=bids.strip_extension(first.name),
        session=None,
        group="",
        inputs=tuple(inputs),
        flair=flair,
        images=(*images, *masks),
        derived=(),
    )


def choose_images(files: SessionFiles) -> dict[str, bids.Image]:
    """Returns sequence -> the one image that holds it.

    Raises:
      InputError: a sequence is missing or there twice.
    """
    chosen: dict[str, bids.Image] = {}
    needed = [*files.inputs, TARGET] if files.flair == "needed" else files.inputs
    looked_for = files.inputs if files.flair == "ignored" else [*files.inputs, TARGET]
    for sequence in dict.fromkeys(looked_for):
        if (image := files.image_of(sequence)) is not None:
            chosen[sequence] = image
        elif sequence in needed:
            spec = SEQUENCES[sequence]
            label = f"acq-{spec.acquisition}_{spec.suffix}" if spec.acquisition else spec.suffix
            way_out = "leave the sequence out of the inputs"
            if sequence == TARGET:
                way_out = "leave out the session"
            elif files.flair == "ignored":
                way_out = "take a model that does without"
            raise InputError(
                f"{files.root}: {files.name} has no {sequence} (a file ending in _{label}.nii.gz); "
                f"add it, or {way_out}"
            )
    return chosen


def load_session(files: SessionFiles) -> Subject:
    """Reads one session, its axes turned to right, anterior, superior.

    Raises:
      InputError: a sequence is missing or there twice, or a file cannot be used.
      GeometryError: the grids differ.
    """
    chosen = choose_images(files)
    volumes = {sequence: _read(image.path) for sequence, image in chosen.items()}
    reference = TARGET if TARGET in volumes else files.inputs[0]
    native = volumes[reference].geometry
    volumes = {sequence: to_ras(volume) for sequence, volume in volumes.items()}
    geometry = volumes[reference].geometry
    for sequence, volume in volumes.items():
        _check_grid(chosen[sequence].path, volume.geometry, reference, geometry)
    masks = _load_masks(files, volumes, geometry, reference)
    noisefree = None
    if files.flair != "ignored":
        truths = files.find(TARGET, desc="noisefree")
        noisefree = next((to_ras(read_volume(image.path)).array for image in truths), None)
    return Subject(
        participant=files.participant,
        session=files.session,
        group=files.group,
        sequences=files.inputs,
        images=np.stack([volumes[name].array for name in files.inputs], axis=-1),
        flair=volumes[TARGET].array if TARGET in volumes else None,
        masks=masks,
        geometry=geometry,
        native=native,
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
    files: SessionFiles, volumes: Mapping[str, Volume], geometry: Geometry, reference: str
) -> Masks:
    """Reads what masks there are, and derives brain and white matter where a mask is missing."""

    def find(**entities: str) -> Array | None:
        for image in files.find("mask", **entities):
            volume = to_ras(read_volume(image.path))
            _check_grid(image.path, volume.geometry, reference, geometry)
            return volume.array > 0.5
        return None

    brain = find(desc="brain")
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
    if files.flair == "ignored":
        return Masks(brain)
    lesion = find(label="lesion")
    white, nawm = None, find(label="NAWM")
    if nawm is not None:
        white = nawm if lesion is None else nawm | lesion
    elif "T1" in volumes:
        white = white_matter(volumes["T1"].array, brain, lesion)
    return Masks(brain, lesion, white, find(label="ventricles"))


def brain_of_stripped(images: Mapping[str, Array]) -> Array | None:
    """Returns the brain of images already extracted: what is zero in no sequence, holes filled.

    None if they are not extracted.

    Args:
      images: sequence -> [x, y, z].
    """
    inside = np.all([image != 0 for image in images.values()], axis=0)
    if inside.mean() > MOST_BRAIN:
        return None
    return np.asarray(ndimage.binary_fill_holes(inside), bool)


def extract_brain(subject: Subject) -> Subject:
    """Returns the subject with everything outside its brain mask zero: images, FLAIR and truth."""
    brain = subject.masks.brain
    flair, noisefree = (
        None if image is None else zero_outside(brain, image)
        for image in (subject.flair, subject.noisefree)
    )
    images = zero_outside(brain, subject.images)
    return replace(subject, images=images, flair=flair, noisefree=noisefree)


def by_grid(subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """Yields subjects in groups of one grid shape, so that a group can be stacked."""
    shapes = dict.fromkeys(subject.geometry.shape for subject in subjects)
    for shape in shapes:
        yield [subject for subject in subjects if subject.geometry.shape == shape]
