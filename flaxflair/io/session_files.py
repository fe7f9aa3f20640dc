"""Sessions of a data set, found by file names alone; no image is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flaxflair.core.records import InputError, name_session
from flaxflair.core.sequences import SEQUENCES, TARGET, find_rule
from flaxflair.io import bids
from flaxflair.io.masks import choose_masks

# `ignored` is for prediction: neither the FLAIR nor a region that only scores it is read.
FlairUse = Literal["needed", "welcome", "ignored"]


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
      images: what the data set holds of the session, masks that lie over its scans among them.
      derived: likewise of the derivatives within the data set: masks, but never a sequence.
      patterns: see `bids.survey`.
      fault: why the session cannot be used, or None.
      notes: what is there and is not used, a sentence each.
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
        """Names of the sequences that there are, wanted or not."""
        there = {image.sequence for image in self.images}
        return tuple(name for name in SEQUENCES if name in there)

    def image_of(self, sequence: str) -> bids.Image | None:
        """Returns the one image that holds a sequence, or None.

        Raises:
          InputError: it is there twice, or the session cannot be used.
        """
        if self.fault is not None:
            raise InputError(f"{self.root}: {self.fault}")
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
    survey = bids.survey(root, patterns)
    found = set(survey.sessions)
    if not found:
        wanted = ", ".join([*inputs, TARGET] if flair == "needed" else inputs or SEQUENCES)
        raise InputError(f"{root}: holds no image of {wanted}; is it a BIDS data set?")
    kept = _keep(root, "participant", "sub", participants, {p for p, _ in found})
    found = {(p, s) for p, s in found if p in kept}
    if sessions is not None:
        kept = _keep(root, "session", "ses", sessions, {s for _, s in found if s})
        found = {(p, s) for p, s in found if s in kept}
    groups, made_here = bids.read_groups(root), bids.find_made_here(root)
    raw, derived = (_by_session(i) for i in (survey.images, bids.find_derivatives(root)))
    files = []
    for participant, session in found:
        key = participant, session
        own, others, notes = _leave_masks(raw.get(key, []), derived.get(key, []), made_here)
        files.append(
            SessionFiles(
                root=root,
                participant=participant,
                session=session,
                group=groups.get(participant, ""),
                inputs=tuple(inputs),
                flair=flair,
                images=own,
                derived=others,
                patterns=patterns or {},
                fault=survey.faults.get(key),
                notes=(*notes, *_say_unused(own, survey.foreign.get(key, ()))),
            )
        )
    return sorted(files, key=lambda session: session.name)


def _say_unused(images: Collection[bids.Image], foreign: Sequence[str]) -> Iterator[str]:
    """Yields a sentence for each scan that is not used, where no other is of its sequence."""
    there = {image.sequence for image in images}
    bare = {spec.suffix: spec.name for spec in SEQUENCES.values() if spec.acquisition is None}
    for image in images:
        rule = find_rule(image.suffix, image.entities)
        if rule is None or rule.sequence or image.sequence or image.datatype != "anat":
            continue
        if (name := bare[image.suffix]) not in there:
            yield (
                f"{image.relative}: is not used: by its name it is {rule.meaning}; if it is the "
                f"{name} all the same, give --pattern '{name}=…'"
            )
    for relative in foreign:
        stem = relative.rsplit("/", 1)[-1].split(".", 1)[0]
        if bare.get(stem.rsplit("_", 1)[-1], TARGET) not in {*there, TARGET}:
            yield f"{relative}: is not used: a data set holds .nii or .nii.gz; convert it to one"


_MASK = "mask"


def _leave_masks(
    raw: list[bids.Image], derived: list[bids.Image], made_here: frozenset[str]
) -> tuple[tuple[bids.Image, ...], tuple[bids.Image, ...], tuple[str, ...]]:
    """Returns the images without masks from elsewhere, and a sentence for each of those."""
    every = [image for image in (*raw, *derived) if image.suffix == _MASK]
    masks, notes = choose_masks(every, raw, made_here)
    own, others = (
        tuple(image for image in images if image.suffix != _MASK or image in masks)
        for images in (raw, derived)
    )
    return own, others, tuple(notes)


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
      InputError: an input is missing, or there is no file at all.
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
        bids.Image(path, str(path), "mask", entities, None)
        for path, entities in ((brain, {"desc": "brain"}), (lesions, {"label": "lesion"}))
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


# The suffix that BIDS had for PD and T2 in one file.
_DUAL_ECHO = "PDT2"


def choose_images(files: SessionFiles) -> dict[str, bids.Image]:
    """Returns sequence -> the one image that holds it.

    Raises:
      InputError: a sequence is missing or there twice, or the session cannot be used.
    """
    chosen: dict[str, bids.Image] = {}
    needed = [*files.inputs, TARGET] if files.flair == "needed" else files.inputs
    looked_for = files.inputs if files.flair == "ignored" else [*files.inputs, TARGET]
    for sequence in dict.fromkeys(looked_for):
        if (image := files.image_of(sequence)) is not None:
            chosen[sequence] = image
        elif sequence in needed:
            raise InputError(f"{files.root}: {files.name} has no {_say_missing(files, sequence)}")
    return chosen


def usable_images(files: SessionFiles) -> tuple[dict[str, bids.Image], tuple[str, ...]]:
    """Returns sequence -> image of all that can be used, and a sentence for each that cannot."""
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
    problems += [f"{files.root}: {files.name} has no {_say_missing(files, n)}" for n in missing]
    if files.fault is not None:
        problems = [f"{files.root}: {files.fault}"]
    return images, tuple(dict.fromkeys(problems))


def _say_missing(files: SessionFiles, sequence: str) -> str:
    """Returns what is missing, what it may be mistaken for, and what to do."""
    spec = SEQUENCES[sequence]
    both = next(files.find(_DUAL_ECHO), None)
    if both is not None and sequence in ("PD", "T2"):
        return (
            f"{sequence} of its own; split {both.relative} (fslsplit): the shorter EchoTime of its "
            "sidecar is the PDw, the longer the T2w"
        )
    if sequence in files.patterns:
        return f"{sequence} (a path that fits {files.patterns[sequence]}); correct the pattern"
    label = f"acq-{spec.acquisition}_{spec.suffix}" if spec.acquisition else spec.suffix
    missing = f"{sequence} (a file ending in _{label}.nii.gz)"
    for image in files.images:
        rule = find_rule(image.suffix, image.entities)
        if image.suffix == spec.suffix and rule is not None and rule.sequence != sequence:
            what = rule.meaning or f"a {rule.sequence}"
            return (
                f"{missing}: by its name, {image.relative} is {what}; if it is meant all the same, "
                f"give --pattern '{sequence}=…'"
            )
    way_out = "leave the sequence out of the inputs"
    if sequence == TARGET:
        way_out = "leave out the session"
    elif files.flair == "ignored":
        way_out = "take a model that does without"
    return f"{missing}; add it, or {way_out}"
