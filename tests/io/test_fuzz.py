"""The fuzzer in its small form: no damaged image escapes, takes a gigabyte, or is read wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bench_fuzz import Outcome

CASES = 120


def test_a_damaged_image_is_refused_or_read_as_its_bytes_say_and_takes_no_gigabyte(tmp_path: Path):
    # In a process without JAX, whose threads do not survive a fork.
    module = "tests.benchmarks.bench_fuzz"
    arguments = ["--cases", str(CASES), "--json", str(tmp_path / "fuzz.json")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "fuzz.json").read_text())
    assert told["failed"] == []
    assert sum(told["counts"].values()) == CASES
    assert set(told["counts"]) == {"read", "refused"}
    assert min(told["counts"].values()) > CASES / 12


@pytest.mark.parametrize(
    ("kind", "size", "failed"),
    [
        ("read", 0, False),
        ("refused", 2**29, False),
        ("refused", 2**31, True),
        ("wrong", 0, True),
        ("KeyError", 0, True),
        ("signal 14", 0, True),
    ],
)
def test_only_an_image_and_a_refusal_of_less_than_a_gigabyte_are_right(
    kind: str, size: int, failed: bool
):
    assert Outcome("a", kind, "", 1.0, size).failed == failed
