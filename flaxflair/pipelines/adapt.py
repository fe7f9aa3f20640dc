"""Adaptation of a universal model to own sessions that have a FLAIR.

The model is fine-tuned once without each participant, which gives the errors before and after, and
once on all; the weights written are an average of those before and after. An interrupted adaptation
resumes with the same command and ends with the same weights.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from flaxflair.config.adaptation import Adaptation, validate
from flaxflair.core.atomic_files import WriteError, expect_output, without_nan, write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.io.model_files import SUFFIX
from flaxflair.models import checkpoints
from flaxflair.models.saving import digest_model, export_model, load_model
from flaxflair.models.universal import UniversalModel
from flaxflair.networks.network import Params
from flaxflair.pipelines import adapt_scoring
from flaxflair.pipelines.adapt_sessions import (
    OwnSession,
    Selection,
    expect_window,
    find_own_sessions,
)
from flaxflair.pipelines.run_state import REMEDY, expect_outside, occupied
from flaxflair.pipelines.universal_fit import Plan, run_steps
from flaxflair.runtime.environment import describe_machine
from flaxflair.runtime.progress import Bar, EventLog, show_bar
from flaxflair.training.averaging import Errors, average, choose_share, errors_after
from flaxflair.training.divergence import expect_finite
from flaxflair.training.real_windows import open_session
from flaxflair.training.universal_batches import Source
from flaxflair.training.universal_step import (
    SynthesisState,
    SynthesisStep,
    init_synthesis,
    make_synthesis_optimizer,
    make_synthesis_step,
)

_REQUEST, _SCORES, _LAST = "request.json", "scores.json", "last"
_LEFT_OUT, _ALL = "left-out", "all"
_MANY = 20  # sessions, above which the time is pointed out
_REMEDY = "repeat the command with fewer --steps and another --workdir"
DEFAULT = Adaptation()


class Means(NamedTuple):
    """Mean errors of the participants that were left out; NaN without any.

    Attributes:
      before: of the model before.
      after: of the adapted model.
      least_squares: of least squares; NaN if that of a participant is.
    """

    before: float
    after: float
    least_squares: float


class Outcome(NamedTuple):
    """Result of an adaptation.

    Attributes:
      means: mean errors.
      left_out: participant -> errors of the fine-tuning without this participant; empty if there
        is one participant.
      after: participant -> error with the share of the fine-tuned weights that the others choose.
      share: share of the fine-tuned weights in the model.
      written: whether the model was written; it is not if its mean error is not below that before.
    """

    means: Means
    left_out: Mapping[str, Errors]
    after: Mapping[str, float]
    share: float
    written: bool


@dataclass(frozen=True)
class _Job:
    """What all fine-tunings of an adaptation have in common."""

    model: UniversalModel
    config: Adaptation
    edge: int
    workdir: Path
    optimizer: optax.GradientTransformation
    step: SynthesisStep
    event_log: EventLog


def adapt(
    selection: Selection,
    out: str | Path,
    console: Console,
    *,
    source: str | Path | None = None,
    config: Adaptation = DEFAULT,
    workdir: str | Path | None = None,
) -> Outcome:
    """Fine-tunes a universal model on own sessions, and writes it unless it is not better.

    Args:
      selection: sessions, raw or prepared.
      out: `.safetensors` to write; must not exist.
      console: output of progress.
      source: model before, see `load_model`; None for the model in the package.
      config: how the model is fine-tuned.
      workdir: folder of everything that is needed to resume; None for `OUT.work`, which is removed
        when the model has been written.

    Raises:
      InputError: the model is not universal, no session can be used, a folder is in use or holds
        another adaptation or training, or a fine-tuning has diverged.
      WriteError: `out` exists, or cannot be written.
      Interrupted: a signal was received; the state is saved.
    """
    out, validated = Path(out), validate(config)
    folder = out.with_name(f"{out.name}.work") if workdir is None else Path(workdir)
    expect_output(out, [None if source is None else Path(source)], (SUFFIX,))
    expect_outside(out, [selection.root], "--out")
    expect_outside(folder, [selection.root])
    if out.exists() and not (folder / _REQUEST).is_file():
        raise WriteError(f"{out}: exists; remove it, or name another file to write")
    if any((folder / name).exists() for name in ("folds.json", "config.json")):
        raise InputError(f"{folder}: holds a training of another kind; name another --workdir")
    model = load_model(source)
    if not isinstance(model, UniversalModel):
        raise InputError(f"{source}: is not a universal model; omit --model, or name one")
    with occupied(folder):
        outcome = _adapt(selection, out, console, model, validated, folder)
        if outcome.written and workdir is None:
            shutil.rmtree(folder)
    return outcome


def _adapt(
    selection: Selection,
    out: Path,
    console: Console,
    model: UniversalModel,
    config: Adaptation,
    workdir: Path,
) -> Outcome:
    request = _describe_request(selection, model, config)
    begun = _expect_request(workdir / _REQUEST, request)
    stride = model.network.stride
    edge = max(stride, config.window // stride * stride)
    sessions = find_own_sessions(selection, workdir, console, begun=begun)
    sessions = expect_window(sessions, edge, console)
    write_json(workdir / _REQUEST, request)
    job = _make_job(model, config, edge, workdir)
    participants = list(dict.fromkeys(each.files.participant for each in sessions))
    folds = participants if len(participants) > 1 else []
    _announce(len(sessions), participants, config, console)
    total = (len(folds) + 1) * config.steps
    left_out: dict[str, Errors] = {}
    with show_bar(console, "adapt", total, 0) as bar:
        for number, name in enumerate(folds):
            left_out[name] = _leave_out(job, name, sessions, bar, number * config.steps)
        after = dict(zip(left_out, errors_after(list(left_out.values())), strict=True))
        share = choose_share(list(left_out.values()))
        outcome = Outcome(_means(left_out, after), left_out, after, share, written=False)
        # Not `>=`: an undefined error is no improvement either.
        if folds and not outcome.means.after < outcome.means.before:
            return outcome
        tuned = _tune(job, workdir / _ALL, sessions, bar, len(folds) * config.steps)
    adapted = replace(model, params=average(model.params, tuned, share))
    facts = {
        "AdaptedFrom": digest_model(model),
        "AdaptedOn": _count(len(sessions), "session")
        + f" of {_count(len(participants), 'participant')}",
        "AdaptedSteps": config.steps,
        "AdaptedShare": share,
        "AdaptedError": _describe_error(outcome.means),
    }
    export_model(adapted, out, about=facts)
    job.event_log.write("written", path=str(out), share=share)
    return outcome._replace(written=True)


def _means(left_out: Mapping[str, Errors], after: Mapping[str, float]) -> Means:
    if not left_out:
        return Means(math.nan, math.nan, math.nan)
    rows = [(e.before, after[name], e.least_squares) for name, e in left_out.items()]
    return Means(*map(float, np.mean(rows, axis=0)))


def _describe_error(means: Means) -> str:
    """Returns a fact on the model, without the label of a participant."""
    if math.isnan(means.after):
        return "not measured, since there was one participant and nobody could be left out"
    linear = "undefined" if math.isnan(means.least_squares) else f"{means.least_squares:.4f}"
    return (
        f"NMSE fit of participants left out: {means.after:.4f}, before {means.before:.4f}, "
        f"least squares {linear}"
    )


def _make_job(model: UniversalModel, config: Adaptation, edge: int, workdir: Path) -> _Job:
    half = config.steps // 2
    optimizer = make_synthesis_optimizer(
        config.learning_rate,
        warmup=max(config.steps // 10, 1),
        cooldown=(config.steps - half, half),
        method=config.optimizer,
    )
    step = make_synthesis_step(model.network, optimizer)
    event_log = EventLog(workdir / "log.jsonl")
    event_log.write("started", machine=describe_machine())
    return _Job(model, config, edge, workdir, optimizer, step, event_log)


def _announce(
    sessions: int, participants: Sequence[str], config: Adaptation, console: Console
) -> None:
    count, steps = len(participants), config.steps
    if count == 1:
        console.print(
            f"{_count(sessions, 'session')} of one participant: one fine-tuning of {steps} steps. "
            "Nobody can be left out, so whether the model improves is not measured",
            soft_wrap=True,
        )
        return
    console.print(
        f"{sessions} sessions of {count} participants: {count + 1} fine-tunings of {steps} steps, "
        "one without each participant and one on all",
        soft_wrap=True,
    )
    if sessions > _MANY:
        console.print(
            f"The time grows with the participants, each of whom is left out once, and with the "
            f"{sessions} sessions, each of which is predicted; --participant-label selects fewer",
            soft_wrap=True,
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _leave_out(
    job: _Job, participant: str, sessions: Sequence[OwnSession], bar: Bar, done: int
) -> Errors:
    """Returns the errors of a participant, from a fine-tuning on the others."""
    folder = job.workdir / _LEFT_OUT / participant
    path = folder / _SCORES
    if path.is_file():
        bar.advance(done + job.config.steps)
        return _read_errors(path)
    others = [each for each in sessions if each.files.participant != participant]
    own = [each for each in sessions if each.files.participant == participant]
    tuned = _tune(job, folder, others, bar, done)
    real = [open_session(each.folder) for each in others]
    errors = adapt_scoring.mean_errors(
        [adapt_scoring.score_session(each.files, job.model, tuned, real) for each in own]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, adapt_scoring.to_json(errors))
    scores = without_nan(adapt_scoring.to_json(errors))
    job.event_log.write("scored", left_out=participant, **scores)
    return errors


def _read_errors(path: Path) -> Errors:
    try:
        return adapt_scoring.from_json(read_object(path, REMEDY))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: holds no scores; remove it, and it is made anew") from None


def _tune(job: _Job, folder: Path, sessions: Sequence[OwnSession], bar: Bar, done: int) -> Params:
    """Returns the fine-tuned parameters; saves checkpoints in `folder/last`."""
    config = job.config
    # Copied, since a step donates the buffers of its state.
    state = init_synthesis(jax.tree.map(jnp.copy, job.model.params), job.optimizer)
    state = checkpoints.load(folder / _LAST, state) or state
    bar.advance(done + int(state.step))

    def save(current: SynthesisState) -> None:
        expect_finite(current, f"{folder}: step {int(current.step)}", _REMEDY)
        checkpoints.save(folder / _LAST, int(current.step), current)
        job.event_log.write("saved", of=folder.name, step=int(current.step))

    if int(state.step) < config.steps:
        plan = Plan(
            config.steps,
            workers=0,  # cutting a window takes less time than starting a process
            save_every_seconds=config.save_every_seconds,
            save=save,
            where=str(folder),
            remedy=_REMEDY,
            advance=lambda step: bar.advance(done + step),
        )
        folders = tuple(each.folder for each in sessions)
        source = Source(None, config.seed, job.edge, 0, 1, folders, config.windows)
        state = run_steps(state, job.step, source, plan, job.event_log)
    return jax.tree.map(np.asarray, state.average)


def _describe_request(
    selection: Selection, model: UniversalModel, config: Adaptation
) -> dict[str, Any]:
    """Returns what the weights depend on, beside the files of the sessions."""
    chosen = {name: value for name, value in asdict(config).items() if name in _OF_WEIGHTS}
    options = selection.options
    prepared = None if options is None else {**asdict(options), "workers": 0}
    return {
        "data": str(selection.root.resolve()),
        "model": digest_model(model),
        **chosen,
        "preparation": prepared,
    }


_OF_WEIGHTS = ("steps", "windows", "window", "optimizer", "learning_rate", "seed")


def _expect_request(path: Path, request: Mapping[str, Any]) -> bool:
    """Returns whether a folder holds an adaptation, which has to be the one requested."""
    if not path.is_file():
        return False
    stored = read_object(path, REMEDY)
    for name, value in request.items():
        if stored.get(name) != value:
            raise InputError(
                f"{path.parent}: holds an adaptation that began with {name} {stored.get(name)}, "
                f"and {value} is requested; remove the folder, or name another --workdir"
            )
    return True
