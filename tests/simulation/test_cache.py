"""Cache of the phantom: concurrent and killed processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from flaxflair.config import PhantomConfig
from flaxflair.core import locks
from flaxflair.core.records import InputError
from flaxflair.simulation import cache, dataset
from flaxflair.simulation.cache import open_phantom
from flaxflair.simulation.phantom import write_phantom

CONFIG = PhantomConfig(subjects=2, healthy=1, scale=0.05)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flaxflair"


def _open(made: Any, results: Any) -> None:
    write = dataset.write_dataset

    def count(*arguments: Any, **options: Any) -> None:
        made.put(os.getpid())
        write(*arguments, **options)

    cache.write_dataset = count  # pyright: ignore
    root = open_phantom(CONFIG)
    results.put(sorted(path.name for path in root.iterdir()))


def test_concurrent_processes_create_one_phantom(home: Path):
    context = multiprocessing.get_context("spawn")
    made, results = context.Queue(), context.Queue()
    processes = [context.Process(target=_open, args=(made, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=240) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert found[0] == found[1] == found[2]
    assert "participants.tsv" in found[0]
    made.get(timeout=10)
    assert made.empty()
    assert len(list(home.iterdir())) == 1


def test_phantom_is_complete_without_locks(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "_take", lambda path, *_: (os.open(path, os.O_CREAT), False))
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers
    write = dataset.write_dataset

    def lose(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)  # what another process does meanwhile
        write(*arguments, **options)

    monkeypatch.setattr(cache, "write_dataset", lose)
    root = open_phantom(CONFIG)
    assert (root / "participants.tsv").is_file()
    assert list(home.glob(".*.part")) == []


def _die(out: Path, ready: Any) -> None:
    write_phantom(
        out, subjects=2, healthy=0, scale=0.05, on_subject=lambda _: ready.set() or hang()
    )


def hang() -> None:
    multiprocessing.Event().wait(60)


def test_partial_phantom_is_removed_and_second_process_is_refused(home: Path):
    context = multiprocessing.get_context("spawn")
    ready, out = context.Event(), home / "out"
    process = context.Process(target=_die, args=(out, ready))
    process.start()
    assert ready.wait(240)
    with pytest.raises(InputError, match=rf"out: in use by process {process.pid} on"):
        write_phantom(out, subjects=2, healthy=0, scale=0.05)
    process.kill()
    process.join()
    assert len(list(home.glob(".out.*.part"))) == 1
    write_phantom(out, subjects=2, healthy=0, scale=0.05)
    assert [path.name for path in home.iterdir()] == ["out"]
