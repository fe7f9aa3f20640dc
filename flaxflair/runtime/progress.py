"""Screen and journal: what a run tells a person, and what it leaves for programs.

Knows nothing of networks or images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Journal:
    """`log.jsonl`: one JSON line an event, appended and flushed at once."""

    def __init__(self, path: Path):
        self._path = path

    def write(self, event: str, **values: object) -> None:
        """Appends one event with the time of day in UTC."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": stamp, "event": event, **values}) + "\n")


class Bar:
    """A progress bar of one fit: steps done, loss, watched error, time left."""

    def __init__(self, progress: Progress, title: str, total: int | None, done: int):
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, note="")
        self._note = ""

    def advance(self, done: int, total: int | None = None) -> None:
        """Moves the bar to a number of steps, of a total if that is known only now."""
        self._progress.update(self._task, completed=done, total=total, note=self._note)

    def note(self, epoch: int, loss: float, error: float | None) -> None:
        """Shows what an epoch ended with; an error of None leaves the last one standing."""
        watched = "" if error is None else f"  held-out {error:.4f}"
        if error is None and "held-out" in self._note:
            watched = "  held-out" + self._note.split("held-out")[1]
        self._note = f"epoch {epoch}  loss {loss:.4f}{watched}"


@contextmanager
def show_bar(console: Console, title: str, total: int | None, done: int) -> Iterator[Bar]:
    """Shows a bar until the block ends. On a pipe, where a bar is noise, only its last state."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        yield Bar(progress, title, total, done)


def say_seconds(seconds: float) -> str:
    """Returns a length of time in words: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
