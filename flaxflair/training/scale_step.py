"""Step of the training of an error scale, after that of the FLAIR: pure.

The network of the FLAIR stays as it is; that of the scale learns from its errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import optax

from flaxflair.networks.network import ConditionalNetwork, Params
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.losses import fit_scanned, observe_flair
from flaxflair.training.universal_step import SynthesisState, SynthesisStep, move_average

BETA = 0.5  # exponent of the scale in the weight of a voxel (Seitzer et al. 2022)


def scale_loss(
    scale: jax.Array, flair: jax.Array, batch: SynthesisBatch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the β-NLL of a Laplace distribution, and its parts by name.

    Seitzer et al. 2022 (ICLR), eq. 7, with the Laplace instead of the normal distribution.

    Args:
      scale: of the error, b x y z.
      flair: synthetic FLAIR, b x y z.
      batch: targets.
    """
    scale, flair = observe_flair(scale, batch), observe_flair(flair, batch)
    error = jnp.abs(fit_scanned(flair, batch) - batch.flair)
    weight = batch.weight * jax.lax.stop_gradient(scale) ** BETA
    loss = jnp.sum(weight * (jnp.log(scale) + error / scale)) / jnp.sum(weight)
    total = jnp.sum(batch.weight)
    mean_error, mean_scale = (jnp.sum(batch.weight * each) / total for each in (error, scale))
    return loss, {"error": mean_error, "scale": mean_scale}


def make_scale_step(
    forward: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    network: ConditionalNetwork,
    inputs: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    to_scale: Callable[[jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
) -> SynthesisStep:
    """Returns the jitted training step, which donates the state's buffers.

    Args:
      forward: (images, condition) -> FLAIR and lesion logit of the trained model.
      network: of the scale.
      inputs: (images, FLAIR, lesion probability) -> input of the network.
      to_scale: output of the network -> scale.
      optimizer: from `make_synthesis_optimizer`.
    """

    @partial(jax.jit, donate_argnames="state")
    def step(
        state: SynthesisState, batch: SynthesisBatch
    ) -> tuple[SynthesisState, dict[str, jax.Array]]:
        batch = SynthesisBatch(*map(jnp.asarray, batch))
        flair, logit = forward(jnp.asarray(batch.images), jnp.asarray(batch.condition))
        flair = jnp.maximum(flair, 0)
        values = inputs(jnp.asarray(batch.images), flair, jax.nn.sigmoid(logit))

        def loss_of(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            output, _ = network.forward(params, values, jnp.asarray(batch.condition))
            return scale_loss(to_scale(output), flair, batch)

        (loss, parts), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        average = move_average(state.average, params, state.step)
        return SynthesisState(params, average, opt_state, state.step + 1), {"loss": loss, **parts}

    return step
