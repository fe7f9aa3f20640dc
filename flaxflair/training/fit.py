"""Fitting: one fold trained from its last checkpoint on, saved, told and interruptible.

What `train` computes meets disk and screen here. Knows nothing of subjects or scores.
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

from flaxflair import checkpoint
from flaxflair.config import Config
from flaxflair.examples import (
    Draw,
    Example,
    cut_batch,
    edges_of,
    make_draws,
    stack_examples,
)
from flaxflair.networks import Network
from flaxflair.networks.network import Params
from flaxflair.parallel import make_mesh, make_parallel_step
from flaxflair.screen import Journal, say_seconds, show_bar
from flaxflair.signals import Interrupted
from flaxflair.train import (
    Advance,
    FitState,
    Plan,
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

# The first call compiles; three steps after it the time of one has settled.
TIMED_STEPS = 3


class Engine(NamedTuple):
    """The compiled parts of a fit, made once so that all folds share one compilation.

    Attributes:
      optimizer: from `train.make_optimizer`.
      whole_epochs: whether an epoch is one call.
      drive: (examples, step -> draw) -> what drives a fit on them.
    """

    optimizer: optax.GradientTransformation
    whole_epochs: bool
    drive: Callable[[Sequence[Example], Callable[[int], Draw]], Advance]


def make_engine(config: Config, build: Callable[..., Network], steps: int) -> Engine:
    """Returns the engine of one network and one configuration.

    Args:
      config: of the run. By `mesh`, several devices train together; by `train.call`, an epoch is
        one call.
      build: of the network, such as `partial(NETWORKS[name], channels, config)`.
      steps: length of the learning rate's schedule.

    Raises:
      InputError: the mesh is of another number of devices than there are.
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
    """What one fit reads and where it writes.

    Attributes:
      number: of the fold.
      folder: of its checkpoints, `last/` and `best/`.
      examples: to train on.
      params: to start from.
      watch: parameters -> error, or None.
    """

    number: int
    folder: Path
    examples: Sequence[Example]
    params: Params
    watch: Callable[[Params], float] | None


def fit_fold(
    config: Config,
    fold: Fold,
    engine: Engine,
    *,
    journal: Journal,
    console: Console,
    on_timed: Callable[[float, int], None],
    signalled: Callable[[], int | None],
) -> Params:
    """Fits one fold, from its last checkpoint if there is one, and returns the weights to keep.

    Args:
      config: of the run.
      fold: see `Fold`.
      engine: from `make_engine`.
      journal: told of every epoch and every save.
      console: shows the progress.
      on_timed: told once the seconds of a step and the steps left.
      signalled: returns the number of a signal that asks to end, or None.

    Raises:
      Interrupted: a signal came; everything is saved.
    """
    draws, steps_per_epoch = make_draws(
        fold.examples,
        window=config.train.window,
        windows_per_subject=config.train.windows_per_subject,
        batch=config.train.batch,
        address=(config.folds.seed, fold.number),
    )
    plan = Plan(
        config.train.epochs,
        steps_per_epoch,
        config.stop.every,
        config.stop.strips,
        config.stop.strip_length,
        stride=steps_per_epoch if engine.whole_epochs else 1,
    )
    state = init_fit(fold.params, engine.optimizer, plan)
    state = checkpoint.load(fold.folder / "last", state) or state
    first, total = int(state.train.step), plan.epochs * steps_per_epoch
    if first:
        journal.write("resumed", fold=fold.number, step=first)
    if is_finished(state, plan):
        return _choose(config, state)
    advance = engine.drive(fold.examples, draws)
    saved = time.monotonic()
    timed_from: tuple[int, float] | None = None
    timed = False
    with show_bar(console, f"fold {fold.number}", total, first) as bar:
        for progress in fit(advance, state, fold.watch, plan):
            state = progress.state
            if progress.epoch_loss is not None:
                bar.note(progress.epoch, progress.epoch_loss, progress.error)
                journal.write(
                    "epoch",
                    fold=fold.number,
                    epoch=progress.epoch,
                    loss=progress.epoch_loss,
                    error=progress.error,
                )
            bar.advance(progress.step)
            if timed_from is None:
                jax.block_until_ready(progress.loss)
                timed_from = progress.step, time.monotonic()
            elif not timed and progress.step >= timed_from[0] + TIMED_STEPS:
                jax.block_until_ready(progress.loss)
                seconds = (time.monotonic() - timed_from[1]) / (progress.step - timed_from[0])
                journal.write("timed", fold=fold.number, seconds_a_step=seconds)
                on_timed(seconds, total - progress.step)
                timed = True
            now, asked = time.monotonic(), signalled()
            if asked or progress.finished or now - saved > config.save_every_seconds:
                _save(fold, state, journal)
                saved = now
            if asked:
                where = f"step {progress.step} of fold {fold.number}"
                raise Interrupted(f"saved after {where}", asked)
    journal.write(
        "fitted",
        fold=fold.number,
        step=int(state.train.step),
        best_epoch=int(state.best_epoch),
    )
    return _choose(config, state)


def say_estimate(seconds: float, left: int, folds: int, steps_a_fold: int) -> str:
    """Returns what a run will take at most, from the time of one step."""
    everything = left + steps_a_fold * (folds - 1)
    return (
        f"{seconds:.3g} s a step on this machine: at most {say_seconds(seconds * left)} for this "
        f"fold and {say_seconds(seconds * everything)} for {folds}, and then predictions"
    )


def _choose(config: Config, state: FitState) -> Params:
    params = state.best if config.stop.keep == "best" else state.train.params
    # On one device, wherever they were trained: what comes after is not a matter of the mesh.
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)


def _save(fold: Fold, state: FitState, journal: Journal) -> None:
    if int(state.best_epoch):
        checkpoint.save(fold.folder / "best", int(state.best_epoch), state.best)
    checkpoint.save(fold.folder / "last", int(state.train.step), state)
    journal.write("saved", fold=fold.number, step=int(state.train.step))
