"""Pipeline of stages that overlap in time. Independent of images and models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Attributes:
      name: name, and key of `Outcome.seconds`.
      function: maps the result of the previous stage, or the item, to its own result.
      workers: number of threads, each with one item at a time.
    """

    name: str
    function: Callable[[Any], Any]
    workers: int = 1


@dataclass(frozen=True)
class Outcome:
    """Result of one item.

    Attributes:
      index: index of the item, from 0.
      item: the item.
      value: result of the last stage; None after an error.
      error: exception of a stage, which ends this item only.
      seconds: stage -> its working time on this item.
    """

    index: int
    item: Any
    value: Any = None
    error: BaseException | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def run_stages(
    items: Iterable[Any], stages: Sequence[Stage], *, in_flight: int | None = None
) -> Generator[Outcome, None, None]:
    """Passes items through stages that run concurrently, each on different items.

    Throughput is that of the slowest stage. Items are drawn on demand, so memory is bounded by
    `in_flight` items. Threads help where functions release the interpreter's lock: files, gzip,
    numpy, devices.

    Args:
      items: any number, possibly infinite.
      stages: in order.
      in_flight: maximum number of items in progress, including those not yet yielded; by default
        one more than there are workers, so that no worker idles.

    Yields:
      Outcomes in order of completion, with their `index`. Closing the generator, or Ctrl-C, ends
      the threads after their current item. Wrap it in `contextlib.closing`: an exception in the
      loop would leave it open.
    """
    limit = in_flight or sum(stage.workers for stage in stages) + 1
    finished: SimpleQueue[Outcome] = SimpleQueue()
    ending = threading.Event()
    pools = [ThreadPoolExecutor(s.workers, thread_name_prefix=s.name) for s in stages]

    def advance(outcome: Outcome, at: int) -> None:
        value, error = None, None
        started = time.perf_counter()
        try:
            value = stages[at].function(outcome.value)
        except BaseException as raised:  # if lost in this thread, the caller would wait forever
            error = raised
        spent = {**outcome.seconds, stages[at].name: time.perf_counter() - started}
        outcome = replace(outcome, value=value, error=error, seconds=spent)
        if error is not None or at + 1 == len(stages):
            finished.put(outcome)
        elif not ending.is_set():
            pools[at + 1].submit(advance, outcome, at + 1)

    source = enumerate(items)
    under_way = 0
    try:
        while True:
            while under_way < limit and (drawn := next(source, None)) is not None:
                index, item = drawn
                pools[0].submit(advance, Outcome(index, item, item), 0)
                under_way += 1
            if not under_way:
                return
            outcome = finished.get()
            if not isinstance(outcome.error, Exception | None):
                raise outcome.error  # KeyboardInterrupt, SystemExit: end the whole pipeline
            yield outcome
            under_way -= 1
            del outcome
    finally:
        ending.set()
        # In stage order: no stage submits an item to a pool that is already shut down.
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
