"""Sessions of a data set passed through stages, with a report of results and failures.

Independent of what the stages do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flaxflair.core.atomic_files import describe_error
from flaxflair.core.records import InputError
from flaxflair.runtime.stages import Stage, run_stages

_T = TypeVar("_T")


class Named(Protocol):
    """An item with a name, such as a session (`sub-01_ses-1`)."""

    @property
    def name(self) -> str:
        """Name, unique in the data set."""
        ...


@dataclass(frozen=True)
class Finished:
    """Result of the last stage for one session.

    Attributes:
      path: file that was written.
      warnings: reasons to inspect the result before use.
    """

    path: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Results and failures of the sessions of a data set.

    Attributes:
      written: session (`sub-01_ses-1`) -> file that was written.
      failures: session -> reason of the failure, one sentence.
      warnings: session -> warnings, for sessions that have any.
      busy: stage -> working seconds, summed over sessions and workers.
      seconds: wall time from the first file read to the last one written.
      kept: sessions of `written` that were complete before this run.
    """

    written: Mapping[str, Path]
    failures: Mapping[str, str]
    warnings: Mapping[str, tuple[str, ...]]
    busy: Mapping[str, float]
    seconds: float
    kept: tuple[str, ...] = ()


def expect_workers(workers: int) -> None:
    """Checks the number of workers before anything is written.

    Raises:
      InputError: there is less than one worker.
    """
    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")


def run_sessions(
    found: Sequence[Named],
    stages: Sequence[Stage],
    on_done: Callable[[int, int], None] = lambda done, total: None,
    *,
    on_finished: Callable[[Any, Finished], None] = lambda item, made: None,
) -> Report:
    """Passes sessions through stages; a session that fails is reported, and the others continue.

    Args:
      found: the sessions.
      stages: from an item of `found` to `Finished`.
      on_done: called with the number of sessions done and the total, first with zero done.
      on_finished: called with each item and its result; an exception counts as its failure.
    """
    written: dict[str, Path] = {}
    failures: dict[str, str] = {}
    warnings: dict[str, tuple[str, ...]] = {}
    busy = dict.fromkeys((stage.name for stage in stages), 0.0)
    on_done(0, len(found))
    started = time.perf_counter()
    with closing(run_stages(found, stages)) as outcomes:
        for outcome in outcomes:
            name = outcome.item.name
            error = outcome.error
            if error is None:
                try:
                    on_finished(outcome.item, outcome.value)
                except Exception as failure:
                    error = failure
            if error is None:
                written[name] = outcome.value.path
                warnings |= {name: outcome.value.warnings} if outcome.value.warnings else {}
            else:
                # The message only: a traceback would keep the session's images in memory.
                failures[name] = _message(error)
            for stage, seconds in outcome.seconds.items():
                busy[stage] += seconds
            on_done(len(written) + len(failures), len(found))
    seconds = time.perf_counter() - started
    return Report(_sort(written), _sort(failures), _sort(warnings), busy, seconds)


def _sort(table: Mapping[str, _T]) -> dict[str, _T]:
    return dict(sorted(table.items()))


def _message(error: BaseException) -> str:
    message = describe_error(error) if isinstance(error, OSError) else str(error)
    first = (message.splitlines() or [""])[0]
    return first if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {first}"
