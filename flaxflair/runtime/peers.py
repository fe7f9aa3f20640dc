"""Processes that share a folder: each tells the others its progress, a signal, and its end.

Each writes one small file again and again. A process whose file stays as it is has died. Works on
any file system that the processes share, without locks and ports. Independent of what is computed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flaxflair.core.atomic_files import write_json
from flaxflair.runtime.processes import Processes
from flaxflair.runtime.signals import Agree, Interrupted, Wish

BEAT_SECONDS = 1.0  # between two writes of a process
LOST_SECONDS = 20.0  # without a new one, after which a process counts as dead
START_SECONDS = 600.0  # without the first: a process may first simulate the phantom
POLL_SECONDS = 0.2
_RESUME = "the same command resumes from the last checkpoints"

Facts = dict[str, Any]


class Peers(NamedTuple):
    """What the processes tell each other.

    Attributes:
      tell: adds facts to those that this process tells; they reach the others within seconds.
      ask: index of a process -> the facts that it told last; empty before its first.
      agree: see `signals.Agree`: a signal to any process becomes the wish of all.
    """

    tell: Callable[[Facts], None]
    ask: Callable[[int], Facts]
    agree: Agree


@contextmanager
def watch_peers(folder: Path, processes: Processes) -> Iterator[Peers]:
    """Tells the other processes of this one, and ends it if one of them dies or fails.

    The first process reads the files of all, and the others its own, so that it passes on what one
    of them tells. A process that ends by an exception takes the others with it: after a signal they
    act on the signal, and otherwise they exit with one sentence and status 1.

    Args:
      folder: folder that all of them write to, created if missing.
      processes: this process among the others.

    Yields:
      See `Peers`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine: Facts = {"beat": 0, "state": "works"}
    heard: dict[int, Facts] = {}
    lock, ended = threading.Lock(), threading.Event()

    def tell(facts: Facts) -> None:
        with lock:
            mine.update(facts, beat=mine["beat"] + 1)
            write_json(_path(folder, processes, processes.index), mine)

    def agree(wish: Wish) -> Wish:
        told = [mine.get("signal"), wish.number, *(f.get("signal") for f in list(heard.values()))]
        number = next((number for number in told if number), None)
        if number and "signal" not in mine:
            tell({"signal": number})
        return Wish(wish.save, number)

    peers = Peers(tell, lambda index: heard.get(index, {}), agree)
    tell({})
    thread = threading.Thread(
        target=_watch, args=(folder, processes, peers, heard, ended), daemon=True
    )
    thread.start()
    last: Facts = {"state": "failed"}
    try:
        yield peers
        last = {"state": "ended"}
    except Interrupted as reason:
        last = {"state": "ended", "signal": reason.number}
        raise
    finally:
        ended.set()
        thread.join()
        tell(last)


def _watch(
    folder: Path,
    processes: Processes,
    peers: Peers,
    heard: dict[int, Facts],
    ended: threading.Event,
) -> None:
    """Tells that this process lives, and reads what the others tell, until `ended`."""
    others = range(1, processes.count) if processes.is_first else range(1)
    changed = dict.fromkeys(others, time.monotonic())
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a full disk ends the main thread
            peers.tell({})
            peers.agree(Wish(False, None))
        for index in others:
            facts = _read(_path(folder, processes, index))
            if facts and facts != heard.get(index):
                heard[index], changed[index] = facts, time.monotonic()
            if reason := _find_end(heard.get(index), time.monotonic() - changed[index]):
                _exit(f"process {index} of {processes.count} {reason}", peers)


def _exit(sentence: str, peers: Peers) -> None:
    """Ends this process, whose main thread may be inside a call that takes hours."""
    with contextlib.suppress(OSError):
        peers.tell({"state": "failed"})
    print(f"flaxflair: {sentence}; {_RESUME}", file=sys.stderr, flush=True)
    os._exit(1)


def wait_for(
    peers: Peers, ready: Callable[[], bool], signalled: Callable[[], int | None], what: str
) -> None:
    """Waits for something that other processes do.

    Args:
      peers: from `watch_peers`, which ends this process if one of the others dies.
      ready: whether it is done.
      signalled: number of a signal received, or None.
      what: what is waited for, for the message.

    Raises:
      Interrupted: this or another process received a signal.
    """
    while True:
        # Asked first: a process that a signal has ended is no process that has done its work.
        if number := peers.agree(Wish(False, signalled())).number:
            raise Interrupted(f"while waiting for {what}", number)
        if ready():
            return
        time.sleep(POLL_SECONDS)


def _path(folder: Path, processes: Processes, index: int) -> Path:
    return folder / f"{processes.token}-{index}.json"


def remove_earlier(folder: Path, processes: Processes) -> None:
    """Removes the files of earlier starts."""
    for path in folder.iterdir():
        if not path.name.lstrip(".").startswith(processes.token):
            path.unlink(missing_ok=True)


def _find_end(facts: Facts | None, silent: float) -> str | None:
    """Returns why a process counts as dead, or None.

    Args:
      facts: what it told last; None if nothing yet.
      silent: seconds since then, or since the start.
    """
    if facts is None:
        return "has not started" if silent > START_SECONDS else None
    if facts["state"] == "failed":
        return "has failed, or lost another"
    if facts["state"] == "works" and silent > LOST_SECONDS:
        return f"has given no sign of life for {silent:.0f} s"
    return None


def _read(path: Path) -> Facts:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet; a dead process is noticed by its silence
        return {}
