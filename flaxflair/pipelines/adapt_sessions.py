"""Sessions that a model is adapted to: found, prepared if raw, and stored in standard form.

A session that cannot be used is reported, and the others continue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.io import bids
from flaxflair.io.session_files import SessionFiles, find_sessions
from flaxflair.pipelines.universal_sources import describe_session, make_parts
from flaxflair.preprocessing.dataset import prepare_dataset
from flaxflair.preprocessing.options import Preparation
from flaxflair.runtime.progress import show_bar
from flaxflair.training.real_windows import open_session

_PREPARED, _REAL = "prepared", "real"


class Selection(NamedTuple):
    """The sessions of a data set that are used, if they have a FLAIR and another sequence.

    Attributes:
      root: BIDS data set, raw or prepared.
      options: options of the preparation; None if the data set is prepared already.
      participants: labels, with or without `sub-`; None for all.
      sessions: labels, with or without `ses-`; None for all.
      patterns: see `bids.find_images`.
    """

    root: Path
    options: Preparation | None = None
    participants: Collection[str] | None = None
    sessions: Collection[str] | None = None
    patterns: Mapping[str, str] | None = None


class OwnSession(NamedTuple):
    """A session in standard form.

    Attributes:
      files: its prepared files.
      folder: folder written by `real_windows.save_session`.
    """

    files: SessionFiles
    folder: Path


def choose_preparation(
    root: Path, options: Preparation, *, prepared: bool | None
) -> Preparation | None:
    """Returns the options, or None for a prepared data set (`prepared` None: if a derivative)."""
    return None if (bids.is_derivative(root) if prepared is None else prepared) else options


def find_own_sessions(
    selection: Selection, workdir: Path, console: Console, *, begun: bool
) -> list[OwnSession]:
    """Returns the sessions in standard form, each made once, sorted by participant and session.

    Args:
      selection: which.
      workdir: output folder: `prepared/` (of raw data), `real/` and `sources.json`.
      console: output of progress, and of a sentence for each session that is not used.
      begun: whether weights were saved, which depend on these sessions.

    Raises:
      InputError: no session can be used, or a file has changed since the weights were saved.
    """
    found = find_sessions(
        selection.root,
        (),
        flair="welcome",
        participants=selection.participants,
        sessions=selection.sessions,
        patterns=selection.patterns,
    )
    usable = [files for files in found if _has_pair(files)]
    if not usable:
        raise InputError(
            f"{selection.root}: no session ({len(found)} found) has a FLAIR and one of "
            f"{', '.join(INPUTS)}; adaptation needs sessions in which the FLAIR was scanned"
        )
    if len(usable) < len(found):
        console.print(
            f"{len(found) - len(usable)} of {len(found)} sessions are not used: they have no FLAIR,"
            " or nothing else"
        )
    failures: dict[str, str] = {}
    if selection.options is not None:
        usable = _prepare(selection, selection.options, usable, workdir, console, failures)
    sessions = _standardize(usable, selection.root, workdir, console, failures, begun=begun)
    for name, sentence in failures.items():
        console.print(f"warning: {name} is not used: {sentence}", soft_wrap=True)
    if not sessions:
        raise InputError(f"{selection.root}: no session can be used; see above")
    return sessions


def expect_window(sessions: list[OwnSession], edge: int, console: Console) -> list[OwnSession]:
    """Returns the sessions into which a window of `edge` voxels of 1 mm fits.

    Raises:
      InputError: there is none.
    """
    fitting = []
    for session in sessions:
        if (size := min(open_session(session.folder).brain.shape)) >= edge:
            fitting.append(session)
        else:
            console.print(
                f"warning: {session.files.name} is not used: it covers {size} mm of the brain "
                f"along an axis, and a window has {edge}"
            )
    if not fitting:
        raise InputError(f"{sessions[0].files.root}: no session is as large as a window")
    return fitting


def _has_pair(files: SessionFiles) -> bool:
    return TARGET in files.sequences and any(name in files.sequences for name in INPUTS)


def _prepare(
    selection: Selection,
    options: Preparation,
    usable: list[SessionFiles],
    workdir: Path,
    console: Console,
    failures: dict[str, str],
) -> list[SessionFiles]:
    """Returns the prepared files of raw sessions; those that are prepared already are kept."""
    labels = [files.session for files in usable]
    out = workdir / _PREPARED
    with show_bar(console, "prepare", None, 0) as bar:
        report = prepare_dataset(
            selection.root,
            out,
            options,
            patterns=selection.patterns,
            participants={files.participant for files in usable},
            sessions=None if None in labels else {label for label in labels if label},
            on_done=bar.advance,
        )
    wanted = {files.name for files in usable}
    failures |= {name: text for name, text in report.failures.items() if name in wanted}
    if not wanted & report.written.keys():
        return []
    prepared = find_sessions(out, (), flair="welcome")
    return [f for f in prepared if f.name in wanted & report.written.keys()]


def _standardize(
    usable: list[SessionFiles],
    root: Path,
    workdir: Path,
    console: Console,
    failures: dict[str, str],
    *,
    begun: bool,
) -> list[OwnSession]:
    named = {f"{_REAL}/{files.name}": files for files in usable}
    parts = {name: describe_session(root.resolve().name, each) for name, each in named.items()}

    def fail(name: str, error: InputError) -> None:
        failures[named[name].name] = str(error)

    make_parts(parts, workdir, console, begun=begun, on_failure=fail)
    return [
        OwnSession(_with_inputs(files), workdir / name)
        for name, files in named.items()
        if files.name not in failures
    ]


def _with_inputs(files: SessionFiles) -> SessionFiles:
    return replace(files, inputs=tuple(n for n in INPUTS if n in files.sequences), flair="needed")
