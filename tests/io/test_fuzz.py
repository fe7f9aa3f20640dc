"""A short run of the fuzzer: damaged images are refused or read correctly, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bench_fuzz import Outcome

CASES = 120


def test_damaged_images_are_refused_or_read_correctly_in_less_than_a_gigabyte(tmp_path: Path):
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
    record = json.loads((tmp_path / "fuzz.json").read_text())
    assert record["failed"] == []
    assert sum(record["counts"].values()) == CASES
    assert set(record["counts"]) == {"read", "refused"}
    assert min(record["counts"].values()) > CASES / 12


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
def test_outcomes_other_than_reading_or_refusal_within_a_gigabyte_fail(
    kind: str, size: int, failed: bool
):
    assert Outcome("a", kind, "", 1.0, size).failed == failed
