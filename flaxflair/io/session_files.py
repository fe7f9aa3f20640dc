"""Sessions of a data set, found by file names only; no image is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flaxflair.core.records import InputError, name_session
from flaxflair.core.sequences import SEQUENCES, TARGET, find_rule, identify
from flaxflair.io import bids
from flaxflair.io.bids_tree import Key
from flaxflair.io.masks import BRAIN, MASK, choose_masks, kind_of

# `ignored` is for prediction: neither the FLAIR nor regions used for its scores are read.
FlairUse = Literal["needed", "welcome", "ignored"]


@dataclass(frozen=True)
class SessionFiles:
    """The files of one session, not read yet. Sequences may be missing or present twice.

    Attributes:
      root: root of the data set.
      participant: `sub-01`.
      session: `ses-1`, or None.
      group: see `Subject`.
      inputs: names of the input sequences, which become channels in this order.
      flair: whether the true FLAIR is `needed`, `welcome` (read if present) or `ignored`.
      images: images of the session in the data set, including masks aligned with its scans.
      derived: images in derivatives within the data set; used for masks, never as a sequence.
      patterns: see `bids.survey`.
      fault: why the session cannot be used, or None.
      notes: files that are not used and why, one sentence each.
    """

    root: Path
    participant: str
    session: str | None
    group: str
    inputs: tuple[str, ...]
    flair: FlairUse
    images: tuple[bids.Image, ...] = field(repr=False)
    derived: tuple[bids.Image, ...] = field(repr=False)
    patterns: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`sub-01`, or `sub-01_ses-1`."""
        return name_session(self.participant, self.session)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of all sequences of the session, requested or not."""
        present = {image.sequence for image in self.images}
        return tuple(name for name in SEQUENCES if name in present)

    def image_of(self, sequence: str) -> bids.Image | None:
        """Returns the one image of a sequence, or None.

        Raises:
          InputError: it is present twice, or the session cannot be used.
        """
        if self.fault is not None:
            raise InputError(f"{self.root}: {self.fault}")
        images = [image for image in self.images if image.sequence == sequence]
        if len(images) > 1:
            both = " and ".join(image.relative for image in images[:2])
            raise InputError(
                f"{self.root}: {self.name} has {sequence} twice, {both}; keep one of them, or "
                "choose by a pattern"
            )
        return images[0] if images else None

    def mask_of(self, kind: str) -> bids.Image | None:
        """Returns the mask of the `brain`, or of the region with a label (`lesion`); or None."""
        return next((mask for mask in self.find(MASK) if kind_of(mask) == kind), None)

    def labelled_masks(self) -> dict[str, bids.Image]:
        """Returns label -> mask, of all regions but the brain."""
        labels = {kind_of(mask): mask for mask in self.find(MASK)}
        return {kind: mask for kind, mask in labels.items() if kind not in (None, BRAIN)}

    def find(self, suffix: str, **entities: str) -> Iterator[bids.Image]:
        """Yields the images with a suffix and entities; those of derivatives last."""
        for image in self.images + self.derived:
            if image.suffix == suffix and entities.items() <= image.entities.items():
                yield image


def find_sessions(
    root: Path,
    inputs: Sequence[str],
    *,
    flair: FlairUse = "needed",
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    patterns: Mapping[str, str] | None = None,
) -> list[SessionFiles]:
    """Finds the sessions of a data set, raw or prepared, by file names only.

    Sessions with a missing sequence are included; `load_session` refuses them, so that one bad
    session does not stop the others.

    Args:
      root: BIDS data set.
      inputs: names of the input sequences.
      flair: see `SessionFiles`.
      participants: labels to include, with or without `sub-`; None for all.
      sessions: labels to include, with or without `ses-`; None for all.
      patterns: see `bids.find_images`.

    Returns:
      Sessions, sorted by participant and session.

    Raises:
      InputError: `root` is not a data set, holds no scan, or lacks a label.
    """
    patterns = patterns or {}
    survey = bids.survey(root, patterns)
    if not survey.sessions:
        wanted = ", ".join([*inputs, TARGET] if flair == "needed" else inputs or SEQUENCES)
        raise InputError(f"{root}: holds no image of {wanted}; is it a BIDS data set?")
    found = _select_sessions(root, set(survey.sessions), participants, sessions)
    groups, generated = bids.read_groups(root), bids.find_generated(root)
    raw, derived = (_by_session(i) for i in (survey.images, bids.find_derivatives(root)))
    files = []
    for participant, session in found:
        key = participant, session
        images, derived_images, notes = _drop_masks(
            raw.get(key, []), derived.get(key, []), {*(inputs or SEQUENCES), TARGET}, generated
        )
        files.append(
            SessionFiles(
                root=root,
                participant=participant,
                session=session,
                group=groups.get(participant, ""),
                inputs=tuple(inputs),
                flair=flair,
                images=images,
                derived=derived_images,
                patterns=patterns,
                fault=survey.faults.get(key),
                notes=(*notes, *_describe_unused(images, survey.foreign.get(key, ()), patterns)),
            )
        )
    return sorted(files, key=lambda session: session.name)


def _select_sessions(
    root: Path,
    found: set[Key],
    participants: Collection[str] | None,
    sessions: Collection[str] | None,
) -> set[Key]:
    """Returns the sessions with the requested labels; InputError if a label does not exist."""
    labels = _select(root, "participant", "sub", participants, {p for p, _ in found})
    found = {(p, s) for p, s in found if p in labels}
    if sessions is None:
        return found
    labels = _select(root, "session", "ses", sessions, {s for _, s in found if s})
    return {(p, s) for p, s in found if s in labels}


def _describe_excluded(
    images: Collection[bids.Image], patterns: Mapping[str, str]
) -> Iterator[str]:
    """Yields one sentence for each scan that a pattern excludes in a session without a match."""
    missing = patterns.keys() - {image.sequence for image in images}
    for image in images:
        name = identify(image.suffix, image.entities)
        if name in missing and image.sequence is None and bids.is_scan(image):
            yield (
                f"{image.relative}: is not used: by its name it is the {name}, but it does not "
                f"match the pattern {name}={patterns[name]}; if it is meant, widen the pattern"
            )


def _describe_unused(
    images: Collection[bids.Image], foreign: Sequence[str], patterns: Mapping[str, str]
) -> Iterator[str]:
    """Yields one sentence for each unused scan whose sequence is otherwise missing."""
    yield from _describe_excluded(images, patterns)
    present = {image.sequence for image in images}
    bare = {spec.suffix: spec.name for spec in SEQUENCES.values() if spec.acquisition is None}
    for image in images:
        rule = find_rule(image.suffix, image.entities)
        if rule is None or rule.sequence or image.sequence or image.datatype != "anat":
            continue
        if (name := bare[image.suffix]) not in present:
            yield (
                f"{image.relative}: is not used: by its name it is {rule.meaning}; if it is the "
                f"{name} nevertheless, give --pattern '{name}=…'"
            )
    for relative in foreign:
        stem = relative.rsplit("/", 1)[-1].split(".", 1)[0]
        if bare.get(stem.rsplit("_", 1)[-1], TARGET) not in {*present, TARGET}:
            yield f"{relative}: is not used: its format is neither .nii nor .nii.gz; convert it"


def _drop_masks(
    raw: list[bids.Image],
    derived: list[bids.Image],
    wanted: Collection[str],
    generated: frozenset[str],
) -> tuple[tuple[bids.Image, ...], tuple[bids.Image, ...], tuple[str, ...]]:
    """Returns the images without masks of other spaces or scans, and a note on each of these."""
    every = [image for image in (*raw, *derived) if image.suffix == MASK]
    masks, notes = choose_masks(every, raw, wanted, generated)
    of_session, of_derivatives = (
        tuple(image for image in images if image.suffix != MASK or image in masks)
        for images in (raw, derived)
    )
    return of_session, of_derivatives, tuple(notes)


def _by_session(images: list[bids.Image]) -> dict[tuple[str, str | None], list[bids.Image]]:
    sessions: dict[tuple[str, str | None], list[bids.Image]] = {}
    for image in images:
        sessions.setdefault((image.participant, image.session), []).append(image)
    return sessions


def _select(
    root: Path, what: str, prefix: str, wanted: Collection[str] | None, known: set[str]
) -> set[str]:
    """Returns the requested labels, with their prefix."""
    if wanted is None:
        return known
    labels = {f"{prefix}-{label.removeprefix(f'{prefix}-')}" for label in wanted}
    if unknown := sorted(labels - known):
        names = sorted(known)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
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
    """Returns single files as a session, like one found by `find_sessions`.

    Args:
      paths: sequence -> file, at least the inputs.
      inputs: names of the input sequences.
      flair: see `SessionFiles`.
      brain: brain mask.
      lesions: lesion mask.

    Raises:
      InputError: an input is missing, or no file is given.
    """
    if not paths:
        raise InputError("no file of any sequence is given; name one or more")
    if missing := [name for name in inputs if name not in paths]:
        raise InputError(f"no file for {missing[0]}; {','.join(inputs)} are needed")
    images = [
        bids.Image(path, str(path), SEQUENCES[name].suffix, {}, name)
        for name, path in paths.items()
    ]
    masks = [
        bids.Image(path, str(path), MASK, entities, None)
        for path, entities in ((brain, {"desc": BRAIN}), (lesions, {"label": "lesion"}))
        if path is not None
    ]
    first = paths[inputs[0]] if inputs else next(iter(paths.values()))
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


# Deprecated BIDS suffix of PD and T2 in one file.
_DUAL_ECHO = "PDT2"


def choose_images(files: SessionFiles) -> dict[str, bids.Image]:
    """Returns sequence -> image, of the inputs and the FLAIR as `files.flair` requires.

    Raises:
      InputError: a sequence is missing or present twice, or the session cannot be used.
    """
    chosen: dict[str, bids.Image] = {}
    needed = [*files.inputs, TARGET] if files.flair == "needed" else files.inputs
    requested = files.inputs if files.flair == "ignored" else [*files.inputs, TARGET]
    for sequence in dict.fromkeys(requested):
        if (image := files.image_of(sequence)) is not None:
            chosen[sequence] = image
        elif sequence in needed:
            raise InputError(
                f"{files.root}: {files.name} has no {_describe_missing(files, sequence)}"
            )
    return chosen


def usable_images(files: SessionFiles) -> tuple[dict[str, bids.Image], tuple[str, ...]]:
    """Returns sequence -> image of all usable sequences, and a sentence for each unusable one."""
    images: dict[str, bids.Image] = {}
    problems: list[str] = []
    for sequence in files.sequences:
        try:
            if (image := files.image_of(sequence)) is not None:
                images[sequence] = image
        except InputError as error:
            problems.append(str(error))
    missing = [name for name in files.inputs if name not in files.sequences]
    if not files.sequences and not missing:
        suffixes = {image.suffix for image in files.images}
        missing = [name for name, spec in SEQUENCES.items() if spec.suffix in suffixes][:1]
    problems += [
        f"{files.root}: {files.name} has no {_describe_missing(files, n)}" for n in missing
    ]
    if files.fault is not None:
        problems = [f"{files.root}: {files.fault}"]
    return images, tuple(dict.fromkeys(problems))


def _describe_missing(files: SessionFiles, sequence: str) -> str:
    """Returns the missing sequence, a file that resembles it, and what to do."""
    spec = SEQUENCES[sequence]
    both = next(files.find(_DUAL_ECHO), None)
    if both is not None and sequence in ("PD", "T2"):
        return (
            f"separate {sequence}; split {both.relative} (fslsplit): the shorter EchoTime of its "
            "sidecar is the PDw, the longer the T2w"
        )
    if sequence in files.patterns:
        return f"{sequence} (a path that matches {files.patterns[sequence]}); correct the pattern"
    label = f"acq-{spec.acquisition}_{spec.suffix}" if spec.acquisition else spec.suffix
    missing = f"{sequence} (a file ending in _{label}.nii.gz)"
    for image in files.images:
        rule = find_rule(image.suffix, image.entities)
        if image.suffix == spec.suffix and rule is not None and rule.sequence != sequence:
            what = rule.meaning or f"a {rule.sequence}"
            return (
                f"{missing}: by its name, {image.relative} is {what}; if it is meant nevertheless, "
                f"give --pattern '{sequence}=…'"
            )
    remedy = "remove the sequence from the inputs"
    if sequence == TARGET:
        remedy = "exclude the session"
    elif files.flair == "ignored":
        remedy = "use a model without this input"
    return f"{missing}; add it, or {remedy}"
