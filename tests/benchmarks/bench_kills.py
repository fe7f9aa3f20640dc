"""Kills at random times: damage to raw `predict` and `prepare`, and recovery by a second run.

Run as `python -m tests.benchmarks.bench_kills [--kills 30] [--seed 0] [--json FILE]`; it takes
about as long as 60 predictions of small sessions. Each command is killed by SIGKILL or SIGTERM at a
random time of its run and started again, each time in a separate process forked after all imports.
A file is intact if it equals that of an undisturbed run to the byte. The exit status is 1 if a file
was not intact, missing or left over.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxflair import cli, commands  # noqa: F401  (so that children need not import it)
from flaxflair.core.atomic_files import write_json
from flaxflair.io.bids import RECEIPTS
from flaxflair.simulation.phantom import write_phantom
from tests.benchmarks.record import describe_run
from tests.samples import save_untrained

_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
_SCALE = 0.1
_BRAIN = "derivatives/truth/sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"


class Outcome(NamedTuple):
    """What became of one kill.

    Attributes:
      command: that was killed.
      signal: by which.
      seconds: after which.
      ended: whether it had ended before.
      finished: files that lay there whole after the kill.
      broken: files that lay there and were not whole, after the kill or the second run.
      left: files that no undisturbed run writes, after the second run.
      missing: files that were missing after the second run.
      status: exit status of the second run.
    """

    command: str
    signal: str
    seconds: float
    ended: bool
    finished: int
    broken: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]
    status: int

    @property
    def failed(self) -> bool:
        """Whether something was lost."""
        return bool(self.broken or self.left or self.missing or self.status)


def make_data(root: Path) -> None:
    """Writes a raw data set of two participants, a T1 and a T2 each, with masks of their brains."""
    write_phantom(root, subjects=2, healthy=0, seed=3, scale=_SCALE, layout="raw")
    for path in root.glob("sub-*/anat/*"):
        if "_acq-" in path.name or "_PDw" in path.name:
            path.unlink()


def list_commands(root: Path, model: Path) -> dict[str, list[str]]:
    """Returns name -> arguments of each command, which writes below `out` where it is run."""
    anat = root / "sub-01/anat/sub-01"
    files = ["--t1w", f"{anat}_T1w.nii.gz", "--t2w", f"{anat}_T2w.nii.gz"]
    onto = ["--flair", f"{anat}_FLAIR.nii.gz", "--reference", "FLAIR"]
    single = [*files, *onto, "--brain", str(root / _BRAIN), "--out", "out/flair.nii.gz"]
    whole = [str(root), "out", "participant", "--reference", "FLAIR", "--dof", "6"]
    return {
        "predict, one session": ["predict", "--model", str(model), *single, "--dof", "6"],
        "predict, a data set": ["predict", "--model", str(model), *whole],
        "prepare, a data set": ["prepare", *whole],
    }


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns path -> content of all that was written; not the receipts, which hold the time."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and RECEIPTS not in path.parts
    }


def start(act: Callable[[], int], folder: Path) -> int:
    """Forks a process that acts in a folder, its output unseen, and returns its number."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.chdir(folder)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            status = act()
        finally:
            os._exit(status)
    return child


def run_whole(arguments: Sequence[str], folder: Path) -> tuple[int, float]:
    """Runs a command to its end; returns its exit status, and seconds."""
    started = time.perf_counter()
    _, status = os.waitpid(start(lambda: cli.main(arguments), folder), 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - started


def wait(child: int, seconds: float) -> bool:
    """Waits for a process to end, so long at most; returns whether it did."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    return False


def kill_one(
    name: str, arguments: Sequence[str], whole: Mapping[str, bytes], folder: Path, after: float
) -> Outcome:
    """Kills a command after so many seconds, runs it again, and looks at what lies there."""
    number = random.Random(after).choice(_SIGNALS)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    child = start(lambda: cli.main(arguments), folder)
    if not (ended := wait(child, after)):
        os.kill(child, number)
        os.waitpid(child, 0)
    first = {n: content for n, content in read_files(folder / "out").items() if ".part" not in n}
    broken = [n for n, content in first.items() if whole.get(n) != content]
    status, _ = run_whole(arguments, folder)
    second = read_files(folder / "out")
    broken += [n for n, content in second.items() if n in whole and whole[n] != content]
    return Outcome(
        name,
        number.name,
        round(after, 2),
        ended,
        len(first),
        tuple(broken),
        tuple(sorted(second.keys() - whole.keys())),
        tuple(sorted(whole.keys() - second.keys())),
        status,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all kills, prints what became of them, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args(arguments)
    draw = random.Random(options.seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as top:
        root, model, folder = (Path(top) / name for name in ("data", "model", "work"))
        make_data(root)
        os.waitpid(start(lambda: save_untrained(model) or 0, Path(top)), 0)
        commands, whole, lasted = list_commands(root, model), {}, {}
        for name, given in commands.items():
            (folder / "out").mkdir(parents=True)
            status, lasted[name] = run_whole(given, folder)
            assert status == 0, f"{name} fails undisturbed"
            whole[name] = read_files(folder / "out")
            shutil.rmtree(folder)
        while sum(not outcome.ended for outcome in outcomes) < options.kills:
            name = list(commands)[len(outcomes) % len(commands)]
            # Most of a run is computing; half of the kills come near its end, where files are.
            begin = draw.choice((0.1, 0.7))
            after = draw.uniform(begin, 1.0) * lasted[name]
            outcomes.append(kill_one(name, commands[name], whole[name], folder, after))
            if outcomes[-1].ended:  # the machine is faster now; not counted as a kill
                lasted[name] = min(lasted[name], after)
            print(f"{len(outcomes)}: {outcomes[-1]}", flush=True)
    failed = [outcome for outcome in outcomes if outcome.failed]
    result: dict[str, Any] = {
        "machine": describe_run("tests.benchmarks.bench_kills"),
        "kills": dict(Counter(f"{o.command}: {o.signal}" for o in outcomes if not o.ended)),
        "ended before": sum(outcome.ended for outcome in outcomes),
        "with files": sum(0 < o.finished < len(whole[o.command]) for o in outcomes),
        "failed": [outcome._asdict() for outcome in failed],
    }
    print(result)
    if options.json:
        write_json(options.json, result)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
