"""Page of a predicted data set: its sessions as rows of one table, what to look at first on top.

A self-contained HTML page, whose only links are to the pages of the sessions. The sessions are
read by `cohort_sessions`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from flaxflair.core.atomic_files import expect_output, write_text
from flaxflair.core.notice import NOTICE
from flaxflair.core.records import InputError
from flaxflair.io.session_files import find_sessions
from flaxflair.visualization.cohort_sessions import (
    COVERAGE,
    FAILED,
    NOT_JUDGED,
    UNREADABLE,
    Row,
    Source,
    find_predicted,
    read_failures,
    read_rows,
)
from flaxflair.visualization.session_page import find_source

# Rank in the order of what to look at first.
_RANKS = {FAILED: 0, UNREADABLE: 0, **{grade: n for n, grade in enumerate(("unusable", "look"), 1)}}
_RANKS |= {NOT_JUDGED: 3, "good": 4}
_MOST_NAMED = 40  # sessions in a sentence


class Cell(NamedTuple):
    """A cell of numbers.

    Attributes:
      key: by which its column is sorted; empty if unknown.
      text: as shown.
      note: smaller text below; may be empty.
    """

    key: str
    text: str
    note: str = ""


class Column(NamedTuple):
    """A column of numbers.

    Attributes:
      title: heading.
      hint: what it is.
      cell: row -> cell.
    """

    title: str
    hint: str
    cell: Callable[[Row], Cell]


def write_cohort_page(
    root: Path,
    path: Path,
    participants: Collection[str] | None = None,
    *,
    scores: bool = False,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the page of a data set that `predict` wrote, atomically.

    Args:
      root: the data set.
      path: HTML to write.
      participants: labels, with or without `sub-`; None for all.
      scores: whether the FLAIRs are compared with the true ones of the source data set; of a raw
        source, they are registered first, which takes about 10 s of processor time each.
      on_done: called with the number of sessions read and the total, first with zero read.

    Raises:
      InputError: `root` is no data set, holds no synthetic FLAIR or no such participant; or scores
        are requested and the source data set is missing.
      WriteError: the page would replace that of a session.
    """
    found = find_predicted(root, participants)
    expect_output(path, [session.page for session in found], (".html",))
    source, problem = _open_source(root)
    if scores and source.root is None:
        raise InputError(problem)
    total = len(found)
    on_done(0, total)
    rows = read_rows(found, source, scores=scores, on_done=lambda done: on_done(done, total))
    present = {row.name for row in rows}
    rows += [row for row in read_failures(root, participants) if row.name not in present]
    notes = [problem] if problem else _describe_missing(source, rows, participants)
    name = root.resolve().name if source.root is None else source.root.name
    write_text(path, make_cohort_page(f"Synthetic FLAIRs of {name}", rows, path.parent, notes))


def _open_source(root: Path) -> tuple[Source, str]:
    """Returns the source data set, and why it is not used or an empty string."""
    try:
        source = find_source(root)
        sessions = {files.name: files for files in find_sessions(source, (), flair="welcome")}
    except InputError as error:
        return Source(None), str(error)
    return Source(source, sessions), ""


def _describe_missing(
    source: Source, rows: Sequence[Row], participants: Collection[str] | None
) -> list[str]:
    """Returns a sentence on the sessions of the source without a synthetic FLAIR, if any."""
    wanted = participants and {f"sub-{label.removeprefix('sub-')}" for label in participants}
    present = {row.name for row in rows}
    missing = [
        name
        for name, files in source.sessions.items()
        if name not in present and (not wanted or files.participant in wanted)
    ]
    if not missing:
        return []
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    return [
        f"{len(missing)} of {len(missing) + len(rows)} sessions of the source data set have no "
        f"synthetic FLAIR: {', '.join(missing[:_MOST_NAMED])}{more}; flaxflair predict states "
        "the reasons"
    ]


def make_cohort_page(
    title: str, rows: Sequence[Row], folder: Path, notes: Sequence[str] = ()
) -> str:
    """Returns the page.

    Args:
      title: of the page.
      rows: sessions in any order.
      folder: folder of the page, for its links to the pages of the sessions.
      notes: sentences above the table.
    """
    volumes = np.array([row.brain for row in rows if math.isfinite(row.brain)])
    median = float(np.median(volumes)) if volumes.size else math.nan
    shared = _shared_warnings(rows)
    ordered = sorted(rows, key=lambda row: _urgency(row, median))
    environment = Environment(
        loader=PackageLoader("flaxflair.visualization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("cohort.html.j2").render(
        title=title,
        lead=f"{NOTICE}.",
        rows=[_show(row, folder, shared) for row in ordered],
        columns=_columns(rows, median),
        grades=_count_grades(rows),
        models=_describe_models(rows),
        median="" if math.isnan(median) else f"{median:,.0f} mL",
        notes=notes,
        shared=shared,
        pictured=any(row.pictures for row in rows),
    )


def _urgency(row: Row, median: float) -> tuple[float, ...]:
    """Returns what rows are sorted by: lower is to be looked at earlier."""
    distance = abs(row.brain - median)
    return _RANKS[row.grade], -len(row.warnings), -distance if math.isfinite(distance) else 0.0


def _shared_warnings(rows: Sequence[Row]) -> list[str]:
    """Returns the warnings that all of several sessions have, which are shown once."""
    readable = [row for row in rows if row.grade not in (FAILED, UNREADABLE)]
    if len(readable) < 2:
        return []
    first, *others = readable
    return [w for w in first.warnings if all(w in row.warnings for row in others)]


def _count_grades(rows: Sequence[Row]) -> list[tuple[str, int]]:
    counts = Counter(row.grade for row in rows)
    return [(grade, counts[grade]) for grade in _RANKS if counts[grade]]


def _describe_models(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Returns model -> number of its sessions, the most frequent first."""
    return Counter(row.model for row in rows if row.model).most_common()


def _show(row: Row, folder: Path, shared: Collection[str]) -> dict[str, object]:
    """Returns the texts of a row for the template."""
    link = "" if row.page is None else os.path.relpath(row.page.resolve(), folder.resolve())
    return {
        "row": row,
        "link": quote(Path(link).as_posix(), safe="/") if link else "",
        "rank": _RANKS[row.grade],
        "warnings": [warning for warning in row.warnings if warning not in shared],
        "quality": [f"{name} {value:.4g}" for name, value in row.quality.items()],
    }


def _columns(rows: Sequence[Row], median: float) -> list[Column]:
    """Returns the columns of numbers; without those that are unknown for all sessions."""

    def number(value: float, digits: int = 0, note: str = "") -> Cell:
        if not math.isfinite(value):
            return Cell("", "–")
        return Cell(repr(value), f"{value:,.{digits}f}", note)

    def brain(row: Row) -> Cell:
        share = (row.brain / median - 1) * 100 if median > 0 else math.nan
        return number(
            row.brain, 0, f"{share:+.0f} %".replace("-", "−") if math.isfinite(share) else ""
        )

    def voxel(row: Row) -> Cell:
        size = row.voxel_size
        return Cell(repr(math.prod(size)), "×".join(f"{e:.3g}" for e in size)) if size else _NONE

    def lesions(row: Row) -> Cell:
        return _NONE if row.lesions is None else number(row.lesions.number)

    def lesion_volume(row: Row) -> Cell:
        if row.lesions is None:
            return _NONE
        interval = row.lesions.interval
        note = "" if interval is None else f"{interval[0]:,.2f} to {interval[1]:,.2f}"
        return number(row.lesions.volume, 2, note)

    def scored(name: str) -> Callable[[Row], Cell]:
        return lambda row: number(row.scores.get(name, math.nan), 3)

    columns = [
        Column("brain, mL", "Volume of the brain, and its difference from the median.", brain),
        Column("voxel, mm", "Edges of a voxel; sorted by its volume.", voxel),
        Column("lesions", "Number of lesions found.", lesions),
        Column("lesions, mL", "Volume of all lesions, and its interval.", lesion_volume),
        Column(
            "interval coverage",
            "Share of the voxels whose true value lies in the interval of the prediction.",
            lambda row: number(row.quality.get(COVERAGE, math.nan), 3),
        ),
        Column(
            "NMSE fit",
            "Squared error in the brain / its variance, after the best gain and offset; 0 is best.",
            scored("nmse_fit"),
        ),
        Column(
            "SSIM fit",
            "Structural similarity in the brain, after the best gain and offset; 1 is best.",
            scored("ssim_fit"),
        ),
    ]
    return [column for column in columns if any(column.cell(row).key for row in rows)]


_NONE = Cell("", "–")
