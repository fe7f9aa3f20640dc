"""Reading of damaged headers and streams: outcome and cost of many random cases.

Run as `python -m tests.benchmarks.bench_fuzz [--cases 1000] [--seed 0]`. Every case is read as
`flaxflair check` reads it, in a separate process with 4 GiB of address space and 60 s. The exit
status is 1 if a case ended neither with a correct image nor with an `InputError`, or needed more
than 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import InputError
from flaxflair.io.nifti import read_volume
from flaxflair.preprocessing.inspection import inspect_files, tabulate
from tests.benchmarks.record import describe_run
from tests.fuzz import Case, expect_values, make_cases, write_case

_ADDRESSES, _SECONDS, _MOST = 4 * 2**30, 60, 2**30


class Outcome(NamedTuple):
    """What became of one case.

    Attributes:
      case: its name.
      kind: `read`, `refused`, `wrong`, or the exception that escaped, or the signal that ended it.
      what: the message.
      seconds: that it took.
      bytes: of memory at most, beyond what the process began with.
    """

    case: str
    kind: str
    what: str
    seconds: float
    bytes: int

    @property
    def failed(self) -> bool:
        """Whether it ended as no case may."""
        return self.kind not in ("read", "refused") or self.bytes > _MOST


def read_case(case: Case, path: Path) -> tuple[str, str]:
    """Reads a case as `check` does, and compares what is read; returns kind and message."""
    inspection = inspect_files({"T1": path})
    tabulate(inspection)
    try:
        volume = read_volume(path)
    except InputError as error:
        return "refused", str(error)
    expected = expect_values(case)
    if expected is None:
        return "wrong", "read despite a header that contradicts its bytes"
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float32)
    if volume.array.shape != expected.shape or not np.array_equal(volume.array, expected):
        return "wrong", "other values than an independent reading finds"
    if not np.isfinite(volume.geometry.affine).all():
        return "wrong", "an affine that is not finite"
    return "read", ""


def _peak() -> int:
    """Returns the bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_case(case: Case, folder: Path) -> Outcome:
    """Runs one case in a process of its own."""
    path = write_case(case, folder)
    ours, theirs = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(ours)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
        signal.alarm(_SECONDS)
        before = _peak()
        try:
            kind, what = read_case(case, path)
        except BaseException as error:  # what escapes is what is looked for
            kind, what = type(error).__name__, str(error)
        os.write(theirs, json.dumps([kind, what[:300], _peak() - before]).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        output = stream.read()
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - started
    for name in case.files:
        (folder / name).unlink()
    if not output:
        return Outcome(case.name, f"signal {os.WTERMSIG(status)}", "", seconds, 0)
    kind, what, peak = json.loads(output)
    return Outcome(case.name, kind, what.replace(f"{folder}/", ""), seconds, peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all cases, prints what became of them, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(options.cases, options.seed)
        outcomes = [run_case(case, Path(folder)) for case in cases]
    counts = Counter(outcome.kind for outcome in outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    largest = max(outcomes, key=lambda outcome: outcome.bytes)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    print(f"slowest: {slowest.seconds:.1f} s ({slowest.case})")
    print(f"largest: {largest.bytes / 2**20:.0f} MiB ({largest.case})")
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed:
        print(f"{outcome.case}: {outcome.kind}, {outcome.bytes / 2**20:.0f} MiB: {outcome.what}")
    if options.json:
        result: dict[str, Any] = {
            "machine": describe_run("tests.benchmarks.bench_fuzz"),
            "counts": dict(counts),
            "failed": [outcome._asdict() for outcome in failed],
            "slowest": slowest._asdict(),
            "largest": largest._asdict(),
        }
        write_json(options.json, result)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
