"""The BIDS validator, as a function."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def errors_of(root: Path) -> list[str]:
    """Returns what the validator finds wrong in a data set."""
    told = subprocess.run(
        [Path(sys.executable).with_name("bids-validator-deno"), "--format", "json", root],
        capture_output=True,
        text=True,
        check=False,
    )
    issues = json.loads(told.stdout)["issues"]["issues"]
    return [f"{i['code']} {i.get('location')}" for i in issues if i["severity"] == "error"]
