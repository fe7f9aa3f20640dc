"""Signals that wait: a request to end is noted, and acted on where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A run was asked to end and has saved its state.

    Attributes:
      number: of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message, number)
        self.number = number

    def __str__(self) -> str:
        return self.args[0]


@contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Holds SIGTERM and SIGINT back within a block.

    Yields:
      A function that returns the number of the signal that came, or None. Outside the main thread,
      where Python lets nobody handle signals, it always returns None.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
