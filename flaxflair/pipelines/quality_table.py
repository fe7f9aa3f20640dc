"""Table of the verdicts and measures of all sessions of a derivative: `quality.tsv`.

Made from the sidecars of the synthetic FLAIRs and from the records of failed sessions, so that
several processes may share the derivative. Independent of images and of thresholds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.locks import hold
from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES
from flaxflair.evaluation.verdict import GRADES, MEASURES, describe_range, split_name
from flaxflair.io import bids
from flaxflair.runtime.sessions import Report

NAME = "quality.tsv"
FAILED = "failed"
_MISSING = "n/a"
_BETWEEN = " | "  # reasons in a cell
_RECORD = ".failed.json"  # ending of the record of a failed session, beside the receipts
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "participant_id": {"Description": "participant"},
    "session_id": {"Description": "session; n/a if the data set has none"},
    "verdict": {
        "Description": "whether the synthetic FLAIR can be used",
        "Levels": {**GRADES, FAILED: "no FLAIR was written; the reason is the error"},
    },
    "reasons": {"Description": f"reasons of the verdict, separated by '{_BETWEEN.strip()}'"},
}


class Row(NamedTuple):
    """One session of the table.

    Attributes:
      verdict: a key of `GRADES`, or `failed`; `n/a` if its sidecar has none.
      reasons: one sentence each.
      quality: measure -> value; None if it is not known.
    """

    verdict: str
    reasons: tuple[str, ...]
    quality: Mapping[str, float | None]


def write_quality_table(root: Path, report: Report) -> None:
    """Rewrites `quality.tsv` and `quality.json` of a derivative atomically.

    Args:
      root: root of the derivative.
      report: report of the run that ends; its failures are recorded.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    records = root / bids.RECEIPTS
    records.mkdir(exist_ok=True)
    for name in report.written:
        (records / f"{name}{_RECORD}").unlink(missing_ok=True)
    for name, sentence in report.failures.items():
        write_json(records / f"{name}{_RECORD}", {"Error": sentence})
    # The last process to hold the lock finds the sidecars of all that held it before.
    with hold(records / "quality.lock", f"{root / NAME}", wait=True):
        rows = read_rows(root)
        present = {name for row in rows.values() for name in row.quality}
        columns = [name for name in _all_columns() if name in present]
        lines = (_format_row(name, row, columns) for name, row in sorted(rows.items()))
        bids.write_tsv(root / NAME, (*_FIXED, *columns), lines)
        described = {name: _describe_column(name) for name in columns}
        write_json((root / NAME).with_suffix(".json"), {**_FIXED, **described})


def read_rows(root: Path) -> dict[str, Row]:
    """Returns session (`sub-01_ses-1`) -> row, of all sessions of a derivative."""
    rows = {}
    for image in bids.find_images(root):
        if image.suffix == "FLAIR" and image.entities.get("desc") == "synth":
            name = "_".join(filter(None, (image.participant, image.session)))
            rows[name] = read_verdict(bids.sidecar(image.path))
    for path in (root / bids.RECEIPTS).glob(f"*{_RECORD}"):
        reason = _read(path).get("Error")
        rows[path.name.removesuffix(_RECORD)] = Row(FAILED, (str(reason),), {})
    return rows


def read_verdict(path: Path) -> Row:
    """Returns verdict and measures in the sidecar of a synthetic FLAIR."""
    content = _read(path)
    verdict, quality = content.get("Verdict"), content.get("Quality")
    if not isinstance(verdict, dict) or not isinstance(quality, dict):
        return Row(_MISSING, (), {})
    reasons = verdict.get("Reasons")
    return Row(
        str(verdict.get("Grade", _MISSING)),
        tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        {str(k): v for k, v in quality.items() if v is None or isinstance(v, int | float)},
    )


def count_verdicts(root: Path) -> Counter[str]:
    """Returns verdict -> number of sessions, from the table of a derivative.

    The sidecars, which may be 100,000, are not read again.
    """
    header, *lines = (root / NAME).read_text(encoding="utf-8").splitlines()
    column = header.split("\t").index("verdict")
    return Counter(line.split("\t")[column] for line in lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, "")
    except InputError:  # the session is computed again by the next run, which reports it
        return {}


def _all_columns() -> Iterator[str]:
    for name, measure in MEASURES.items():
        yield from (f"{name}_{scan}" for scan in SEQUENCES) if measure.per_scan else [name]


def _format_row(name: str, row: Row, columns: list[str]) -> tuple[str, ...]:
    participant, _, session = name.partition("_")
    values = (row.quality.get(column) for column in columns)
    cells = (_MISSING if v is None or not math.isfinite(v) else f"{v:.4g}" for v in values)
    reasons = _BETWEEN.join(" ".join(reason.split()) for reason in row.reasons)
    return participant, session or _MISSING, row.verdict, reasons or _MISSING, *cells


def _describe_column(name: str) -> dict[str, str]:
    measure, scan = split_name(name)
    row = MEASURES[measure]
    about = f" ({SEQUENCES[scan].title})" if scan else ""
    description = f"{row.title}{about}; usually {describe_range(row.good)}"
    return {"Description": description, **({"Units": row.unit} if row.unit else {})}
