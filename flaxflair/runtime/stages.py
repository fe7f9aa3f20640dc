"""Stages: items pass through functions that overlap in time. Knows nothing of images or models."""

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
    """One step of the way.

    Attributes:
      name: for people, and the key of `Outcome.seconds`.
      function: takes what the stage before it returned; the first takes the item.
      workers: how many items it works on at once, a thread each.
    """

    name: str
    function: Callable[[Any], Any]
    workers: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Attributes:
      index: of the item, from 0.
      item: as it was given.
      value: what the last stage returned; None after an error.
      error: what a stage raised, which ends this item and no other.
      seconds: stage -> how long it worked on this item.
    """

    index: int
    item: Any
    value: Any = None
    error: BaseException | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def run_stages(
    items: Iterable[Any], stages: Sequence[Stage], *, in_flight: int | None = None
) -> Generator[Outcome, None, None]:
    """Passes items through stages, all stages at work at once, each on items of its own.

    The rate is so that of the slowest stage. Items are drawn when there is room for them, so that
    memory is bounded by `in_flight` of them however many come. Threads pay where functions leave
    the interpreter's lock: files, gzip, numpy, devices.

    Args:
      items: any number, even without end.
      stages: in their order.
      in_flight: how many items may be under way, those not yet yielded included; by default one
        more than there are workers, so that none starves.

    Yields:
      Outcomes as items finish; `index` tells their order. Closing the generator, or Ctrl-C, ends
      the threads after what they are at. Wrap it in `contextlib.closing`: a loop that raises would
      leave it open.
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
        except BaseException as raised:  # lost in this thread, the item would be waited for forever
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
                raise outcome.error  # KeyboardInterrupt, SystemExit: meant for the whole
            yield outcome
            under_way -= 1
            del outcome
    finally:
        ending.set()
        # In this order, no stage hands an item to one that takes no more.
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
