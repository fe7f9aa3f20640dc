"""Record of the conditions of a benchmark: machine, load, commit and command."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from flaxflair.runtime.environment import describe_machine


def describe_run(module: str) -> dict[str, Any]:
    """Returns machine, load, commit and the command that was given.

    Args:
      module: run by `python -m`.
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        **describe_machine(),
        "jaxlib": version("jaxlib"),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "commit": commit.stdout.strip() or None,
        # Only the names of files and interpreters, without their folders.
        "command": shlex.join(["python", "-m", module, *(Path(a).name for a in sys.argv[1:])]),
    }


def count_stolen() -> tuple[int, int]:
    """Returns the clock ticks of all cores so far: stolen by the host, and total.

    The differences of two readings measure the reliability of timings on a virtual machine.
    """
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


class Cost(NamedTuple):
    """Cost of one command, its child processes included.

    Attributes:
      wall: seconds.
      cpu: seconds of processor time.
      peak: GiB, largest memory of one process.
    """

    wall: float
    cpu: float
    peak: float


def run_measured(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Cost:
    """Runs a command in a process of its own and returns its cost.

    Args:
      command: program and arguments.
      folder: working folder.
      environment: variables; None for those of this process.

    Raises:
      subprocess.CalledProcessError: the command failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
