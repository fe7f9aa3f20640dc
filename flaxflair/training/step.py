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

from flaxflair.examples import Batch, Draw, gather_batch
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
    """How long a fit goes on. See `config.TrainConfig` and `config.StopConfig`.

    Attributes:
      epochs: at most.
      steps_per_epoch: steps.
      watch_every: epochs between two looks.
      strips: p of STOP_p; 0 never stops early.
      strip_length: q, in epochs.
      stride: steps taken in one call, at most to the end of the epoch.
    """

    epochs: int
    steps_per_epoch: int
    watch_every: int
    strips: int
    strip_length: int
    stride: int = 1


class Progress(NamedTuple):
    """One call of a fit, as a reader of it sees it.

    Attributes:
      state: after its steps; its buffers are reused by the next one.
      epoch: epochs done.
      step: steps done in all.
      loss: of the last step, on the device.
      epoch_loss: mean loss of the epoch, if this ended one.
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


# (state, step, number) -> the state after that many steps, and the loss of the last. What a fit is
# driven by: see `by_step` and `by_epoch`.
Advance = Callable[[TrainState, int, int], tuple[TrainState, jax.Array]]


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


class TrainEpoch(Protocol):
    """Many jitted steps in one call; it takes the state's buffers over."""

    def __call__(
        self, state: TrainState, stacked: Batch, draws: Draw
    ) -> tuple[TrainState, jax.Array]:
        """Returns the state after a step for each draw [k, b], and the loss of each step [k]."""
        ...


def make_train_step(forward: Forward, optimizer: optax.GradientTransformation) -> TrainStep:
    """Returns the jitted step of one network and one optimiser. Its state is donated."""

    @partial(jax.jit, donate_argnames="state")
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        return _take_step(forward, optimizer, state, batch)

    return train_step


def make_train_epoch(
    forward: Forward, optimizer: optax.GradientTransformation, edges: tuple[int, int, int]
) -> TrainEpoch:
    """Returns a function that takes many steps in one call, batches being cut on the device.

    An accelerator then waits neither for Python nor for the host's memory. Equal to as many calls
    of `make_train_step`'s function to rounding. Its state is donated.

    Args:
      forward: of the network.
      optimizer: from `make_optimizer`.
      edges: of a window, from `examples.edges_of`.
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
    return descend(optimizer, state, loss, gradient), loss


def descend(
    optimizer: optax.GradientTransformation, state: TrainState, loss: jax.Array, gradient: Params
) -> TrainState:
    """Returns the state after a step, from the loss and its gradient by the parameters."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    return TrainState(params, opt_state, state.step + 1, state.loss_sum + loss)


def by_step(train_step: TrainStep, batches: Callable[[int], Batch]) -> Advance:
    """Returns what drives a fit step by step.

    Args:
      train_step: from `make_train_step`.
      batches: step number -> batch; the same number gives the same batch, always.
    """

    def advance(state: TrainState, step: int, number: int) -> tuple[TrainState, jax.Array]:
        loss = jnp.float32(jnp.nan)
        for offset in range(number):
            state, loss = train_step(state, batches(step + offset))
        return state, loss

    return advance


def by_epoch(train_epoch: TrainEpoch, stacked: Batch, draws: Callable[[int], Draw]) -> Advance:
    """Returns what drives a fit by many steps a call.

    Args:
      train_epoch: from `make_train_epoch`.
      stacked: all examples, on the device.
      draws: step number -> draw; the same number gives the same draw, always.
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
    """Whether nothing is left to do: all epochs done, or STOP_p fired."""
    done = int(state.train.step) // plan.steps_per_epoch
    errors = np.asarray(state.errors)[:done].tolist()
    return done >= plan.epochs or should_stop(errors, plan.strips, plan.strip_length)


def fit(
    advance: Advance,
    state: FitState,
    watch: Callable[[Params], float] | None,
    plan: Plan,
) -> Iterator[Progress]:
    """Trains until the plan is done or STOP_p fires, `plan.stride` steps at a time.

    Args:
      advance: from `by_step` or `by_epoch`.
      state: from `init_fit`, or as any earlier `Progress` held it.
      watch: parameters -> error; None watches nothing.
      plan: when to look, when to stop.

    Yields:
      After every call. Nothing, if the state is already finished.
    """
    finished = is_finished(state, plan)
    # Counted here, so that the next step is prepared while the device is at this one.
    step = int(state.train.step)
    while not finished:
        number = min(plan.stride, plan.steps_per_epoch - step % plan.steps_per_epoch)
        train, loss = advance(state.train, step, number)
        state, step = state._replace(train=train), step + number
        epoch, within = divmod(step, plan.steps_per_epoch)
        epoch_loss, error = None, None
        if within == 0:
            state, epoch_loss, error = _end_epoch(state, epoch, watch, plan)
            finished = is_finished(state, plan)
        yield Progress(state, epoch, step, loss, epoch_loss, error, finished)


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
