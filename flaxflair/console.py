"""Console output of commands: findings, plans, warnings and failures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from flaxflair.core.records import InputError
from flaxflair.core.sequences import TARGET
from flaxflair.io.nifti import read_forms
from flaxflair.io.session_files import SessionFiles, choose_images
from flaxflair.preprocessing.inspection import COLUMNS, Inspection, tabulate
from flaxflair.preprocessing.options import choose_reference
from flaxflair.runtime.sessions import Report
from flaxflair.runtime.terminal import open_console

console = open_console()


def show_inspection(name: str, inspection: Inspection) -> None:
    """Prints the files of a session and the findings on them."""
    # Findings name their file; a narrow screen has no room for the column.
    columns = [n for n, c in enumerate(COLUMNS) if c != "file" or console.width >= _WIDE]
    table = Table(
        title=name,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for number in columns:
        table.add_column(COLUMNS[number], overflow="fold")  # never an ellipsis for a number
    for row in tabulate(inspection):
        cells = (*row[:-1], Text(row[-1], style=_COLOURS[row[-1]]))
        table.add_row(*(cells[number] for number in columns))
    console.print(table)
    for finding in inspection.findings:
        kind = "warning" if finding.severity == "warn" else "stop"
        _show_sentence(kind, inspection.describe(finding))
    console.print()


def show_problems(name: str, problems: Sequence[str], notes: Sequence[str]) -> None:
    """Prints why a session cannot be used, and which of its files are not used."""
    if problems or notes:
        console.print(name)
    for kind, sentences in (("stop", problems), ("warning", notes)):
        for sentence in sentences:
            _show_sentence(kind, sentence)


def _show_sentence(kind: str, sentence: str) -> None:
    console.print(Text(f"{kind}: ", style=_COLOURS[kind]), end="")
    # Without line breaks, so that the output can be searched.
    console.print(sentence, highlight=False, soft_wrap=True)


_WIDE = 110  # columns
_COLOURS = {"good": "green", "warning": "yellow", "stop": "red"}


def show_plan(found: Sequence[SessionFiles], out: Path, reference: str, *, flair: bool) -> None:
    """Prints the sessions and images that would be used, and notes on the others.

    Nothing is computed.

    Raises:
      InputError: a session cannot be used.
    """
    failed = []
    table = Table("session", "from", "on the grid of", title=f"to {out}", title_justify="left")
    for files in found:
        try:
            if files.inputs:
                choose_images(files)
            usable = {n: p for n, p in files_of(files).items() if flair or n != TARGET}
            grid = choose_reference(usable, reference)
            for path in usable.values():
                read_forms(path)  # fails on missing files and other formats
            table.add_row(files.name, ", ".join(usable), grid)
        except InputError as error:
            failed.append(files.name)
            table.add_row(files.name, Text(str(error), style="red"), "")
    console.print(table)
    for files in found:
        _warn(files.name, files.notes)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(found)} sessions cannot be used as they are; see above"
        )


def _warn(session: str, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"flaxflair: warning: {session}: {sentence}", file=sys.stderr)


def files_of(files: SessionFiles) -> dict[str, Path]:
    """Returns sequence -> file, of all sequences of a session.

    Raises:
      InputError: a sequence is present twice.
    """
    images = {name: files.image_of(name) for name in files.sequences}
    return {name: image.path for name, image in images.items() if image is not None}


def conclude(outcome: Report, what: str) -> None:
    """Prints the warnings of a report.

    Raises:
      InputError: a session failed; the message lists all failures.
    """
    if outcome.kept:
        total = len(outcome.written) + len(outcome.failures)
        console.print(
            f"{len(outcome.kept)} of {total} sessions were {what} already; "
            "--overwrite recomputes them"
        )
    for name, sentences in outcome.warnings.items():
        _warn(name, sentences)
    if outcome.failures:
        lines = [f"  {name}: {sentence}" for name, sentence in outcome.failures.items()]
        total = len(outcome.written) + len(lines)
        first = f"{len(lines)} of {total} sessions could not be {what}"
        raise InputError("\n".join([first, *lines]))


def format_number(value: float) -> str:
    """Returns a number with four digits for tables; a dash if it is not finite."""
    return f"{value:.4g}" if np.isfinite(value) else "–"
