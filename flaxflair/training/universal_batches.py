"""Batches of simulated and real windows, prepared by worker processes during training.

The batch of a step depends only on seed and step, not on the number of processes, so a resumed
training is identical to an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from flaxflair.core.records import InputError
from flaxflair.runtime.signals import ENDING, shielded
from flaxflair.simulation.generator.anatomies import Library
from flaxflair.simulation.generator.generator import Example, sample
from flaxflair.simulation.generator.ranges import Ranges
from flaxflair.simulation.generator.storage import open_library
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.real_windows import RealSession, draw_window, open_session

_QUEUE_LENGTH = 4  # batches that each process prepares in advance
_POLL_SECONDS = 1.0  # interval between checks that the processes are alive


@dataclass(frozen=True)
class Source:
    """Data and parameters of the batches of a training.

    Attributes:
      library: folder written by `storage.save_library`; None without simulated windows.
      seed: seed of all batches.
      window: voxels along each edge.
      anatomies: anatomies per batch.
      contrasts: examples of each anatomy.
      sessions: folders written by `real_windows.save_session`.
      real: windows of real sessions per batch.
    """

    library: Path | None
    seed: int
    window: int
    anatomies: int
    contrasts: int
    sessions: tuple[Path, ...] = ()
    real: int = 0


def make_batch(
    library: Library | None, sessions: Sequence[RealSession], source: Source, step: int
) -> SynthesisBatch:
    """Returns the batch of a step: simulated windows, then real ones.

    Args:
      library: anatomies and lesions to simulate from; None if `source.anatomies` is 0.
      sessions: real sessions to cut windows from; may be empty if `source.real` is 0.
      source: parameters of the batches.
      step: number of the batch.
    """
    edge, count = source.window, source.contrasts
    examples: list[Example] = []
    for number in range(source.anatomies):
        assert library is not None
        seed = (source.seed, step, number)
        examples += sample(library, Ranges(), seed, shape=(edge, edge, edge), count=count)
    simulated = len(examples)
    observed = [np.stack([np.eye(edge, dtype=np.float32)] * 3)] * simulated
    segmented = [1.0] * simulated
    for number in range(source.real):
        rng = np.random.default_rng((source.seed, step, source.anatomies + number))
        session = sessions[int(rng.integers(len(sessions)))]
        example, observe = draw_window(rng, session, Ranges().scanner, edge)
        examples.append(example)
        observed.append(observe)
        segmented.append(float(session.segmented))
    images, condition, flair, lesion, _, weight = map(np.stack, zip(*examples, strict=True))
    return SynthesisBatch(
        images,
        condition,
        flair,
        lesion,
        weight,
        measured=np.array([0] * simulated + [1] * source.real, np.float32),
        segmented=np.array(segmented, np.float32),
        observe=np.stack(observed),
    )


@contextmanager
def simulate_ahead(source: Source, first: int, workers: int) -> Iterator[Iterator[SynthesisBatch]]:
    """Runs processes that prepare the batches of steps `first`, `first + 1`, ... within a block.

    Args:
      source: data and parameters of the batches.
      first: step of the first batch.
      workers: number of processes; 0 to prepare each batch in this one when it is needed.

    Yields:
      An infinite iterator of the batches in order.
    """
    if workers == 0:
        library, sessions = _open(source)
        yield (make_batch(library, sessions, source, step) for step in itertools.count(first))
        return
    context = multiprocessing.get_context("spawn")  # a fork would share XLA's threads
    queues = [context.Queue(_QUEUE_LENGTH) for _ in range(workers)]
    processes = [
        context.Process(
            target=_produce, args=(source, first + k, workers, each, os.getpid()), daemon=True
        )
        for k, each in enumerate(queues)
    ]
    with shielded(ENDING):
        for process in processes:
            process.start()
    try:
        yield _round_robin(queues, processes)
    finally:
        for process in processes:
            process.kill()  # nothing of it is to be saved, and it ignores other signals
        for process in processes:
            process.join()


def _round_robin(queues: list[Queue], processes: Sequence[BaseProcess]) -> Iterator[SynthesisBatch]:
    while True:
        for each, process in zip(queues, processes, strict=True):
            yield _receive(each, process)


def _receive(batches: Queue, process: BaseProcess) -> SynthesisBatch:
    while True:
        try:
            return SynthesisBatch(*batches.get(timeout=_POLL_SECONDS))
        except queue.Empty:
            if not process.is_alive():
                raise InputError(
                    "a process that simulates windows ended (out of memory?); the same command "
                    "resumes from the last checkpoint; --config.train.workers=1 needs least memory"
                ) from None


def _produce(source: Source, first: int, stride: int, batches: Queue, parent: int) -> None:
    """Prepares every `stride`-th batch from `first` on, until the process is ended."""
    (library, sessions), step = _open(source), first
    # The idle threads of BLAS would spin on the cores on which the network trains.
    with threadpool_limits(1):
        while os.getppid() == parent:
            batch = tuple(make_batch(library, sessions, source, step))
            # Not forever: nobody empties the queue of a parent that was killed.
            while os.getppid() == parent:
                with contextlib.suppress(queue.Full):
                    batches.put(batch, timeout=_POLL_SECONDS)
                    break
            step += stride
    batches.cancel_join_thread()


def _open(source: Source) -> tuple[Library | None, list[RealSession]]:
    library = None if source.library is None else open_library(source.library)
    return library, [open_session(folder) for folder in source.sessions]
