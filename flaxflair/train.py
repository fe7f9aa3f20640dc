"""Training: a pure step, and a fit that is a generator and does no input or output.

Knows nothing of files, folds or subjects: batches come from a function of the step number, so that
a run resumed at any step sees what an undisturbed run would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxflair.examples import Batch
from flaxflair.losses import mean_squared_error
from flaxflair.networks.network import Forward, Params
from flaxflair.stopping import should_stop

OPTIMIZERS: dict[str, Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9, nesterov=True),
    "adam": optax.adam,
    "adamw": optax.adamw,
}
WARMUP = 0.05


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      params: of the network.
      opt_state: of the optimiser.
      step: steps done, int32.
      loss_sum: of this epoch's steps so far, float32.
    """

    params: Params
    opt_state: optax.OptState
    step: jax.Array
    loss_sum: jax.Array


class FitState(NamedTuple):
    """All of a fit: what it takes to go on, and what it found so far.

    Attributes:
      train: the current state.
      losses: float32[epochs], mean training loss; NaN where not yet known.
      errors: float32[epochs], watched error; NaN where not looked at.
      best: parameters at the lowest watched error so far.
      best_epoch: epochs done when they were found, int32; 0 for none.
    """

    train: TrainState
    losses: jax.Array
    errors: jax.Array
    best: Params
    best_epoch: jax.Array


class Plan(NamedTuple):
    """How long a fit goes on. See `config.TrainConfig` and `config.StopConfig`."""

    epochs: int
    steps_per_epoch: int
    watch_every: int
    strips: int
    strip_length: int


class Progress(NamedTuple):
    """One step of a fit, as a reader of it sees it.

    Attributes:
      state: after the step; its buffers are reused by the next one.
      epoch: epochs done.
      step: steps done in all.
      loss: of this step, on the device.
      epoch_loss: mean loss of the epoch, if this step ended one.
      error: watched error, if it was looked at.
      finished: whether the fit ends here.
    """

    state: FitState
    epoch: int
    step: int
    loss: jax.Array
    epoch_loss: float | None
    error: float | None
    finished: bool


class TrainStep(Protocol):
    """A jitted step; it takes the state's buffers over."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        """Returns the next state and the loss."""
        ...


def make_optimizer(
    name: str, learning_rate: float, schedule: str, steps: int
) -> optax.GradientTransformation:
    """Returns an optimiser.

    Args:
      name: a key of `OPTIMIZERS`.
      learning_rate: constant, or the peak of the schedule.
      schedule: `constant`, or `cosine`: up from zero in a twentieth of the steps, down to zero.
      steps: length of the schedule.

    Raises:
      ValueError: there is no such optimiser.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
    if schedule == "constant":
        return OPTIMIZERS[name](learning_rate)
    warmup = max(1, round(WARMUP * steps))
    return OPTIMIZERS[name](
        optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1))
    )


def make_train_step(forward: Forward, optimizer: optax.GradientTransformation) -> TrainStep:
    """Returns the jitted step of one network and one optimiser. Its state is donated."""

    @partial(jax.jit, donate_argnames="state")
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        images, flair, weight = map(jnp.asarray, batch)

        def loss_of(params: Params) -> jax.Array:
            return mean_squared_error(forward(params, images), flair, weight)

        loss, gradient = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        return TrainState(params, opt_state, state.step + 1, state.loss_sum + loss), loss

    return train_step


def init_fit(params: Params, optimizer: optax.GradientTransformation, plan: Plan) -> FitState:
    """Returns the state before the first step."""
    unknown = jnp.full(plan.epochs, jnp.nan, jnp.float32)
    train = TrainState(params, optimizer.init(params), jnp.int32(0), jnp.float32(0))
    return FitState(train, unknown, jnp.copy(unknown), _copy(params), jnp.int32(0))


def is_finished(state: FitState, plan: Plan) -> bool:
    """Whether nothing is left to do: all epochs done, or STOP_p fired."""
    done = int(state.train.step) // plan.steps_per_epoch
    errors = np.asarray(state.errors)[:done].tolist()
    return done >= plan.epochs or should_stop(errors, plan.strips, plan.strip_length)


def fit(
    train_step: TrainStep,
    state: FitState,
    batches: Callable[[int], Batch],
    watch: Callable[[Params], float] | None,
    plan: Plan,
) -> Iterator[Progress]:
    """Trains until the plan is done or STOP_p fires, one step at a time.

    Args:
      train_step: from `make_train_step`.
      state: from `init_fit`, or as any earlier `Progress` held it.
      batches: step number -> batch; the same number gives the same batch, always.
      watch: parameters -> error; None watches nothing.
      plan: when to look, when to stop.

    Yields:
      Every step. Nothing, if the state is already finished.
    """
    finished = is_finished(state, plan)
    while not finished:
        step = int(state.train.step)
        train, loss = train_step(state.train, batches(step))
        state = state._replace(train=train)
        epoch, within = divmod(step + 1, plan.steps_per_epoch)
        epoch_loss, error = None, None
        if within == 0:
            state, epoch_loss, error = _end_epoch(state, epoch, watch, plan)
            finished = is_finished(state, plan)
        yield Progress(state, epoch, step + 1, loss, epoch_loss, error, finished)


def _end_epoch(
    state: FitState, epoch: int, watch: Callable[[Params], float] | None, plan: Plan
) -> tuple[FitState, float, float | None]:
    mean = float(state.train.loss_sum) / plan.steps_per_epoch
    train = state.train._replace(loss_sum=jnp.float32(0))
    state = state._replace(train=train, losses=state.losses.at[epoch - 1].set(mean))
    if watch is None or epoch % plan.watch_every:
        return state, mean, None
    error = watch(train.params)
    lowest = np.nanmin(np.asarray(state.errors)) if int(state.best_epoch) else np.inf
    state = state._replace(errors=state.errors.at[epoch - 1].set(error))
    if error < lowest:
        # A copy: the next step takes over the buffers of the parameters themselves.
        state = state._replace(best=_copy(train.params), best_epoch=jnp.int32(epoch))
    return state, mean, error


def _copy(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)
