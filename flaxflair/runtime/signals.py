"""Deferred signals: SIGTERM and SIGINT are recorded, and handled once the state is saved.

A terminal sends SIGINT, and some schedulers SIGTERM, to every process of a command; only the first
process handles them, and ends the others.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import NamedTuple

ENDING = (signal.SIGTERM, signal.SIGINT)


class Wish(NamedTuple):
    """What a process wishes after a step of a training.

    Attributes:
      save: whether the state is saved.
      number: number of a signal, after which the training ends; None for none.
    """

    save: bool
    number: int | None


# Wish of this process -> wish on which it acts. Processes that compute together must all wish after
# the same step, and get the same answer.
Agree = Callable[[Wish], Wish]


def wish_alone(wish: Wish) -> Wish:
    """Returns its argument: a process without others acts on its own wishes."""
    return wish


class Interrupted(Exception):
    """A run was interrupted by a signal and has saved its state.

    Attributes:
      number: number of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message, number)
        self.number = number

    def __str__(self) -> str:
        return self.args[0]


@contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Defers SIGTERM and SIGINT within a block.

    Yields:
      A function that returns the number of the first signal received, or None. Outside the main
      thread, where Python allows no signal handlers, it always returns None.
    """
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    previous = {number: signal.signal(number, record) for number in ENDING}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def shielded(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Blocks signals for good in processes that are started within a block.

    They inherit it, so that no signal reaches them before their first line. This process receives
    after the block what was sent to it within.

    Args:
      numbers: signals to block.
    """
    resource_tracker.ensure_running()  # its start would unblock them
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
