"""Sessions of a predicted data set, read for the page of the whole data set.

Reads what `predict` wrote; a file that cannot be used is noted in its session. The page is in
`cohort_report`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxflair.core.atomic_files import describe_error
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import Array, GeometryError, InputError, Volume, name_session
from flaxflair.core.sequences import SEQUENCES
from flaxflair.core.text_files import read_text
from flaxflair.evaluation import metrics
from flaxflair.imaging.masks import binarize
from flaxflair.imaging.orientation import to_ras
from flaxflair.io import bids, derivatives
from flaxflair.io.masks import BRAIN, kind_of
from flaxflair.io.nifti import read_volume
from flaxflair.io.session_files import SessionFiles
from flaxflair.preprocessing.true_flair import read_true_flair
from flaxflair.runtime.stages import Stage, run_stages
from flaxflair.visualization.thumbnails import Thumbnail, choose_slice, draw_thumbnail

GRADES = ("unusable", "look", "good")
NOT_JUDGED = "not judged"
UNREADABLE, FAILED = "unreadable", "failed"
COVERAGE = "IntervalCoverage"  # of `Quality` in a sidecar
_WORKERS = 4  # threads, each with one session in memory
_REMEDY = "predict the session again"
_TABLE = "quality.tsv"
# Inputs by their similarity to a FLAIR, for the thumbnail.
_SHOWN = ("T2", "PD", "DIR", "T1", "T1SE")


@dataclass(frozen=True)
class Source:
    """What the sessions were predicted from.

    Attributes:
      root: source data set; None if it is missing.
      sessions: session (`sub-01_ses-1`) -> its files in the source.
    """

    root: Path | None
    sessions: Mapping[str, SessionFiles] = field(default_factory=dict)


@dataclass(frozen=True)
class Predicted:
    """The files of one predicted session.

    Attributes:
      name: `sub-01_ses-1`.
      flair: synthetic FLAIR.
      images: all images of the session in the derivative.
      page: its page; None if there is none.
    """

    name: str
    flair: bids.Image
    images: tuple[bids.Image, ...]
    page: Path | None


class Lesions(NamedTuple):
    """The lesions of a session.

    Attributes:
      number: how many.
      volume: mL, of all.
      interval: mL, lower and upper end of the volume; None if unknown.
    """

    number: int
    volume: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """One session as the page shows it; NaN and empty for what is unknown.

    Attributes:
      name: `sub-01_ses-1`.
      page: its page; None if there is none.
      grade: of `GRADES`, `NOT_JUDGED`, `UNREADABLE` or `FAILED`.
      reasons: reasons of the grade, one sentence each.
      warnings: one sentence each.
      sequences: sequences that the FLAIR was predicted from.
      model: method and digest.
      quality: name -> number, from the sidecar.
      voxel_size: mm.
      brain: volume of the brain, mL.
      lesions: None if there is no table of them.
      scores: `nmse_fit` and `ssim_fit`, if they were requested.
      pictures: of an input, if one was found, and of the synthetic FLAIR.
    """

    name: str
    page: Path | None = None
    grade: str = NOT_JUDGED
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    model: str = ""
    quality: Mapping[str, float] = field(default_factory=dict)
    voxel_size: tuple[float, ...] = ()
    brain: float = math.nan
    lesions: Lesions | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    pictures: tuple[Thumbnail, ...] = ()


def find_predicted(root: Path, participants: Collection[str] | None = None) -> list[Predicted]:
    """Finds the synthetic FLAIRs of a data set, by file names only.

    Args:
      root: data set that `predict` wrote.
      participants: labels, with or without `sub-`; None for all.

    Raises:
      InputError: it is no data set, holds no synthetic FLAIR, or has no such participant.
    """
    grouped: dict[str, list[bids.Image]] = {}
    for image in bids.find_images(root):
        grouped.setdefault(name_session(image.participant, image.session), []).append(image)
    found = []
    for name, images in grouped.items():
        made = [i for i in images if i.suffix == "FLAIR" and i.entities.get("desc") == "synth"]
        page = derivatives.page_path(root, name)
        found += [
            Predicted(name, image, tuple(images), page if page.is_file() else None)
            for image in made
        ]
    if not found:
        raise InputError(f"{root}: holds no synthetic FLAIR; run `flaxflair predict` first")
    if participants is None:
        return found
    wanted = _labels(participants)
    if missing := sorted(wanted - {session.flair.participant for session in found}):
        raise InputError(f"{root}: holds no synthetic FLAIR of {missing[0]}; predict it first")
    return [session for session in found if session.flair.participant in wanted]


def _labels(participants: Collection[str]) -> set[str]:
    return {f"sub-{label.removeprefix('sub-')}" for label in participants}


def read_rows(
    found: Iterable[Predicted],
    source: Source,
    *,
    scores: bool = False,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Reads the sessions of a data set, several at a time.

    Args:
      found: from `find_predicted`.
      source: source data set.
      scores: whether FLAIRs are compared with the true ones of the source; a raw one is registered
        first.
      on_done: called with the number of sessions read.
    """
    found = list(found)
    rows: list[Row] = [Row(session.name) for session in found]
    stage = Stage("read", lambda session: _read_row(session, source, scores), _WORKERS)
    with closing(run_stages(found, [stage])) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome.error, InputError | OSError):
                why = describe_error(outcome.error)
                session = found[outcome.index]
                rows[outcome.index] = Row(session.name, session.page, UNREADABLE, (why,))
            elif outcome.error is not None:
                raise outcome.error
            else:
                rows[outcome.index] = outcome.value
            on_done(done)
    return rows


def _read_row(session: Predicted, source: Source, scores: bool) -> Row:
    """Returns a session as the page shows it."""
    row, stripped = _read_sidecar(session, source)
    flair = to_ras(read_volume(session.flair.path))
    geometry = flair.geometry
    found = _read_brain(session, source, flair)
    if found is None and stripped:
        found = flair.array != 0
    brain = np.zeros(geometry.shape, bool) if found is None else found
    scan = _read_input(session, source, flair, row.sequences)
    at = choose_slice(geometry, brain)
    shown = [] if scan is None else [(SEQUENCES[scan[0]].title, scan[1].array)]
    shown.append(("synthetic FLAIR", flair.array))
    row = replace(
        row,
        voxel_size=geometry.voxel_size,
        brain=math.nan if found is None else _millilitres(brain, flair),
        lesions=_read_lesions(session),
        pictures=tuple(draw_thumbnail(title, i, brain, geometry, at) for title, i in shown),
    )
    files = source.sessions.get(session.name)
    if not scores or files is None:
        return row
    if found is None:
        why = "not scored: it reaches beyond the brain, and there is no brain mask on its grid"
        return replace(row, warnings=(*row.warnings, why))
    # Of a raw session, the prepared images are in the derivative.
    prepared = any(image.sequence in row.sequences for image in session.images)
    return _score(row, files, flair, Volume(brain, geometry), scan if prepared else None)


def _read_sidecar(session: Predicted, source: Source) -> tuple[Row, bool]:
    """Returns what the sidecar of a FLAIR holds, and whether it is zero outside the brain."""
    path = bids.sidecar(session.flair.path)
    content = read_object(path, _REMEDY)
    model = _part(path, content, "Model", dict)
    verdict = _part(path, content, "Verdict", dict)
    quality = _part(path, content, "Quality", dict)
    warnings = _part(path, content, "Warnings", list)
    used = _part(path, content, derivatives.SEQUENCES_USED, list)
    if not used:  # a sidecar of an earlier version; prepared images are those of the inputs
        used = list(dict.fromkeys(i.sequence for i in session.images if i.sequence is not None))
    grade = verdict.get("Grade", NOT_JUDGED)
    if grade not in (*GRADES, NOT_JUDGED):
        raise InputError(f"{path}: the grade {grade!r} is none of {', '.join(GRADES)}; {_REMEDY}")
    digest = str(model.get("Digest", "")).removeprefix("sha256:")[:12]
    row = Row(
        name=session.name,
        page=session.page,
        grade=grade,
        reasons=tuple(map(str, _part(path, verdict, "Reasons", list))),
        warnings=tuple(str(w).replace(f"{source.root}/", "") for w in warnings),
        sequences=tuple(name for name in used if name in SEQUENCES),
        model=" ".join(filter(None, (str(model.get("Method", "")), digest))),
        quality={
            name: float(value)
            for name, value in quality.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )
    return row, content.get("SkullStripped") is True


def _part(path: Path, content: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Returns an object or a list of a sidecar; an empty one if it is missing."""
    found = content.get(name, kind())
    if not isinstance(found, kind):
        raise InputError(f"{path}: {name} is not a JSON {_KINDS[kind]}; {_REMEDY}")
    return found


_KINDS: dict[type, str] = {dict: "object", list: "array"}


def _read_brain(session: Predicted, source: Source, flair: Volume) -> Array | None:
    """Returns the brain mask of the derivative or of its source, bool[x, y, z]; or None."""
    files = source.sessions.get(session.name)
    given = None if files is None else files.mask_of(BRAIN)
    masks = [image for image in session.images if kind_of(image) == BRAIN]
    masks += [] if given is None else [given]
    volumes = (to_ras(read_volume(mask.path)) for mask in masks)
    aligned = (v for v in volumes if v.geometry.matches(flair.geometry))
    return next((binarize(volume.array) for volume in aligned), None)


def _read_input(
    session: Predicted, source: Source, flair: Volume, sequences: Collection[str]
) -> tuple[str, Volume] | None:
    """Returns one of the inputs on the grid of the FLAIR; None if there is none."""
    files = source.sessions.get(session.name)
    images = (*session.images, *(files.images if files else ()))
    for sequence in (name for name in _SHOWN if name in sequences):
        for image in images:
            if image.sequence == sequence:
                volume = to_ras(read_volume(image.path))
                if volume.geometry.matches(flair.geometry):
                    return sequence, volume
    return None


def _read_lesions(session: Predicted) -> Lesions | None:
    """Returns the lesions of a table, `*_desc-lesions*.tsv`, whose volumes are in mm³; or None."""
    pattern = f"{session.name}_*desc-lesions*.tsv"
    path = next(iter(sorted(session.flair.path.parent.glob(pattern))), None)
    if path is None:
        return None
    rows = _read_table(path, ("volume",))
    interval = rows and {"volume_low", "volume_high"} <= rows[0].keys()
    columns = ("volume", "volume_low", "volume_high") if interval else ("volume",) * 3
    try:
        volume, low, high = (sum(float(row[c]) for row in rows) / 1000 for c in columns)
    except (TypeError, ValueError):
        raise InputError(f"{path}: has a volume that is not a number; {_REMEDY}") from None
    return Lesions(len(rows), volume, (low, high) if interval else None)


def read_failures(root: Path, participants: Collection[str] | None = None) -> list[Row]:
    """Returns a row for each session that failed, by the table `quality.tsv` of `predict`, if any.

    Args:
      root: data set that `predict` wrote.
      participants: see `find_predicted`.

    Raises:
      InputError: the table cannot be read or lacks a column.
    """
    path = root / _TABLE
    if not path.is_file():
        return []
    wanted = None if participants is None else _labels(participants)
    return [
        Row(
            name_session(row["participant_id"], None if (s := row["session_id"]) == "n/a" else s),
            grade=FAILED,
            reasons=tuple(why for why in row["reasons"].split(" | ") if why != "n/a"),
        )
        for row in _read_table(path, ("participant_id", "session_id", "verdict", "reasons"))
        if row["verdict"] == FAILED and (wanted is None or row["participant_id"] in wanted)
    ]


def _read_table(path: Path, needed: Collection[str]) -> list[dict[str, str]]:
    """Returns the rows of a BIDS table, which has no quotation."""
    lines = read_text(path, _REMEDY).splitlines()
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
    if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise InputError(f"{path}: has no column {missing[0]}; {_REMEDY}")
    return list(reader)


def _millilitres(region: Array, volume: Volume) -> float:
    return float(region.sum() * np.prod(volume.geometry.voxel_size) / 1000)


def _score(
    row: Row, files: SessionFiles, flair: Volume, brain: Volume, scan: tuple[str, Volume] | None
) -> Row:
    """Returns the row with its scores, or with a warning of why there are none."""
    try:
        true = read_true_flair(files, scan, brain)
    except (InputError, GeometryError) as error:
        return replace(row, warnings=(*row.warnings, f"not scored: {error}"))
    if true is None:
        return row
    region = brain.array & (true != 0)
    scores = {
        "nmse_fit": metrics.nmse_fit(flair.array, true, region),
        "ssim_fit": metrics.ssim_fit(flair.array, true, region),
    }
    return replace(row, scores=scores)
