"""Event log, progress bar and deferred signals."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from flaxflair.core.atomic_files import WriteError
from flaxflair.runtime.progress import EventLog, format_seconds, show_bar
from flaxflair.runtime.signals import Interrupted, deferred
from tests.disks import no_room_beyond


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(4.4, "4 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h"), (181_440, "2.1 days")],
)
def test_durations_have_readable_units(seconds: float, expected: str):
    assert format_seconds(seconds) == expected


def test_event_log_appends_one_json_line_per_event(tmp_path: Path):
    for run in range(2):
        EventLog(tmp_path / "log.jsonl").write("epoch", run=run, loss=0.5)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == [0, 1]
    assert json.loads(lines[0])["event"] == "epoch"
    assert json.loads(lines[0])["time"].endswith("Z")


@pytest.mark.parametrize("size", [0, 30, 200])  # of the disk: no line, half a line, some lines
def test_a_full_disk_is_told_with_the_file_and_leaves_whole_lines(size: int, tmp_path: Path):
    log = EventLog(tmp_path / "log.jsonl")
    full = pytest.raises(WriteError, match=r"log\.jsonl: cannot be written \(.*\); free space")
    with no_room_beyond(size), full:
        for step in range(9):
            log.write("saved", step=step)
    log.write("saved", step=9)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(len(lines) - 1), 9]


def test_bar_on_a_pipe_shows_its_last_state():
    pipe = io.StringIO()
    with show_bar(Console(file=pipe, width=120), "fold 0", total=10, done=3) as bar:
        bar.note(1, 0.75, 0.5)
        bar.note(2, 0.25, None)
        bar.advance(10)
    lines = [line for line in pipe.getvalue().splitlines() if line.strip()]
    assert len(lines) == 1
    assert "fold 0" in lines[0]
    assert "epoch 2  loss 0.2500  held-out 0.5000" in lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_deferred_and_handler_restored(number: int):
    before = signal.getsignal(number)
    with deferred() as received:
        assert received() is None
        os.kill(os.getpid(), number)
        assert received() == number
    assert signal.getsignal(number) is before


def test_signals_are_not_deferred_outside_the_main_thread():
    seen: list[object] = []

    def work() -> None:
        with deferred() as received:
            seen.append(received())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_interruption_has_the_signal_number():
    assert Interrupted("saved", signal.SIGTERM).number == signal.SIGTERM
