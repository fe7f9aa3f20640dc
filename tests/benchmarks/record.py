"""Record: what a benchmark's numbers depend on besides its own arguments."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
        # Names alone of files and interpreters: where they lay is this machine's affair.
        "command": shlex.join(["python", "-m", module, *(Path(a).name for a in sys.argv[1:])]),
    }


def count_stolen() -> tuple[int, int]:
    """Returns the clock ticks of all cores so far: those that the host gave to others, and all.

    Of two readings, the differences tell what a virtual machine's timings in between are worth.
    """
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)
