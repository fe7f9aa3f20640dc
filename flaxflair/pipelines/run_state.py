"""State of a run on disk: its lock, configuration, data set and folds.

Written at the start of a run and checked when it is resumed: newly drawn folds could include
held-out subjects of a finished fold in its training set.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxflair.config import Config, fields
from flaxflair.core.json_objects import read_object
from flaxflair.core.locks import hold
from flaxflair.core.records import InputError
from flaxflair.core.sequences import TARGET
from flaxflair.io.fingerprints import Fingerprint, describe_changes
from flaxflair.io.session_files import SessionFiles
from flaxflair.models.saving import load_model
from flaxflair.training.folds import make_folds

_LOCK = ".lock"
_MAX_CHANGES = 3  # listed in a message
REMEDY = "restore it, or name another --workdir"


@contextlib.contextmanager
def occupied(workdir: Path) -> Iterator[None]:
    """Locks the folder of a run for this process within a block.

    Raises:
      InputError: another process uses it.
    """
    created = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with hold(workdir / _LOCK, str(workdir)):
            yield
    finally:
        if created:
            with contextlib.suppress(OSError):
                workdir.rmdir()  # only if the run did not start


def is_done(workdir: Path, fold: int) -> bool:
    """Whether a fold is finished: both scores and model exist.

    Raises:
      InputError: the model is damaged.
    """
    folder = workdir / f"fold-{fold}"
    parts = ("scores.json", "model.json", "model.safetensors")
    if not all((folder / name).is_file() for name in parts):
        return False
    load_model(workdir, fold)
    return True


def expect_outside(workdir: Path, sources: Iterable[Path], flag: str = "--workdir") -> None:
    """Checks that a run does not write among the files that it reads.

    A folder below `derivatives/` of a data set is accepted.

    Args:
      workdir: folder or file to write.
      sources: data sets that are read.
      flag: the flag that names `workdir`, for the message.

    Raises:
      InputError: `workdir` is a data set or lies in one, or a data set is what the run writes.
    """
    folder = workdir.resolve()
    for source in sources:
        root = source.resolve()
        within = folder.is_relative_to(root) and root / "derivatives" not in folder.parents
        if within or root == folder / "derivative":
            raise InputError(
                f"{workdir}: is the data set {source} or lies in it; name another {flag}, "
                f"such as {source / 'derivatives' / 'flaxflair'}"
            )


def expect_config(workdir: Path, config: Config, source: Path) -> None:
    """Checks that a run to be resumed has the same configuration.

    Raises:
      InputError: it differs; the message names the fields.
    """
    path = workdir / "config.json"
    if not path.is_file():
        return
    stored = read_object(path, REMEDY)
    if "library" in stored:
        raise InputError(
            f"{workdir}: holds the training of a universal model, and a cross-validation is asked "
            "for; name another --workdir"
        )
    try:
        stored_config = fields.from_json(json.dumps(stored["config"]))
        differences = fields.differences(config, stored_config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not a configuration ({error}); {REMEDY}") from None
    if (root := str(source.resolve())) != stored.get("source"):
        differences.append(f"source: {root} instead of {stored.get('source')}")
    if differences:
        raise InputError(
            f"{workdir}: holds a run of another configuration ({'; '.join(differences[:3])}); "
            "name another --workdir, or remove this one"
        )


def take_folds(
    workdir: Path,
    config: Config,
    found: Sequence[SessionFiles],
    read: Mapping[str, Fingerprint],
) -> tuple[list[list[str]], dict[str, Any]]:
    """Returns the folds of a run, drawn at its start, and the content of `folds.json`.

    Args:
      workdir: folder of the run.
      config: configuration of the run.
      found: current sessions of the data set.
      read: session -> its current fingerprint.

    Raises:
      InputError: the data set has changed since the start of the run.
    """
    groups: dict[str, str] = {}
    for files in found:
        groups.setdefault(files.participant, files.group)
    path = workdir / "folds.json"
    if not path.is_file():
        if any(workdir.glob("fold-*/*")):
            raise InputError(
                f"{path}: is missing, so the held-out participants are unknown; {REMEDY}"
            )
        heldout = make_folds(groups, config.folds.count, config.folds.seed)
        return heldout, {"groups": groups, "heldout": heldout, "read": read}
    stored = read_object(path, REMEDY)
    _expect_folds(path, stored)
    regrouped = [
        f"{name} is of group {group!r} instead of {stored['groups'][name]!r}"
        for name, group in groups.items()
        if stored["groups"].get(name, group) != group
    ]
    expect_unchanged(workdir, stored["read"], read, "the data set", regrouped)
    return stored["heldout"], stored


def expect_unchanged(
    workdir: Path,
    before: Mapping[str, Fingerprint],
    now: Mapping[str, Fingerprint],
    what: str,
    others: Sequence[str] = (),
) -> None:
    """Checks that what a run reads is what it read at its start.

    Args:
      workdir: folder of the run.
      before: name -> fingerprint at the start.
      now: name -> fingerprint.
      what: what is read, for the message.
      others: changes that are not of files.

    Raises:
      InputError: it has changed; the message names the first changes.
    """
    if changes := [*describe_changes(before, now), *others]:
        more = len(changes) - _MAX_CHANGES
        shown = "; ".join(changes[:_MAX_CHANGES]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(f"{workdir}: {what} has changed since this run began ({shown}); {REMEDY}")


def find_twins(
    found: Sequence[SessionFiles], inputs: Sequence[str], read: Mapping[str, Fingerprint]
) -> list[str]:
    """Returns one sentence for each pair of participants that have an image in common.

    Args:
      found: sessions of the data set.
      inputs: names of the input sequences.
      read: session -> fingerprint.
    """
    first: dict[str, str] = {}  # digest -> participant
    shared: dict[tuple[str, str], str] = {}  # two participants -> an image of the second
    for files in found:
        for image in files.images:
            digest = read[files.name].get(image.relative)
            if digest is None or image.sequence not in (*inputs, TARGET):
                continue
            other = first.setdefault(digest, files.participant)
            if other != files.participant:
                shared.setdefault((other, files.participant), image.relative)
    return [
        f"{path} is also an image of {one}, so one head may be trained on and held out; remove "
        f"{one} or {other}"
        for (one, other), path in shared.items()
    ]


def _expect_folds(path: Path, stored: Mapping[str, Any]) -> None:
    """Checks that stored folds hold out each participant once and contain the fingerprints."""
    try:
        heldout = sorted(name for fold in stored["heldout"] for name in fold)
        valid = heldout == sorted(stored["groups"]) and all(
            isinstance(digest, str)
            for fingerprints in stored["read"].values()
            for digest in fingerprints.values()
        )
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise InputError(f"{path}: lacks held-out participants or fingerprints; {REMEDY}")
