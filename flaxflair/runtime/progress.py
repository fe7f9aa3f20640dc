"""Progress bar for people and event log for programs. Independent of networks and images."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flaxflair.core.atomic_files import WriteError


class EventLog:
    """`log.jsonl`: one JSON line per event, appended and flushed immediately; None for no log."""

    def __init__(self, path: Path | None):
        self._path = path

    def write(self, event: str, **values: object) -> None:
        """Appends one event with its time in UTC.

        Raises:
          WriteError: the disk is full or the file read-only; the line is not begun.
        """
        if self._path is None:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = (json.dumps({"time": stamp, "event": event, **values}) + "\n").encode()
        try:
            with open(self._path, "ab", buffering=0) as stream:
                size = stream.tell()
                if stream.write(line) != len(line):
                    stream.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise WriteError(
                f"{self._path}: cannot be written ({error.strerror}); free space there or name "
                "another folder"
            ) from None


class Bar:
    """Progress bar of one fit: steps done, loss, monitored error, time left."""

    def __init__(self, progress: Progress, title: str, total: int | None, done: int):
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, note="")
        self._note = ""

    def advance(self, done: int, total: int | None = None) -> None:
        """Sets the number of steps done, and the total if it was unknown before."""
        self._progress.update(self._task, completed=done, total=total, note=self._note)

    def note(self, epoch: int, loss: float, error: float | None) -> None:
        """Shows the loss and the error after an epoch; an error of None keeps the previous one."""
        monitored = "" if error is None else f"  held-out {error:.4f}"
        if error is None and "held-out" in self._note:
            monitored = "  held-out" + self._note.split("held-out")[1]
        self._note = f"epoch {epoch}  loss {loss:.4f}{monitored}"


@contextmanager
def show_bar(console: Console, title: str, total: int | None, done: int) -> Iterator[Bar]:
    """Shows a bar until the block ends; on a pipe, only its final state."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        yield Bar(progress, title, total, done)


def format_seconds(seconds: float) -> str:
    """Formats a duration: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
