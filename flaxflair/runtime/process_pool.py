"""Parallel calls in a pool of processes with disjoint cores. Independent of the calls.

A step on a small window leaves most of a second core unused, and if the host preempts one core, the
other waits for it. Two processes of one core each have twice the throughput.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue

from flaxflair.runtime.signals import Interrupted, deferred, shielded

_POLL_SECONDS = 0.5  # interval between checks for a signal


def split_cores(parts: int) -> list[set[int]]:
    """Returns the available cores, distributed evenly over parts; parts may share a core."""
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[part::parts]) or {cores[part % len(cores)]} for part in range(parts)]


def run_in_parallel(
    calls: Mapping[str, Callable[[], object]],
    jobs: int,
    on_done: Callable[[str, float], None] = lambda name, seconds: None,
) -> None:
    """Calls picklable functions in a pool of processes.

    Args:
      calls: name -> function, whose result is discarded. Started in this order.
      jobs: number of processes.
      on_done: called with a name and the seconds of its call, in the order of completion.

    Raises:
      Interrupted: SIGTERM or SIGINT was received; every process was ended by SIGTERM.
      Exception: the first that a call raised; the other processes were ended by SIGTERM.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share XLA's threads
    cores = context.SimpleQueue()
    for part in split_cores(jobs):
        cores.put(part)
    with (
        deferred() as signalled,
        ProcessPoolExecutor(jobs, context, initializer=_pin_cores, initargs=(cores,)) as pool,
    ):
        with shielded({signal.SIGINT}):  # a process is ended by SIGTERM, on which it saves
            names: dict[Future[float], str] = {
                pool.submit(_measure_seconds, call): name for name, call in calls.items()
            }
        try:
            while names:
                done, _ = wait(names, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                if (number := signalled()) is not None:
                    raise Interrupted(f"{len(names)} to do", number)
                for future in done:
                    on_done(names.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _terminate(multiprocessing.active_children())
            raise


def _terminate(processes: Sequence[BaseProcess]) -> None:
    """Sends SIGTERM until all processes have ended: one that saved may have begun another call."""
    while running := [process for process in processes if process.is_alive()]:
        for process in running:
            process.terminate()
        wait_for([process.sentinel for process in running], timeout=_POLL_SECONDS)


def _pin_cores(cores: SimpleQueue[set[int]]) -> None:
    """Pins a process to its cores, before any library reads their number."""
    os.sched_setaffinity(0, cores.get())


def _measure_seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started
