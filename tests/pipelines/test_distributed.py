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

from flaxflair.core.records import InputError
from flaxflair.models.estimators import FittedNetwork
from flaxflair.runtime.error_filter import LOST
from flaxflair.runtime.processes import read_environment
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
peers.LOST_SECONDS = 3.0
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


def test_a_signal_to_one_process_saves_the_folds_of_both(
    environment, phantom: Path, tmp_path: Path, processes
):
    endless = ("--config.train.epochs=100000", SAVE_ALWAYS)
    processes += start_together(environment, 2, tmp_path, phantom, *endless)
    for name in ("log.jsonl", "log-1.jsonl"):
        wait_for_saves(tmp_path, name, processes)
    processes[1].send_signal(signal.SIGTERM)
    first, second = finish(processes)
    assert (first[0], second[0]) == (128 + signal.SIGTERM,) * 2
    assert "interrupted: saved after step" in first[1]
    assert first[2] + second[1] + second[2] == ""


# --- one fold on all devices ---------------------------------------------------------------------

TWO_PARTS = (
    *("--config.train.batch=2", "--config.mesh.data=2", "--folds=1"),
    *("--config.normalization.method=brain", "--config.normalization.statistics=all"),
)
MESHES = {2: TWO_PARTS, 4: (*TWO_PARTS, "--config.mesh.space=2")}


def assert_same_run(workdir: Path, other: Path) -> None:
    """Checks parameters to 1e-5 and scores of fold 1."""
    difference = np.abs(parameters(workdir, 1) - parameters(other, 1))
    assert difference.max() < 1e-5
    for name, metrics in scores(other).items():
        for metric, values in metrics.items():
            assert scores(workdir)[name][metric]["mean"] == pytest.approx(values["mean"], rel=1e-4)


@pytest.fixture(scope="module")
def meshed(
    environment: dict[str, str], phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run by one process of two devices."""
    workdir = tmp_path_factory.mktemp("meshed")
    count = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    started = start(environment | count, workdir, phantom, *MESHES[2])
    ((status, _, errors),) = finish([started])
    assert status == 0, errors
    return workdir


def assert_trained_alike(
    environment: dict[str, str], count: int, workdir: Path, phantom: Path, reference: Path
) -> list[Process]:
    started = start_together(environment, count, workdir, phantom, *MESHES[count])
    ended = finish(started)
    assert [status for status, _, _ in ended] == [0] * count, ended
    assert [output for _, output, _ in ended[1:]] == [""] * (count - 1)
    assert_same_run(workdir, reference)
    images = "derivative/sub-*/anat/*_FLAIR.nii.gz"
    names = [[p.name for p in sorted(place.glob(images))] for place in (workdir, reference)]
    assert names[0] == names[1] != []
    return started


def test_two_processes_of_a_device_train_as_one_process_of_two_devices(
    environment, phantom: Path, meshed: Path, tmp_path: Path, processes
):
    processes += assert_trained_alike(environment, 2, tmp_path, phantom, meshed)


def test_four_processes_train_in_slabs_as_one_process_of_whole_volumes(
    environment, phantom: Path, meshed: Path, tmp_path: Path, processes
):
    processes += assert_trained_alike(environment, 4, tmp_path, phantom, meshed)


def test_a_killed_process_of_a_mesh_ends_the_other_and_the_same_command_resumes(
    environment, phantom: Path, meshed: Path, tmp_path: Path, processes
):
    flags = (*MESHES[2], SAVE_ALWAYS)
    processes += start_together(environment, 2, tmp_path, phantom, *flags)
    wait_for_saves(tmp_path, "log.jsonl", processes)
    processes[1].kill()
    first, _ = finish(processes)
    assert first[0] not in (0, None)
    assert first[2] == f"flaxflair: {LOST}\n"
    processes += start_together(environment, 2, tmp_path, phantom, *flags)
    assert [status for status, _, _ in finish(processes[2:])] == [0, 0]
    assert any(event["event"] == "resumed" for event in events(tmp_path))
    assert_same_run(tmp_path, meshed)


def test_a_signal_to_one_process_of_a_mesh_saves_and_ends_all(
    environment, phantom: Path, tmp_path: Path, processes
):
    endless = ("--config.train.epochs=100000", *MESHES[2], "--config.save_every_seconds=0.5")
    processes += start_together(environment, 2, tmp_path, phantom, *endless)
    wait_for_saves(tmp_path, "log.jsonl", processes)
    processes[1].send_signal(signal.SIGTERM)
    first, second = finish(processes)
    assert (first[0], second[0]) == (128 + signal.SIGTERM,) * 2, first[2] + second[2]
    assert "interrupted: saved after step" in first[1]
    assert first[2] + second[1] + second[2] == ""


# --- refused -------------------------------------------------------------------------------------


def refusal(environment: dict[str, str], *flags: str) -> str:
    """Returns the one sentence with which the command ends."""
    result = subprocess.run(
        [sys.executable, "-m", "flaxflair.main", "--distributed", *flags],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("flaxflair: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_process_without_others_is_refused(environment, tmp_path: Path):
    workdir = tmp_path / "run"
    error = refusal(environment, FLAGS[0], f"--workdir={workdir}")
    assert "the other processes are not found (coordinator_address should be defined)" in error
    assert "set JAX_COORDINATOR_ADDRESS (HOST:PORT of the first process), JAX_NUM_PROC" in error
    assert not workdir.exists()


def test_a_universal_model_is_refused_before_processes_are_joined(environment):
    error = refusal(environment, "--config=configs/universal.py")
    assert "a universal model is trained by one process; omit the flag" in error


@pytest.mark.parametrize(
    ("count", "index", "sentence"),
    [(None, "a", "JAX_PROCESS_ID is 'a'; it must be a number"), ("2", "2", "give 0 to 1")],
)
def test_unusable_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, count: str | None, index: str, sentence: str
):
    monkeypatch.setenv("JAX_PROCESS_ID", index)
    if count is not None:
        monkeypatch.setenv("JAX_NUM_PROCESSES", count)
    with pytest.raises(InputError, match=sentence):
        read_environment()
