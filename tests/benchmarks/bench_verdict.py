"""Verdicts on good and on spoilt sessions: how many of each are recognised.

Run as `python -m tests.benchmarks.bench_verdict --raw RAW --prepared PREPARED ... --phantom FOLDER
--json FILE`, RAW and PREPARED being data sets with T1, T2 and FLAIR. Sessions of these, and of a
simulated raw data set, are given unchanged, mildly changed (`spoilt.MILD`), and spoilt
(`spoilt.SPOILT`). They are prepared and measured, not predicted. A session that is refused by an
error counts as stopped. The participants 01, 07 and 20 were used to choose the thresholds, the
others only to test them. Each case is added to FILE when it is done, and a case that is in it is
not computed again;
`--grade` computes nothing and judges the measures in FILE anew, after a change of thresholds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxflair.core.atomic_files import with_nan, write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError, Volume
from flaxflair.core.sequences import TARGET
from flaxflair.evaluation.verdict import judge
from flaxflair.imaging.resampling import resample
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.io.session_files import SessionFiles, find_sessions, name_files
from flaxflair.preprocessing.dataset import load_subject
from flaxflair.preprocessing.options import DEFAULTS
from flaxflair.preprocessing.similarity import translation
from flaxflair.simulation.phantom import write_phantom
from tests.benchmarks.record import describe_run
from tests.benchmarks.spoilt import MILD, SPOILT, SPOILT_PREPARED, Session

_READ = ("T1", "T2")
# Ways for which prepared sessions are refused trivially: without a brain mask, ghosts in the air
# of an extracted brain; with one, a header that it contradicts.
_EXCLUDED = {
    False: ("motion ghosts",),
    True: ("superior called anterior", "voxels too large by the header"),
}
_TUNED = ("sub-01", "sub-07", "sub-20")  # the thresholds were chosen with these


class Case(NamedTuple):
    """One session and what is done to it.

    Attributes:
      session: `sub-01_ses-1`.
      way: key of `MILD`, `SPOILT` or `SPOILT_PREPARED`.
      source: `raw`, `prepared` or `phantom`.
      files: files of the session.
      other: files of another participant.
    """

    session: str
    way: str
    source: str
    files: SessionFiles
    other: SessionFiles

    @property
    def key(self) -> str:
        """Name of the case in the record."""
        return f"{self.source} {self.session}: {self.way}"

    @property
    def spoilt(self) -> bool:
        """Whether the session should not be called good."""
        return self.way not in MILD

    @property
    def tuned(self) -> bool:
        """Whether the thresholds were chosen with the participant."""
        return self.files.participant in _TUNED


def find_cases(roots: Sequence[tuple[str, Path]]) -> Iterator[Case]:
    """Yields the cases of data sets, given as source and root."""
    for source, root in roots:
        sessions = find_sessions(root, (), flair="welcome")
        ways = SPOILT_PREPARED if source == "prepared" else SPOILT
        for files in sessions:
            others = [s for s in sessions if s.participant != files.participant]
            other = next((s for s in others if "T2" in s.sequences), files)
            for way in MILD:
                if source != "prepared" or way in ("unchanged", "mild noise"):
                    yield Case(files.name, way, source, files, other)
            for way, (_, needed) in ways.items():
                excluded = source == "prepared" and way in _EXCLUDED[_mask(files) is not None]
                if set(needed) <= set(files.sequences) and not excluded:
                    yield Case(files.name, way, source, files, other)


def _mask(files: SessionFiles) -> Path | None:
    """Returns the brain mask of a prepared session, if there is one."""
    mask = files.mask_of("brain")
    return None if mask is None else mask.path


def read_session(case: Case) -> Session:
    """Returns the scans of a case before they are changed."""

    def read(files: SessionFiles, *names: str) -> dict[str, Volume]:
        images = {name: files.image_of(name) for name in names if name in files.sequences}
        return {name: read_volume(i.path) for name, i in images.items() if i is not None}

    scans, other = read(case.files, *_READ), read(case.other, *_READ)
    if case.source == "prepared" and "T2" in scans:  # the other head moves onto the same grid
        onto, image = scans["T2"].geometry, other["T2"]
        move = translation(image.geometry.centre - onto.centre)
        array = resample(image.array, image.geometry.affine, onto, move, beyond="zero")
        other["T2"] = Volume(array, onto)
    return Session(scans, read(case.files, TARGET)[TARGET], other)


def run_case(case: Case) -> dict[str, Any]:
    """Returns the measures and warnings of a case, or the error that stopped it."""
    way = MILD[case.way] if case.way in MILD else {**SPOILT, **SPOILT_PREPARED}[case.way][0]
    scans = way(read_session(case), np.random.default_rng(zlib.crc32(case.key.encode())))
    brain = _mask(case.files) if case.source == "prepared" else None
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.nii" for name in scans}
        for name, volume in scans.items():
            write_volume(paths[name], volume.array, volume.geometry.affine)
        del scans
        files = name_files(paths, (), brain=brain)
        files = replace(files, inputs=tuple(name for name in _READ if name in paths))
        options = None if case.source == "prepared" else replace(DEFAULTS, workers=1)
        started = time.process_time()
        try:
            subject = load_subject(files, options)
        except InputError as error:
            return {"error": str(error).replace(folder, ""), "CPU seconds": _since(started)}
    warnings = [sentence.replace(f"{folder}/", "") for sentence in subject.warnings]
    return {
        "quality": {name: float(f"{v:.4g}") for name, v in subject.quality.items()},
        "warnings": warnings,
        "CPU seconds": _since(started),
    }


def _since(started: float) -> float:
    return round(time.process_time() - started, 1)


def grade(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Returns the verdict on a recorded case, `refused` if an error stopped it, and reasons."""
    if "error" in row:
        return "refused", (row["error"],)
    return judge(with_nan(row["quality"]), row["warnings"])


def tabulate(cases: Sequence[Case], rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each way the numbers of cases by verdict, of either group of participants."""
    table = []
    for way in dict.fromkeys(case.way for case in cases):
        for tuned in (True, False):
            done = [c for c in cases if c.way == way and c.tuned == tuned and c.key in rows]
            found = [grade(rows[case.key])[0] for case in done]
            if found:
                counts = {g: found.count(g) for g in ("good", "look", "unusable", "refused")}
                spoilt = done[0].spoilt
                table.append({"way": way, "spoilt": spoilt, "tuned": tuned, **counts})
    return table


def summarise(table: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the numbers of good and of spoilt sessions by verdict, of either group."""
    totals = {}
    for tuned, who in ((True, "participants used for thresholds"), (False, "other participants")):
        for spoilt, what in ((False, "good"), (True, "spoilt")):
            rows = [r for r in table if r["spoilt"] == spoilt and r["tuned"] == tuned]
            sums = {g: sum(row[g] for row in rows) for g in ("good", "look", "unusable", "refused")}
            counts = ", ".join(f"{count} {name}" for name, count in sums.items())
            totals[f"{what} sessions, {who}"] = f"of {sum(sums.values())}: {counts}"
    return totals


def main() -> None:
    """Measures, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, nargs="+", default=[])
    parser.add_argument("--phantom", type=Path, help="raw phantom; made if it does not exist")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--ways", nargs="*", help="only these ways")
    parser.add_argument("--sessions", nargs="*", help="only these sessions (sub-01_ses-1)")
    parser.add_argument("--minutes", type=float, default=np.inf, help="start no case after this")
    parser.add_argument("--grade", action="store_true", help="compute nothing, judge again")
    args = parser.parse_args()
    roots = [("raw", args.raw), *(("prepared", root) for root in args.prepared)]
    if args.phantom is not None:
        if not args.phantom.exists():
            write_phantom(args.phantom, subjects=2, healthy=1, seed=11, layout="raw", scale=0.6)
        roots.append(("phantom", args.phantom))
    cases = list(find_cases(roots))
    rows = dict(read_object(args.json, "remove it")["cases"]) if args.json.is_file() else {}
    record = describe_run("tests.benchmarks.bench_verdict")
    started = time.monotonic()
    for case in cases:
        chosen = (not args.ways or case.way in args.ways) and (
            not args.sessions or case.session in args.sessions
        )
        late = time.monotonic() - started > 60 * args.minutes
        if case.key not in rows and chosen and not args.grade and not late:
            rows[case.key] = run_case(case)
            print(case.key, *grade(rows[case.key]), sep="\n    ", flush=True)
            write_json(args.json, {"machine": record, "cases": rows})
    table = tabulate(cases, rows)
    for line in table:
        print(line)
    totals = summarise(table)
    for what, count in totals.items():
        print(f"{what}: {count}")
    missed = [
        c.key for c in cases if c.key in rows and c.spoilt and grade(rows[c.key])[0] == "good"
    ]
    print("unnoticed:", *missed, sep="\n    ")
    # The measures stay in the record, so that thresholds can be changed without preparing again.
    summary = {"machine": record, **totals, "unnoticed": missed, "ways": table}
    write_json(args.json, {**summary, "cases": rows})


if __name__ == "__main__":
    main()
