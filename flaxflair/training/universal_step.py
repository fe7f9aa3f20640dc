"""Step of the training of a conditional network: pure, with a moving average of the weights.

Independent of the origin of batches, of files and of checkpoints; for the loss see `losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from flaxflair.networks.network import ConditionalNetwork, Params
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.losses import synthesis_loss

EMA_DECAY = 0.999


class SynthesisState(NamedTuple):
    """State updated by a training step.

    Attributes:
      params: parameters of the network.
      average: exponential moving average of the parameters.
      opt_state: state of the optimiser.
      step: steps done, int32.
    """

    params: Params
    average: Params
    opt_state: optax.OptState
    step: jax.Array


def make_synthesis_optimizer(
    learning_rate: float,
    *,
    warmup: int,
    cooldown: tuple[int, int] | None = None,
    method: str = "adamw",
) -> optax.GradientTransformation:
    """Returns an optimiser with clipped gradients, a warm-up, a constant rate, and a cool-down.

    Training may continue at the constant rate for any number of steps; a cool-down ends it.

    Args:
      learning_rate: constant learning rate after the warm-up.
      warmup: steps of the linear warm-up from zero.
      cooldown: first step and number of steps of the decay to zero; None for none.
      method: a key of `OPTIMIZERS`.
    """
    schedules = [optax.linear_schedule(0.0, learning_rate, warmup)]
    schedules.append(optax.constant_schedule(learning_rate))
    boundaries = [warmup]
    if cooldown is not None:
        first, steps = cooldown
        schedules.append(optax.cosine_decay_schedule(learning_rate, steps))
        boundaries.append(first)
    rate = optax.join_schedules(schedules, boundaries)
    return optax.chain(optax.clip_by_global_norm(1.0), OPTIMIZERS[method](rate))


def _adamw(rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=1e-4)


def _muon(rate: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for convolution kernels, AdamW for other parameters.

    Updates are scaled to the root mean square of Adam's (Liu et al. 2025, arXiv:2502.16982).
    """

    def dimensions(params: Any) -> Any:
        kernel = MuonDimensionNumbers(reduction_axis=(0, 1, 2, 3), output_axis=4)
        return jax.tree.map(lambda leaf: kernel if leaf.ndim == 5 else None, params)

    return muon(
        rate, weight_decay=1e-4, consistent_rms=0.2, muon_weight_dimension_numbers=dimensions
    )


# Name -> function from a learning-rate schedule to an optimiser.
OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "muon": _muon,
}


def init_synthesis(params: Params, optimizer: optax.GradientTransformation) -> SynthesisState:
    """Returns the state before the first step."""
    average = jax.tree.map(jnp.copy, params)
    return SynthesisState(params, average, optimizer.init(params), jnp.int32(0))


# (state, batch) -> the state after a step, and the parts of its loss.
SynthesisStep = Callable[
    [SynthesisState, SynthesisBatch], tuple[SynthesisState, dict[str, jax.Array]]
]


def make_synthesis_step(
    network: ConditionalNetwork, optimizer: optax.GradientTransformation
) -> SynthesisStep:
    """Returns the jitted training step, which donates the state's buffers."""

    @partial(jax.jit, donate_argnames="state")
    def step(
        state: SynthesisState, batch: SynthesisBatch
    ) -> tuple[SynthesisState, dict[str, jax.Array]]:
        images, condition = jnp.asarray(batch.images), jnp.asarray(batch.condition)

        def loss_of(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            return synthesis_loss(*network.forward(params, images, condition), batch)

        (loss, parts), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        average = move_average(state.average, params, state.step)
        return SynthesisState(params, average, opt_state, state.step + 1), {"loss": loss, **parts}

    return step


def move_average(average: Params, params: Params, step: jax.Array) -> Params:
    """Returns the exponential moving average of parameters after a step.

    It is shorter in early training; later it covers about the last thousand steps.
    """
    decay = jnp.minimum(EMA_DECAY, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
