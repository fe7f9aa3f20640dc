"""Report of a data set of many sessions: reading, size of the page, and opening it in Chromium.

Run as `python -m tests.benchmarks.bench_report OUT [--sessions 1000] [--json FILE]`, where `OUT` is
a data set that `predict` wrote. Its sessions are read once and shown repeatedly under other names,
with other grades, warnings and volumes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaxflair.core.atomic_files import write_json
from flaxflair.visualization.cohort_report import make_cohort_page
from flaxflair.visualization.cohort_sessions import (
    GRADES,
    NOT_JUDGED,
    Row,
    Source,
    find_predicted,
    read_rows,
)
from tests.benchmarks.record import describe_run
from tests.browser import open_page

_MEASURE = """(window.done ??= document.body.dataset.ready && (() => {
  const { domContentLoadedEventEnd, loadEventEnd } = performance.getEntriesByType("navigation")[0];
  if (!loadEventEnd) return null;
  const time = (act) => {
    const start = performance.now();
    act();
    document.body.offsetHeight;
    return Math.round(performance.now() - start);
  };
  const headings = [...document.querySelectorAll("thead button")];
  const heading = headings.find((button) => button.textContent === "brain, mL");
  const filter = document.getElementById("filter");
  console.log(JSON.stringify({
    parsed: Math.round(domContentLoadedEventEnd), loaded: Math.round(loadEventEnd),
    sorted: time(() => heading.click()),
    filtered: time(() => { filter.value = "sub-000"; filter.dispatchEvent(new Event("input")); }),
  }));
  return true;
})())"""


def vary(row: Row, number: int) -> Row:
    """Returns a session of another name, grade, number of warnings and volume."""
    grade = (*GRADES, NOT_JUDGED)[number % 4]
    name = f"sub-{number:05}"
    text = (
        f"{name}/anat/{name}_T2w.nii.gz: covers only {number} mm, less than the height of a brain"
    )
    return replace(
        row,
        name=name,
        grade=grade,
        reasons=("The T2 is noisy: its noise is 0.12 of its white matter.",) * (number % 4 < 2),
        warnings=(text,) * (number % 3),
        quality={"noise_T2": number / 1000, "sharpness_T2": 0.5, "head_share": 0.4},
        brain=row.brain + number / 10,
    )


def measure(root: Path, sessions: int) -> dict[str, Any]:
    """Returns seconds, MB and the milliseconds of the browser, by name."""
    found = find_predicted(root)
    started, wall = time.process_time(), time.monotonic()
    rows = read_rows(found, Source(None))
    read = (time.process_time() - started) / len(rows), (time.monotonic() - wall) / len(rows)
    many = [vary(rows[number % len(rows)], number) for number in range(sessions)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        started = time.process_time()
        path.write_text(make_cohort_page("report", many, path.parent), encoding="utf-8")
        made = time.process_time() - started
        size = path.stat().st_size / 1e6
        seen = open_page(path, width=1280, ready=_MEASURE)
    return {
        "sessions": sessions,
        "read, processor s per session": round(read[0], 3),
        "read, s per session": round(read[1], 3),
        "page made, processor s": round(made, 2),
        "page, MB": round(size, 2),
        "browser, ms": json.loads(seen.console[-1].split(": ", 1)[1]),
    }


def main() -> None:
    """Prints the measurements as JSON, and writes them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, metavar="OUT")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    measured = describe_run("tests.benchmarks.bench_report") | measure(args.root, args.sessions)
    print(json.dumps(measured, indent=2, ensure_ascii=False))
    if args.json is not None:
        write_json(args.json, measured)


if __name__ == "__main__":
    main()
