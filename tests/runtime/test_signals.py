"""Signals to every process of a command, as a terminal or a scheduler sends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flaxflair.simulation.generator.anatomies import Library
from flaxflair.simulation.generator.storage import save_library
from tests.simulation.test_generator import library  # noqa: F401  (a fixture)

POOL = """
import signal, sys, time
from functools import partial
from flaxflair.runtime.process_pool import run_in_parallel
from flaxflair.runtime.signals import Interrupted

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a background shell
    print("ready", flush=True)
    try:
        run_in_parallel({name: partial(time.sleep, 600) for name in "abc"}, 2)
    except Interrupted as reason:
        print("saved", flush=True)
        sys.exit(128 + reason.number)
"""
SIMULATION = """
import signal, sys
from pathlib import Path
from flaxflair.runtime.signals import deferred
from flaxflair.training.universal_batches import Source, simulate_ahead

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    source = Source(Path(sys.argv[1]), 0, 16, 1, 1)
    with deferred() as signalled, simulate_ahead(source, 0, 2) as batches:
        print("ready", flush=True)
        for batch in batches:
            if (number := signalled()) is not None:
                print("saved", flush=True)
                sys.exit(128 + number)
"""


def _members(group: int) -> list[int]:
    """Returns the processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended since
        if int(number) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def _all_end(group: int) -> bool:
    """Whether the processes of a group end within half a minute; Python's own are the last."""
    until = time.monotonic() + 30
    while _members(group) and time.monotonic() < until:
        time.sleep(0.1)
    return not _members(group)


def _start(code: str, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "library")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="lists processes by /proc")
@pytest.mark.parametrize("seconds", [0.0, 0.3, 4.0])  # at their start, and at work
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [POOL, SIMULATION], ids=["pool", "simulation"])
def test_a_signal_to_all_processes_is_handled_by_the_first_alone(
    code: str,
    number: signal.Signals,
    seconds: float,
    library: Library,  # noqa: F811
    tmp_path: Path,
):
    save_library(tmp_path / "library", library)
    process = _start(code, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds if code == SIMULATION else seconds + 0.2)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("saved\n", 128 + number)
    assert _all_end(process.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="lists processes by /proc")
def test_processes_of_a_command_that_was_killed_end(library: Library, tmp_path: Path):  # noqa: F811
    save_library(tmp_path / "library", library)
    process = _start(SIMULATION.replace("for batch in batches", "while next(batches)"), tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)  # so that the queues fill
    time.sleep(6)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert _all_end(process.pid)
