"""What a universal training reads: a library of heads and lesions, and real sessions.

Both are stored in the training's folder in the form that windows are cut from, with digests of the
files they were made from. A session that was added between two calls could be of a participant that
is held out, so a training whose sources have changed is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from flaxflair.config.universal import LibraryConfig, RealConfig, UniversalConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.io.datasets import load_session
from flaxflair.io.fingerprints import digest_file, fingerprint
from flaxflair.io.session_files import SessionFiles, find_sessions
from flaxflair.pipelines.run_state import REMEDY, expect_unchanged
from flaxflair.simulation.generator.anatomies import find_library, load_library
from flaxflair.simulation.generator.storage import open_library, save_library
from flaxflair.training.real_windows import make_session, open_session, save_session

_LIBRARY, _REAL, _RECORD = "library", "real", "sources.json"
_MOST_LISTED = 20  # participants in a message


class Part(NamedTuple):
    """One folder that is made from files.

    Attributes:
      read: path -> digest of the files it is made from.
      make: writes the folder.
    """

    read: Mapping[str, str]
    make: Callable[[Path], None]


def open_or_make_sources(
    config: UniversalConfig, workdir: Path, console: Console, *, begun: bool
) -> tuple[Path, tuple[Path, ...]]:
    """Returns the folders of the library and of the real sessions, each made once.

    Args:
      config: validated.
      workdir: folder of the training.
      console: output of progress.
      begun: whether weights were saved, which depend on what was read.

    Raises:
      InputError: a source is missing or damaged, or has changed since the training began; or two
        data sets have one name, or a participant that is left out does not exist.
    """
    parts = {_LIBRARY: _describe_library(config.library), **_describe_real(config.real)}
    if config.train.real and len(parts) == 1:
        raise InputError("no session of config.real.roots has a FLAIR and is not left out")
    make_parts(parts, workdir, console, begun=begun)
    return workdir / _LIBRARY, tuple(workdir / name for name in parts if name != _LIBRARY)


def make_parts(
    parts: Mapping[str, Part],
    workdir: Path,
    console: Console,
    *,
    begun: bool,
    on_failure: Callable[[str, InputError], None] | None = None,
) -> None:
    """Makes each folder that is missing or was made from other files.

    Args:
      parts: name of the folder in `workdir` -> what it is made from.
      workdir: folder of the training.
      console: output of progress.
      begun: whether weights were saved, which depend on what was read.
      on_failure: called with the name of a folder that cannot be made, and why; None to stop there.

    Raises:
      InputError: see `open_or_make_sources`.
    """
    record = workdir / _RECORD
    read = {name: dict(part.read) for name, part in parts.items()}
    stored = _read_record(record)
    if begun and not record.is_file():
        console.print(
            f"{record}: is missing, so changes of the label maps, lesions and real sessions since "
            "this training began cannot be noticed"
        )
        stored = {name: read[name] for name in parts if (workdir / name).is_dir()}
    elif begun:
        expect_unchanged(workdir, stored, read, "what the training reads")
    # What a command with other sources left is not reused.
    stored = {name: each for name, each in stored.items() if read.get(name) == each}
    if not begun:
        write_json(record, stored)
    for name, part in parts.items():
        folder = workdir / name
        if name in stored and folder.is_dir():
            continue
        console.print(f"reading {len(part.read)} files into {folder}")
        if folder.is_dir():
            shutil.rmtree(folder)
        try:
            part.make(folder)
        except InputError as error:
            if on_failure is None:
                raise
            on_failure(name, error)
        stored[name] = read[name]
        if not begun:
            write_json(record, stored)


def expect_window(edge: int, library: Path, sessions: Sequence[Path]) -> None:
    """Checks that a window fits into every head and every real session.

    Raises:
      InputError: one is smaller along an axis; the message names the smallest.
    """
    heads = open_library(library).anatomies
    sizes = [(min(head.classes.shape), f"a head of {library}") for head in heads]
    sizes += [(min(open_session(folder).brain.shape), str(folder)) for folder in sessions]
    size, where = min(sizes)
    if edge > size:
        raise InputError(
            f"config.train.window is {edge}, and {where} has {size} voxels along an axis; choose "
            f"at most {size}"
        )


def _read_record(path: Path) -> dict[str, Any]:
    stored = read_object(path, REMEDY) if path.is_file() else {}
    if not all(isinstance(read, dict) for read in stored.values()):
        raise InputError(f"{path}: lacks the digests of what was read; {REMEDY}")
    return stored


def _describe_library(config: LibraryConfig) -> Part:
    folders = Path(config.labels), Path(config.shapes), Path(config.masks)

    def make(folder: Path) -> None:
        save_library(folder, load_library(*folders))

    paths = find_library(*folders).paths
    return Part({str(path): digest_file(path) for path in paths}, make)


def _describe_real(config: RealConfig) -> dict[str, Part]:
    """Returns the folder of each real session that is not left out -> what it is made from."""
    roots: dict[str, Path] = {}
    for root in map(Path, config.roots):
        name = os.path.basename(os.path.abspath(root))
        if name in roots:
            raise InputError(
                f"{root}: is named as {roots[name]}, so that {name}/sub-01 may be of either; "
                "rename one of the folders"
            )
        roots[name] = root
    found = {name: find_sessions(root, (), flair="welcome") for name, root in roots.items()}
    left_out = _find_left_out(config.without, found)
    return {
        f"{_REAL}/{name}_{files.name}": describe_session(name, files)
        for name, sessions in found.items()
        for files in sessions
        if TARGET in files.sequences and (name, files.participant) not in left_out
    }


def describe_session(name: str, files: SessionFiles) -> Part:
    """Returns what the folder of a session, which has a FLAIR, is made from.

    Args:
      name: name of the data set.
      files: files of the session.
    """
    inputs = tuple(sequence for sequence in INPUTS if sequence in files.sequences)
    chosen = replace(files, inputs=inputs, flair="needed")
    # Sidecars hold the size of the voxels that were scanned.
    read = fingerprint(chosen, (*inputs, TARGET), sidecars=True)
    digests = {f"{name}/{path}": digest for path, digest in read.items()}
    return Part(digests, partial(_make_session, chosen))


def _make_session(files: SessionFiles, folder: Path) -> None:
    save_session(folder, make_session(load_session(files)))


def _find_left_out(
    without: Sequence[str], found: Mapping[str, Sequence[SessionFiles]]
) -> set[tuple[str, str]]:
    """Returns (data set, participant) of each label, `sub-01`, `01`, `NAME/sub-01` or `NAME/01`.

    Raises:
      InputError: a label is of no participant.
    """
    known = [(name, files.participant) for name, sessions in found.items() for files in sessions]
    left_out: set[tuple[str, str]] = set()
    for text in map(str, without):
        matched = {pair for pair in known if pair in set(_readings(text, found))}
        if not matched:
            there = list(dict.fromkeys(f"{name}/{label}" for name, label in known))
            more = f" and {len(there) - _MOST_LISTED} more" if len(there) > _MOST_LISTED else ""
            raise InputError(
                f"config.real.without names {text!r}, which is no participant of "
                f"config.real.roots; there are {', '.join(there[:_MOST_LISTED]) or 'none'}{more}"
            )
        left_out |= matched
    return left_out


def _readings(text: str, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    root, _, label = text.rpartition("/")
    for name in names:
        if root in ("", name):
            yield name, label if label.startswith("sub-") else f"sub-{label}"
