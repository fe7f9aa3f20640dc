"""Training of a conditional network: loss, and a pure step with a moving average of the weights.

Independent of the origin of batches, of files and of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from flaxflair.core.records import Array
from flaxflair.networks.network import ConditionalNetwork, Params

GRADIENT_WEIGHT = 0.5  # weight of the error of differences between neighbours
# Weight of the squared error. The absolute error alone is minimised by the median, which contains
# no lesion where its probability is below 1/2.
SQUARED_WEIGHT = 4.0
# Additional weight of the error in lesions. It biases possible lesion voxels above their mean. With
# 20, lesions were learnt earlier, but with false positives.
LESION_WEIGHT = 4.0
HEAD_WEIGHT = 1.0  # weight of the lesion segmentation
LESION_BALANCE = 10.0  # weight of lesion voxels in the cross-entropy, since they are few
EMA_DECAY = 0.999
# Prior on a real FLAIR's gain and offset, in voxels: small windows hold little contrast.
FIT_PRIOR = 2000.0


class SynthesisBatch(NamedTuple):
    """Batch of one step.

    Attributes:
      images: float32[b, x, y, z, m], standardised; zero where absent.
      condition: float32[b, c].
      flair: float32[b, x, y, z], normal-appearing white matter about 1.
      lesion: float32[b, x, y, z], lesion fraction of each voxel; zero if unknown.
      weight: float32[b, x, y, z], weight of each voxel in the loss.
      measured: float32[b], 1 for a scanned FLAIR, whose gain and offset are unknown; 0 for a
        simulated one.
      segmented: float32[b], 1 if `lesion` is accurate enough for the segmentation loss.
      observe: float32[b, 3, n, n] for windows of n³ voxels: matrices along x, y and z that apply
        slice profile and interpolation of the scanned FLAIR to the prediction before comparison.
    """

    images: Array | jax.Array
    condition: Array | jax.Array
    flair: Array | jax.Array
    lesion: Array | jax.Array
    weight: Array | jax.Array
    measured: Array | jax.Array
    segmented: Array | jax.Array
    observe: Array | jax.Array


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


def synthesis_loss(
    flair: jax.Array, logit: jax.Array, batch: SynthesisBatch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss, and its terms by name.

    Weighted sum of the mean absolute error, the mean squared error and the mean absolute error of
    differences between neighbours, with a higher weight in lesions, and of the balanced
    cross-entropy and Dice loss of the lesion segmentation.

    Args:
      flair: predicted FLAIR, b x y z.
      logit: logit of the lesion probability, b x y z.
      batch: targets.
    """
    _, _, target, lesion, weight, measured, segmented, observe = map(jnp.asarray, batch)
    along_x, along_y, along_z = observe.swapaxes(0, 1)
    flair = jnp.einsum("bXx,bxyz->bXyz", along_x, flair)
    flair = jnp.einsum("bYy,bxyz->bxYz", along_y, flair)
    flair = jnp.einsum("bZz,bxyz->bxyZ", along_z, flair)
    known = segmented[:, None, None, None]
    emphasis = weight * (1 + LESION_WEIGHT * lesion)
    fitted = jnp.where(measured[:, None, None, None] > 0, _fit(flair, target, weight), flair)
    error = fitted - target
    total = jnp.sum(emphasis)
    absolute = jnp.sum(emphasis * jnp.abs(error)) / total
    squared = jnp.sum(emphasis * error**2) / total
    edges = jnp.stack([_mean_difference(error, emphasis, axis) for axis in (1, 2, 3)]).mean()
    entropy = optax.sigmoid_binary_cross_entropy(logit, lesion)
    counted = weight * known
    balance = counted * (1 + (LESION_BALANCE - 1) * lesion)
    entropy = jnp.sum(balance * entropy) / jnp.maximum(jnp.sum(balance), 1)
    probability = jax.nn.sigmoid(logit)
    overlap = 2 * jnp.sum(counted * probability * lesion) + 10
    dice = 1 - overlap / (jnp.sum(counted * (probability + lesion)) + 10)
    loss = absolute + SQUARED_WEIGHT * squared + GRADIENT_WEIGHT * edges
    loss = loss + HEAD_WEIGHT * (entropy + dice)
    parts = {"l1": absolute, "l2": squared, "edges": edges, "entropy": entropy, "dice": dice}
    return loss, parts


def _fit(flair: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the prediction with the least-squares gain and offset to a scanned FLAIR."""
    axes = (1, 2, 3)
    count = weight.sum(axes, keepdims=True)
    mean_p = (weight * flair).sum(axes, keepdims=True) / count
    mean_t = (weight * target).sum(axes, keepdims=True) / count
    covariance = (weight * (flair - mean_p) * (target - mean_t)).sum(axes, keepdims=True)
    variance = (weight * (flair - mean_p) ** 2).sum(axes, keepdims=True)
    prior = FIT_PRIOR * 0.05
    # No gradient through the gain, so that a change of scale is not rewarded; but through the mean,
    # without which the level would drift.
    gain = jnp.clip((covariance + prior) / (variance + prior), 0.5, 2.0)
    return jax.lax.stop_gradient(gain) * (flair - mean_p) + mean_t


def _mean_difference(error: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
    step = jnp.diff(error, axis=axis)
    ahead = jax.lax.slice_in_dim(weight, 1, None, axis=axis)
    behind = jax.lax.slice_in_dim(weight, 0, -1, axis=axis)
    both = jnp.minimum(ahead, behind)
    return jnp.sum(both * jnp.abs(step)) / jnp.sum(both)


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
        # A shorter average in early training; later it covers about the last thousand steps.
        decay = jnp.minimum(EMA_DECAY, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        return SynthesisState(params, average, opt_state, state.step + 1), {"loss": loss, **parts}

    return step
