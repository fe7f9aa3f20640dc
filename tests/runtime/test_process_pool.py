"""Parallel calls: cores, failures and signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from flaxflair.core.records import InputError
from flaxflair.runtime.process_pool import run_in_parallel, split_cores
from flaxflair.runtime.signals import Interrupted, deferred


def _write_cores(path: Path) -> None:
    path.write_text(",".join(map(str, sorted(os.sched_getaffinity(0)))))


def _refuse(path: Path) -> None:
    raise InputError(f"{path}: is not wanted")


def _wait_for_signal(path: Path) -> None:
    """Like a fit: works on until it is asked to end, and saves before it does."""
    with deferred() as signalled:
        path.with_suffix(".started").touch()
        for _ in range(600):
            if (number := signalled()) is not None:
                path.write_text("saved")
                raise Interrupted("saved", number)
            time.sleep(0.1)


def test_cores_are_distributed_and_shared_if_too_few():
    cores = os.sched_getaffinity(0)
    parts = split_cores(len(cores))
    assert set.union(*parts) == cores
    assert all(len(part) == 1 for part in parts)
    assert all(part <= cores and part for part in split_cores(2 * len(cores)))


def test_calls_run_on_the_cores_of_their_process(tmp_path: Path):
    done: list[str] = []
    calls = {name: partial(_write_cores, tmp_path / name) for name in ("a", "b", "c")}
    run_in_parallel(calls, 2, lambda name, seconds: done.append(name))
    assert sorted(done) == ["a", "b", "c"]
    allowed = [",".join(map(str, sorted(part))) for part in split_cores(2)]
    assert all((tmp_path / name).read_text() in allowed for name in calls)


def test_failure_is_raised_and_terminates_other_calls(tmp_path: Path):
    calls = {
        "waits": partial(_wait_for_signal, tmp_path / "waits"),
        "fails": partial(_refuse_after, tmp_path / "waits.started", tmp_path / "fails"),
    }
    with pytest.raises(InputError, match="is not wanted"):
        run_in_parallel(calls, 2)
    assert (tmp_path / "waits").read_text() == "saved"


def _refuse_after(started: Path, path: Path) -> None:
    while not started.is_file():
        time.sleep(0.05)
    _refuse(path)


def test_signal_reaches_every_process(tmp_path: Path):
    calls = {name: partial(_wait_for_signal, tmp_path / name) for name in ("a", "b", "never")}

    def ask() -> None:
        while not all((tmp_path / f"{name}.started").is_file() for name in ("a", "b")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted) as caught:
        run_in_parallel(calls, 2)
    asking.join()
    assert caught.value.number == signal.SIGTERM
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["saved", "saved"]
    assert not multiprocessing.active_children()
