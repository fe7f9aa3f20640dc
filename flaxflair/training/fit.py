"""Training of one fold: resumes from the last checkpoint, saves, logs, and can be interrupted.

Connects the pure functions of `step` to disk and screen. Independent of subjects and scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from flaxflair.config import Config
from flaxflair.models import checkpoints
from flaxflair.networks import Network
from flaxflair.networks.network import Params
from flaxflair.runtime.progress import EventLog, format_seconds, show_bar
from flaxflair.runtime.signals import Agree, Interrupted, Wish, wish_alone
from flaxflair.training.batches import (
    Draw,
    Example,
    Rows,
    cut_batch,
    edges_of,
    make_draws,
    stack_examples,
)
from flaxflair.training.divergence import expect_finite, lower_rate
from flaxflair.training.sharding import make_mesh, make_parallel_step
from flaxflair.training.step import (
    Advance,
    FitState,
    Plan,
    Progress,
    TrainEpoch,
    by_epoch,
    by_step,
    fit,
    init_fit,
    is_finished,
    make_optimizer,
    make_train_epoch,
    make_train_step,
)

# Steps that are timed, after the first, which compiles.
TIMED_STEPS = 3


class Engine(NamedTuple):
    """The compiled parts of a fit, shared by all folds so that they compile once.

    Attributes:
      optimizer: from `step.make_optimizer`.
      whole_epochs: whether an epoch is one call.
      drive: (examples, step -> draw) -> `Advance` for a fit on these examples.
    """

    optimizer: optax.GradientTransformation
    whole_epochs: bool
    drive: Callable[[Sequence[Example], Callable[[int], Draw]], Advance]


def make_engine(config: Config, build: Callable[..., Network], steps: int) -> Engine:
    """Returns the engine of one network and one configuration.

    Args:
      config: configuration of the run. `mesh` sets the devices of a step; `train.call` whether an
        epoch is one call.
      build: builder of the network, such as `partial(NETWORKS[name], channels, config)`.
      steps: length of the learning-rate schedule.

    Raises:
      InputError: the mesh size differs from the number of devices.
    """
    train, mesh = config.train, config.mesh
    optimizer = make_optimizer(train.optimizer, train.learning_rate, train.schedule, steps)
    forward = build().forward
    parallel = mesh.data * mesh.space > 1
    train_step = (
        make_parallel_step(build, optimizer, make_mesh(mesh.data, mesh.space))
        if parallel
        else make_train_step(forward, optimizer)
    )

    @cache
    def train_epoch_on(edges: tuple[int, int, int]) -> TrainEpoch:
        return make_train_epoch(forward, optimizer, edges)

    def drive_steps(examples: Sequence[Example], draws: Callable[[int], Draw]) -> Advance:
        return by_step(train_step, lambda step: cut_batch(examples, draws(step), train.window))

    def drive_epochs(examples: Sequence[Example], draws: Callable[[int], Draw]) -> Advance:
        train_epoch = train_epoch_on(edges_of(examples[0], train.window))
        return by_epoch(train_epoch, stack_examples(examples), draws)

    accelerated = jax.default_backend() != "cpu" and not parallel
    whole = train.call == "epoch" or (train.call == "auto" and accelerated)
    return Engine(optimizer, whole, drive_epochs if whole else drive_steps)


class Fold(NamedTuple):
    """Inputs and output folder of one fit.

    Attributes:
      number: number of the fold.
      folder: folder of the checkpoints, `last/` and `best/`.
      examples: training data.
      params: initial parameters.
      monitor: parameters -> monitored error, or None.
      rows: rows of the mesh that the examples are of; None for a single row.
    """

    number: int
    folder: Path
    examples: Sequence[Example]
    params: Params
    monitor: Callable[[Params], float] | None
    rows: Rows | None = None


def fit_fold(
    config: Config,
    fold: Fold,
    engine: Engine,
    *,
    event_log: EventLog,
    console: Console,
    on_timed: Callable[[float, int], None],
    signalled: Callable[[], int | None],
    agree: Agree = wish_alone,
) -> Params:
    """Fits one fold, from its last checkpoint if there is one, and returns the selected weights.

    Args:
      config: configuration of the run.
      fold: see `Fold`.
      engine: from `make_engine`.
      event_log: log of epochs and saves.
      console: output of progress.
      on_timed: called once with the seconds per step and the number of steps left.
      signalled: returns the number of a received signal, or None.
      agree: agreement with other processes on saving and ending.

    Raises:
      InputError: the training has diverged; the checkpoint before is kept.
      Interrupted: a signal was received; the state is saved.
    """
    draws, steps_per_epoch = _make_draws(config, fold)
    plan = _plan(config, steps_per_epoch, engine)
    state = init_fit(fold.params, engine.optimizer, plan)
    state = checkpoints.load(fold.folder / "last", state) or state
    if first := int(state.train.step):
        event_log.write("resumed", fold=fold.number, step=first)
    if is_finished(state, plan):
        return _choose(config, fold, state)
    advance = engine.drive(fold.examples, draws)
    saved, timer = time.monotonic(), _StepTimer()
    total = plan.epochs * steps_per_epoch
    with show_bar(console, f"fold {fold.number}", total, first) as bar:
        for progress in fit(advance, state, fold.monitor, plan):
            state = progress.state
            if (loss := progress.epoch_loss) is not None:
                epoch, error = progress.epoch, progress.error
                _expect_finite(config, fold, f"epoch {epoch}", (loss, error))
                bar.note(epoch, loss, error)
                event_log.write("epoch", fold=fold.number, epoch=epoch, loss=loss, error=error)
            bar.advance(progress.step)
            if (seconds := timer.update(progress)) is not None:
                event_log.write("timed", fold=fold.number, seconds_a_step=seconds)
                on_timed(seconds, total - progress.step)
            due = time.monotonic() - saved > config.save_every_seconds
            due, number = agree(Wish(due, signalled()))
            if number or progress.finished or due:
                _save(config, fold, state, event_log)
                saved = time.monotonic()
            if number:
                raise Interrupted(f"saved after step {progress.step} of fold {fold.number}", number)
    event_log.write("fitted", fold=fold.number, **_reached(state))
    return _choose(config, fold, state)


def _make_draws(config: Config, fold: Fold) -> tuple[Callable[[int], Draw], int]:
    return make_draws(
        fold.examples,
        window=config.train.window,
        windows_per_subject=config.train.windows_per_subject,
        batch=config.train.batch,
        address=(config.folds.seed, fold.number),
        rows=fold.rows,
    )


class _StepTimer:
    """Measures the seconds per step once, after the first step, which compiles."""

    def __init__(self) -> None:
        self._start: tuple[int, float] | None = None
        self._done = False

    def update(self, progress: Progress) -> float | None:
        """Returns the seconds per step once, when `TIMED_STEPS` steps are done; else None."""
        if self._done:
            return None
        if self._start is None:
            jax.block_until_ready(progress.loss)
            self._start = progress.step, time.monotonic()
            return None
        step, started = self._start
        if progress.step < step + TIMED_STEPS:
            return None
        jax.block_until_ready(progress.loss)
        self._done = True
        return (time.monotonic() - started) / (progress.step - step)


def _reached(state: FitState) -> dict[str, int]:
    return {"step": int(state.train.step), "best_epoch": int(state.best_epoch)}


def _plan(config: Config, steps_per_epoch: int, engine: Engine) -> Plan:
    return Plan(
        config.train.epochs,
        steps_per_epoch,
        config.stop.every,
        config.stop.patience,
        config.stop.strip_length,
        stride=steps_per_epoch if engine.whole_epochs else 1,
    )


def format_estimate(seconds: float, left: int, folds: int, steps_a_fold: int) -> str:
    """Returns the maximum duration of a run, estimated from the time of one step."""
    total = left + steps_a_fold * (folds - 1)
    return (
        f"{seconds:.3g} s a step on this machine: at most {format_seconds(seconds * left)} for "
        f"this fold and {format_seconds(seconds * total)} for {folds}, and then predictions"
    )


def _expect_finite(config: Config, fold: Fold, when: str, values: object) -> None:
    expect_finite(values, f"{fold.folder}: {when}", lower_rate(config.train.learning_rate))


def _choose(config: Config, fold: Fold, state: FitState) -> Params:
    params = state.best if config.stop.keep == "best" else state.train.params
    # An earlier version may have saved what had diverged.
    _expect_finite(config, fold, f"step {int(state.train.step)}", params)
    # On one device, independent of the training mesh.
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)


def _save(config: Config, fold: Fold, state: FitState, event_log: EventLog) -> None:
    _expect_finite(config, fold, f"step {int(state.train.step)}", state.train)
    if int(state.best_epoch):
        checkpoints.save(fold.folder / "best", int(state.best_epoch), state.best)
    checkpoints.save(fold.folder / "last", int(state.train.step), state)
    event_log.write("saved", fold=fold.number, step=int(state.train.step))
