"""The main job on several processes: the same numbers as on one, whatever ends a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from flaxflair.models.estimators import FittedNetwork
from tests.samples import load_fold

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--config=configs/fcn64.py",
    "--config.network.filters=4",
    "--config.network.layers=1",
    "--config.train.optimizer=adam",
    "--config.train.epochs=6",
    "--config.stop.patience=0",
    "--config.folds.count=3",
    "--config.predict.saliency=false",
    "--inputs=T1,T2",
)
SAVE_ALWAYS = "--config.save_every_seconds=0"
TIMEOUT = 120
# A dead process is noticed sooner than by default, and warnings of JAX are errors.
PROGRAM = """
from flaxflair.runtime import peers
peers.LOST_SECONDS = 4.0
from flaxflair.main import start
start()
"""

Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One compilation for all processes, each of which has one CPU device."""
    variables = {key: text for key, text in os.environ.items() if not key.startswith("SLURM_")}
    return variables | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Processes of a test, none of which outlives it."""
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(environment: dict[str, str], workdir: Path, phantom: Path, *flags: str) -> Process:
    """Starts the main command, as one process."""
    places = (f"--config.data.root={phantom}", f"--workdir={workdir}")
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error::DeprecationWarning:jax", "-c", PROGRAM),
            *(*FLAGS, *places, *flags),
        ],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_together(
    environment: dict[str, str], count: int, workdir: Path, phantom: Path, *flags: str
) -> list[Process]:
    """Starts the main command with `--distributed`, as several processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        start(
            environment | shared | {"JAX_PROCESS_ID": str(index)},
            workdir,
            phantom,
            "--distributed",
            *flags,
        )
        for index in range(count)
    ]


def finish(started: Sequence[Process]) -> list[tuple[int, str, str]]:
    """Returns exit status, standard output and standard error of each process."""
    outputs = [process.communicate(timeout=TIMEOUT) for process in started]
    return [(p.returncode, *texts) for p, texts in zip(started, outputs, strict=True)]


def events(workdir: Path, name: str = "log.jsonl") -> list[dict]:
    path = workdir / name
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_saves(workdir: Path, name: str, started: Sequence[Process], count: int = 2) -> None:
    """Waits until one process has saved its state `count` times."""
    while sum(event["event"] == "saved" for event in events(workdir, name)) < count:
        ended = [process.poll() for process in started]
        assert ended == [None] * len(ended), finish(started)
        time.sleep(0.01)


def scores(workdir: Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())["methods"]


def parameters(workdir: Path, fold: int) -> np.ndarray:
    fitted = load_fold(workdir, fold).fitted
    assert isinstance(fitted, FittedNetwork)
    return np.concatenate([np.ravel(array) for array in fitted.pack().arrays.values()])


@pytest.fixture(scope="module")
def alone(
    environment: dict[str, str], phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run by one process."""
    workdir = tmp_path_factory.mktemp("alone")
    ((status, _, errors),) = finish([start(environment, workdir, phantom)])
    assert status == 0, errors
    return workdir


# --- folds are dealt -----------------------------------------------------------------------------


def test_folds_dealt_to_two_processes_have_the_scores_of_one(
    environment, phantom: Path, alone: Path, tmp_path: Path, processes
):
    processes += start_together(environment, 2, tmp_path, phantom)
    first, second = finish(processes)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "3 folds to do, dealt to 2 processes" in first[1]
    assert (second[1], second[2]) == ("", "")
    assert scores(tmp_path) == scores(alone)
    trained = [
        [event["fold"] for event in events(tmp_path, name) if event["event"] == "scored"]
        for name in ("log.jsonl", "log-1.jsonl")
    ]
    assert trained == [[0, 2], [1]]
    assert not (tmp_path / ".processes").exists()


def test_a_killed_process_ends_the_other_and_the_same_command_ends_with_the_same_scores(
    environment, phantom: Path, alone: Path, tmp_path: Path, processes
):
    # The second process is killed in its fold; the first would wait for it for ever.
    processes += start_together(environment, 2, tmp_path, phantom, SAVE_ALWAYS)
    wait_for_saves(tmp_path, "log-1.jsonl", processes)
    processes[1].kill()
    first, _ = finish(processes)
    assert first[0] == 1
    assert first[2].startswith("flaxflair: process 1 of 2 has given no sign of life for ")
    assert first[2].endswith("; the same command resumes from the last checkpoints\n")
    assert first[2].count("\n") == 1
    assert not (tmp_path / "summary.json").exists()
    processes += start_together(environment, 2, tmp_path, phantom, SAVE_ALWAYS)
    assert [status for status, _, _ in finish(processes[2:])] == [0, 0]
    resumed = [*events(tmp_path), *events(tmp_path, "log-1.jsonl")]
    assert any(event["event"] == "resumed" for event in resumed)
    assert scores(tmp_path) == scores(alone)
    for fold in range(3):
        np.testing.assert_array_equal(parameters(tmp_path, fold), parameters(alone, fold))


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_process_saves_the_folds_of_both(
    environment, phantom: Path, tmp_path: Path, processes, signalled: int
):
    endless = ("--config.train.epochs=100000", SAVE_ALWAYS)
    processes += start_together(environment, 2, tmp_path, phantom, *endless)
    for name in ("log.jsonl", "log-1.jsonl"):
        wait_for_saves(tmp_path, name, processes)
    processes[signalled].send_signal(signal.SIGTERM)
    first, second = finish(processes)
    assert (first[0], second[0]) == (128 + signal.SIGTERM,) * 2
    assert "interrupted: saved after step" in first[1]
    assert first[2] + second[1] + second[2] == ""


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "flags", "sentence"),
    [
        ({}, (), "the other processes are not found (coordinator_address should be defined)"),
        ({"JAX_PROCESS_ID": "a"}, (), "JAX_PROCESS_ID is 'a'; it must be a number"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, (), "give 0 to 1"),
    ],
)
def test_processes_that_cannot_be_joined_are_refused(
    environment, phantom: Path, tmp_path: Path, processes, variables, flags, sentence: str
):
    workdir = tmp_path / "run"
    flags = ("--distributed", *flags)
    processes.append(start(environment | variables, workdir, phantom, *flags))
    ((status, _, errors),) = finish(processes)
    assert status == 1
    assert errors.startswith("flaxflair: ")
    assert sentence in errors
    assert errors.count("\n") == 1
    assert not workdir.exists()
