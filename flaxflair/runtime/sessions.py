"""Sessions: those of a data set on their way through stages, and what became of each.

Knows nothing of what the stages do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flaxflair.cohort import SessionFiles
from flaxflair.stages import Stage, run_stages
from flaxflair.volume import InputError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Finished:
    """One session, done: what the last stage returns.

    Attributes:
      path: what was written.
      warnings: what should be looked at before it is trusted.
    """

    path: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What became of a data set.

    Attributes:
      written: session (`sub-01_ses-1`) -> what was written of it.
      failures: session -> the sentence that says why there is nothing.
      warnings: session -> what should be looked at, if there is something.
      busy: stage -> seconds that it worked, over all sessions and workers.
      seconds: from the first file read to the last one written.
    """

    written: Mapping[str, Path]
    failures: Mapping[str, str]
    warnings: Mapping[str, tuple[str, ...]]
    busy: Mapping[str, float]
    seconds: float


def expect_workers(workers: int) -> None:
    """Refuses to do nothing, before anything is written.

    Raises:
      InputError: there are no workers.
    """
    if workers < 1:
        raise InputError(f"{workers} workers do no work; give at least 1")


def run_sessions(
    found: Sequence[SessionFiles],
    stages: Sequence[Stage],
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Passes sessions through stages. One that cannot be used is reported, and the others go on.

    Args:
      found: the sessions.
      stages: from `SessionFiles` to `Finished`.
      on_done: told how many sessions are done and how many there are: first that it is none.
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
            if outcome.error is None:
                written[name] = outcome.value.path
                warnings |= {name: outcome.value.warnings} if outcome.value.warnings else {}
            else:
                # The sentence alone: a traceback would keep the session's images in memory.
                failures[name] = _sentence(outcome.error)
            for stage, seconds in outcome.seconds.items():
                busy[stage] += seconds
            on_done(len(written) + len(failures), len(found))
    seconds = time.perf_counter() - started
    return Report(_by_name(written), _by_name(failures), _by_name(warnings), busy, seconds)


def _by_name(table: Mapping[str, _T]) -> dict[str, _T]:
    return dict(sorted(table.items()))


def _sentence(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {first}"
