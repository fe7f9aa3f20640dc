"""Time of the preparation of raw sessions, beside that of another version of the project.

Run as `python -m tests.benchmarks.bench_session RAW --against CHECKOUT [--participant 04 ...]
[--repeats 3] [--json OUT]`. RAW is a raw BIDS data set, CHECKOUT a folder that holds another
version, whose dependencies are installed too. `flaxflair prepare` of either is run in turn, each
time in a process of its own. Reported are the smallest processor and wall time of each, imports
included, and their ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import flaxflair
from flaxflair.core.atomic_files import write_json
from tests.benchmarks.record import Cost, describe_run, run_measured

MODULE = "tests.benchmarks.bench_session"


def prepare(checkout: Path, raw: Path, participants: Sequence[str]) -> Cost:
    """Returns what the preparation of some participants costs."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "flaxflair.cli", "prepare", str(raw), out, "participant"]
        command += ["--participant-label", *participants]
        # Not in the folder of either version, which would come before PYTHONPATH.
        return run_measured(command, Path(out), environment)


def compare(
    checkouts: Mapping[str, Path], raw: Path, participants: Sequence[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Returns the smallest times of each version, run in turn."""
    costs = [
        {name: prepare(checkout, raw, participants) for name, checkout in checkouts.items()}
        for _ in range(repeats)
    ]
    return {
        name: {
            "wall": min(cost[name].wall for cost in costs),
            "CPU": min(cost[name].cpu for cost in costs),
        }
        for name in checkouts
    }


def main() -> None:
    """Measures, prints, and writes it with where it comes from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--participant", nargs="+", default=["04"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    checkouts = {"this": Path(flaxflair.__file__).parents[1], "other": args.against.resolve()}
    times = compare(checkouts, args.raw.resolve(), args.participant, args.repeats)
    ratios = {name: times["this"][name] / times["other"][name] for name in ("wall", "CPU")}
    for name, each in times.items():
        print(f"{name}: {each['wall']:.1f} s, {each['CPU']:.1f} s of processor time")
    print(f"ratio: {ratios['wall']:.2f}, {ratios['CPU']:.2f} of processor time")
    if args.json:
        write_json(args.json, {"machine": describe_run(MODULE), **times, "ratio": ratios})


if __name__ == "__main__":
    main()
