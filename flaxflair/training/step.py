"""Pure training step, and the training loop as a generator without input or output.

Independent of files, folds and subjects: batches are a function of the step number, so that a run
resumed at any step is identical to an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxflair.networks.network import Forward, Params
from flaxflair.training.batches import Batch, Draw, gather_batch
from flaxflair.training.early_stopping import should_stop
from flaxflair.training.losses import mean_squared_error

OPTIMIZERS: dict[str, Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9, nesterov=True),
    "adam": optax.adam,
    "adamw": optax.adamw,
}
WARMUP = 0.05


class TrainState(NamedTuple):
    """State updated by a training step.

    Attributes:
      params: parameters of the network.
      opt_state: state of the optimiser.
      step: steps done, int32.
      loss_sum: sum of the losses of the current epoch, float32.
    """

    params: Params
    opt_state: optax.OptState
    step: jax.Array
    loss_sum: jax.Array


class FitState(NamedTuple):
    """Complete state of a fit, from which it can be resumed.

    Attributes:
      train: current training state.
      losses: float32[epochs], mean training loss; NaN for future epochs.
      errors: float32[epochs], monitored error; NaN where not evaluated.
      best: parameters at the lowest monitored error so far.
      best_epoch: epoch of `best`, int32; 0 for none.
    """

    train: TrainState
    losses: jax.Array
    errors: jax.Array
    best: Params
    best_epoch: jax.Array


class Plan(NamedTuple):
    """Duration of a fit. See `config.TrainConfig` and `config.StopConfig`.

    Attributes:
      epochs: maximum number of epochs.
      steps_per_epoch: steps per epoch.
      monitor_every: epochs between evaluations of the monitored error.
      strips: p of STOP_p; 0 disables early stopping.
      strip_length: q, in epochs.
      stride: steps per call, at most to the end of the epoch.
    """

    epochs: int
    steps_per_epoch: int
    monitor_every: int
    strips: int
    strip_length: int
    stride: int = 1


class Progress(NamedTuple):
    """Progress of a fit after one call.

    Attributes:
      state: state after the call; its buffers are donated to the next call.
      epoch: epochs done.
      step: steps done in total.
      loss: loss of the last step, on the device.
      epoch_loss: mean loss of the epoch, if the call ended one.
      error: monitored error, if evaluated.
      finished: whether the fit is finished.
    """

    state: FitState
    epoch: int
    step: int
    loss: jax.Array
    epoch_loss: float | None
    error: float | None
    finished: bool


# (state, step, number) -> the state after `number` steps, and the loss of the last. See `by_step`
# and `by_epoch`.
Advance = Callable[[TrainState, int, int], tuple[TrainState, jax.Array]]


class TrainStep(Protocol):
    """A jitted training step; donates the state's buffers."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        """Returns the next state and the loss."""
        ...


def make_optimizer(
    name: str, learning_rate: float, schedule: str, steps: int
) -> optax.GradientTransformation:
    """Returns an optimiser.

    Args:
      name: a key of `OPTIMIZERS`.
      learning_rate: constant learning rate, or peak of the schedule.
      schedule: `constant`, or `cosine`: linear warm-up over 5 % of the steps, then decay to zero.
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


class TrainEpoch(Protocol):
    """Several jitted training steps in one call; donates the state's buffers."""

    def __call__(
        self, state: TrainState, stacked: Batch, draws: Draw
    ) -> tuple[TrainState, jax.Array]:
        """Returns the state after one step per draw [k, b], and the losses [k]."""
        ...


def make_train_step(forward: Forward, optimizer: optax.GradientTransformation) -> TrainStep:
    """Returns the jitted training step of one network and one optimiser; donates its state."""

    @partial(jax.jit, donate_argnames="state")
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        return _take_step(forward, optimizer, state, batch)

    return train_step


def make_train_epoch(
    forward: Forward, optimizer: optax.GradientTransformation, edges: tuple[int, int, int]
) -> TrainEpoch:
    """Returns a function that takes many steps in one call and cuts batches on the device.

    An accelerator then waits neither for Python nor for host memory. Equal to repeated calls of
    the function of `make_train_step` to rounding. Donates its state.

    Args:
      forward: forward function of the network.
      optimizer: from `make_optimizer`.
      edges: window size, from `batches.edges_of`.
    """

    @partial(jax.jit, donate_argnames="state")
    def train_epoch(state: TrainState, stacked: Batch, draws: Draw) -> tuple[TrainState, jax.Array]:
        def step(state: TrainState, draw: Draw) -> tuple[TrainState, jax.Array]:
            return _take_step(forward, optimizer, state, gather_batch(stacked, draw, edges))

        return jax.lax.scan(step, state, draws)

    return train_epoch


def _take_step(
    forward: Forward, optimizer: optax.GradientTransformation, state: TrainState, batch: Batch
) -> tuple[TrainState, jax.Array]:
    images, flair, weight = map(jnp.asarray, batch)

    def loss_of(params: Params) -> jax.Array:
        return mean_squared_error(forward(params, images), flair, weight)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    return apply_gradients(optimizer, state, loss, gradient), loss


def apply_gradients(
    optimizer: optax.GradientTransformation, state: TrainState, loss: jax.Array, gradient: Params
) -> TrainState:
    """Returns the state after an optimiser update with a loss and its gradient."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    return TrainState(params, opt_state, state.step + 1, state.loss_sum + loss)


def by_step(train_step: TrainStep, batches: Callable[[int], Batch]) -> Advance:
    """Returns an `Advance` that calls a training step per step.

    Args:
      train_step: from `make_train_step`.
      batches: step number -> batch; a pure function.
    """

    def advance(state: TrainState, step: int, number: int) -> tuple[TrainState, jax.Array]:
        loss = jnp.float32(jnp.nan)
        for offset in range(number):
            state, loss = train_step(state, batches(step + offset))
        return state, loss

    return advance


def by_epoch(train_epoch: TrainEpoch, stacked: Batch, draws: Callable[[int], Draw]) -> Advance:
    """Returns an `Advance` with many steps per call.

    Args:
      train_epoch: from `make_train_epoch`.
      stacked: all examples, on the device.
      draws: step number -> draw; a pure function.
    """

    def advance(state: TrainState, step: int, number: int) -> tuple[TrainState, jax.Array]:
        drawn = [draws(step + offset) for offset in range(number)]
        index, start = map(np.stack, zip(*drawn, strict=True))
        state, losses = train_epoch(state, stacked, Draw(index, start))
        return state, losses[-1]

    return advance


def init_fit(params: Params, optimizer: optax.GradientTransformation, plan: Plan) -> FitState:
    """Returns the state before the first step."""
    unknown = jnp.full(plan.epochs, jnp.nan, jnp.float32)
    train = TrainState(params, optimizer.init(params), jnp.int32(0), jnp.float32(0))
    return FitState(train, unknown, jnp.copy(unknown), _copy(params), jnp.int32(0))


def is_finished(state: FitState, plan: Plan) -> bool:
    """Whether all epochs are done or STOP_p has stopped the fit."""
    done = int(state.train.step) // plan.steps_per_epoch
    errors = np.asarray(state.errors)[:done].tolist()
    return done >= plan.epochs or should_stop(errors, plan.strips, plan.strip_length)


def fit(
    advance: Advance,
    state: FitState,
    monitor: Callable[[Params], float] | None,
    plan: Plan,
) -> Iterator[Progress]:
    """Trains until all epochs are done or STOP_p stops, `plan.stride` steps per call.

    Args:
      advance: from `by_step` or `by_epoch`.
      state: from `init_fit`, or of an earlier `Progress`.
      monitor: parameters -> monitored error; None for no monitoring.
      plan: duration and early stopping.

    Yields:
      The progress after every call; nothing if the state is already finished.
    """
    finished = is_finished(state, plan)
    # Counted on the host: reading `state.train.step` would wait for the device.
    step = int(state.train.step)
    while not finished:
        number = min(plan.stride, plan.steps_per_epoch - step % plan.steps_per_epoch)
        train, loss = advance(state.train, step, number)
        state, step = state._replace(train=train), step + number
        epoch, within = divmod(step, plan.steps_per_epoch)
        epoch_loss, error = None, None
        if within == 0:
            state, epoch_loss, error = _end_epoch(state, epoch, monitor, plan)
            finished = is_finished(state, plan)
        yield Progress(state, epoch, step, loss, epoch_loss, error, finished)


def _end_epoch(
    state: FitState, epoch: int, monitor: Callable[[Params], float] | None, plan: Plan
) -> tuple[FitState, float, float | None]:
    mean = float(state.train.loss_sum) / plan.steps_per_epoch
    train = state.train._replace(loss_sum=jnp.float32(0))
    state = state._replace(train=train, losses=state.losses.at[epoch - 1].set(mean))
    if monitor is None or epoch % plan.monitor_every:
        return state, mean, None
    error = monitor(train.params)
    lowest = np.nanmin(np.asarray(state.errors)) if int(state.best_epoch) else np.inf
    state = state._replace(errors=state.errors.at[epoch - 1].set(error))
    if error < lowest:
        # A copy: the next step donates the buffers of the parameters.
        state = state._replace(best=_copy(train.params), best_epoch=jnp.int32(epoch))
    return state, mean, error


def _copy(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)
