"""Workers: calls side by side, each in a process with cores of its own. Knows nothing of studies.

A step on a small window leaves most of a second core unused, and where a host takes one core away
for a moment the other waits for it. Two processes of one core each get through twice as many.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue

from flaxflair.signals import Interrupted, deferred

_LOOK_SECONDS = 0.5  # how often a request to end is looked for


def split_cores(parts: int) -> list[set[int]]:
    """Returns the cores that this process may use, dealt out evenly; parts may share a core."""
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[part::parts]) or {cores[part % len(cores)]} for part in range(parts)]


def run_side_by_side(
    calls: Mapping[str, Callable[[], object]],
    jobs: int,
    on_done: Callable[[str, float], None] = lambda name, seconds: None,
) -> None:
    """Calls functions of a module, with their arguments bound, each in one of a few processes.

    Args:
      calls: name -> what to call; what it returns is dropped. Started in this order.
      jobs: processes.
      on_done: told a name and the seconds its call took, in the order in which they end.

    Raises:
      Interrupted: SIGTERM or SIGINT came; every process was asked to end by SIGTERM, and did.
      Exception: the first that a call raised; the others were asked to end, and did.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share XLA's threads
    cores = context.SimpleQueue()
    for own in split_cores(jobs):
        cores.put(own)
    with (
        deferred() as signalled,
        ProcessPoolExecutor(jobs, context, initializer=_settle, initargs=(cores,)) as pool,
    ):
        names: dict[Future[float], str] = {
            pool.submit(_clock, call): name for name, call in calls.items()
        }
        try:
            while names:
                done, _ = wait(names, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                if (asked := signalled()) is not None:
                    raise Interrupted(f"{len(names)} to do", asked)
                for future in done:
                    on_done(names.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end(multiprocessing.active_children())
            raise


def _end(processes: Sequence[BaseProcess]) -> None:
    """Asks processes to end until all have: one that has saved may have begun another call."""
    while running := [process for process in processes if process.is_alive()]:
        for process in running:
            process.terminate()
        wait_for([process.sentinel for process in running], timeout=_LOOK_SECONDS)


def _settle(cores: SimpleQueue[set[int]]) -> None:
    """Gives a process its cores, before any library asks how many there are."""
    os.sched_setaffinity(0, cores.get())


def _clock(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started
