"""The recipes for clusters deal every participant to exactly one job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

SBATCH = Path(__file__).parents[1] / "recipes" / "predict.sbatch"
LABELS = [f"sub-{number:02d}" for number in range(1, 8)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "my data"
    for label in LABELS:
        (root / label / "anat").mkdir(parents=True)
    (root / "sub-note.txt").touch()
    return root


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with a `flaxflair` that prints its arguments, one on each line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "flaxflair"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    return folder


def run(
    commands: Path, arguments: Sequence[str], task: int, tasks: Sequence[int]
) -> subprocess.CompletedProcess[str]:
    """Runs one task of an array job, as SLURM would start it."""
    described = {
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_ARRAY_TASK_MIN": min(tasks),
        "SLURM_ARRAY_TASK_MAX": max(tasks),
        "SLURM_ARRAY_TASK_COUNT": len(tasks),
        "SLURM_CPUS_PER_TASK": 2,
    }
    return subprocess.run(
        ["bash", SBATCH, *arguments],
        env={
            **{name: str(value) for name, value in described.items()},
            "PATH": f"{commands}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("tasks", [range(1), range(3), range(1, 4), range(10)])
def test_every_participant_is_predicted_by_one_task(data: Path, commands: Path, tasks: range):
    dealt: list[str] = []
    for task in tasks:
        told = run(commands, [str(data), "my out", "--no-page"], task, tasks)
        assert told.returncode == 0
        if told.stdout.startswith("no participant"):
            continue
        name, source, out, level, flag, *labels, threads, number, option = told.stdout.splitlines()
        assert (name, source, out, level) == ("predict", str(data), "my out", "participant")
        assert flag == "--participant-label"
        assert (threads, number, option) == ("--threads", "2", "--no-page")
        dealt += labels
    assert sorted(dealt) == LABELS


@pytest.mark.parametrize("tasks", [(0, 2), (0, 1, 5)])
def test_an_array_with_gaps_is_refused(data: Path, commands: Path, tasks: tuple[int, ...]):
    told = run(commands, [str(data), "out"], 0, tasks)
    assert told.returncode == 2
    assert told.stderr == "give --array as a range without steps, such as 0-63\n"


def test_a_data_set_must_be_named(commands: Path):
    told = run(commands, [], 0, (0,))
    assert told.returncode != 0
    assert "name the data set" in told.stderr
