"""Prediction of a whole data set: read, prepare, predict and finish overlap, session by session.

From a prepared BIDS data set to a BIDS derivative. Knows nothing of training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxflair import derivative
from flaxflair.cohort import find_sessions, load_session
from flaxflair.model import Model, decode, encode, predict_encoded
from flaxflair.stages import Stage, run_stages
from flaxflair.volume import Array, InputError, Subject


@dataclass(frozen=True)
class CohortReport:
    """What became of a data set.

    Attributes:
      written: session (`sub-01_ses-1`) -> its synthetic FLAIR.
      failures: session -> the sentence that says why it has none.
      busy: stage -> seconds that it worked, over all sessions and workers.
      seconds: from the first file read to the last one written.
    """

    written: Mapping[str, Path]
    failures: Mapping[str, str]
    busy: Mapping[str, float]
    seconds: float


def predict_cohort(
    model: Model,
    root: str | Path,
    out: str | Path,
    *,
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    voxels: int = 0,
    workers: int = 2,
    about: Mapping[str, Any] | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> CohortReport:
    """Synthesises the FLAIRs of a prepared data set and writes them as a BIDS derivative.

    A session that cannot be used is reported and the others go on. What `out` holds of a session is
    overwritten. Several processes may share `out`, as under a scheduler with a participant each.

    Args:
      model: from `load_model`.
      root: prepared BIDS data set.
      out: the derivative; made if missing.
      participants: labels, with or without `sub-`; None for all.
      sessions: labels, with or without `ses-`; None for all.
      voxels: see `predict_array`.
      workers: threads that read, as many that prepare, and as many that write. Memory holds about
        three sessions for each.
      about: what the sidecars say of the model, beside its network.
      on_done: told how many sessions are done and how many there are: first that it is none.

    Raises:
      InputError: `root` is no data set, has no such label, or is `out`; or `out` holds another data
        set.
    """
    root, out = Path(root), Path(out)
    if out.resolve() == root.resolve():
        raise InputError(f"{out}: is the data set itself; name another folder to write to")
    if workers < 1:
        raise InputError(f"{workers} workers do no work; give at least 1")
    found = find_sessions(
        root, model.sequences, flair="ignored", participants=participants, sessions=sessions
    )
    derivative.start(out, root)
    stages = make_stages(model, out, voxels=voxels, workers=workers, about=about)
    written: dict[str, Path] = {}
    failures: dict[str, str] = {}
    busy = dict.fromkeys((stage.name for stage in stages), 0.0)
    on_done(0, len(found))
    started = time.perf_counter()
    with closing(run_stages(found, stages)) as outcomes:
        for outcome in outcomes:
            if outcome.error is None:
                written[outcome.item.name] = outcome.value
            else:
                # The sentence alone: a traceback would keep the session's images in memory.
                failures[outcome.item.name] = _sentence(outcome.error)
            for name, seconds in outcome.seconds.items():
                busy[name] += seconds
            on_done(len(written) + len(failures), len(found))
    seconds = time.perf_counter() - started
    return CohortReport(
        dict(sorted(written.items())), dict(sorted(failures.items())), busy, seconds
    )


def make_stages(
    model: Model,
    out: Path,
    *,
    voxels: int = 0,
    workers: int = 2,
    about: Mapping[str, Any] | None = None,
) -> tuple[Stage, ...]:
    """Returns the stages from `SessionFiles` to the path of a FLAIR; see `predict_cohort`."""
    said = {"Method": model.fitted.name, **(about or {})}

    def prepare(subject: Subject) -> tuple[Subject, Array]:
        return subject, encode(model, subject.images, subject.masks.brain)

    def predict(prepared: tuple[Subject, Array]) -> tuple[Subject, Array]:
        subject, encoded = prepared
        brain = subject.masks.brain
        return subject, predict_encoded(model, [encoded], [brain], voxels=voxels)[0]

    def finish(predicted: tuple[Subject, Array]) -> Path:
        subject, flair = predicted
        flair = decode(model, flair, subject.images, subject.masks.brain)
        extracted = model.region == "brain"
        return derivative.write_flair(out, subject, flair, extracted=extracted, model=said)

    return (
        Stage("read", load_session, workers),
        Stage("prepare", prepare, workers),
        Stage("predict", predict),  # one at a time: it alone touches the device
        Stage("finish", finish, workers),
    )


def _sentence(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {first}"
