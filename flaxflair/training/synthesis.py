"""Training of a conditional network: its loss, and a pure step with an average of the weights.

Knows nothing of where batches come from, of files or of checkpoints.
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

GRADIENT_WEIGHT = 0.5  # of the error of differences between neighbours
# Of the squared error beside the absolute one, whose minimum is a median: where a lesion is less
# likely than not, the median shows none of it.
SQUARED_WEIGHT = 4.0
# By which the error in lesions counts more. It biases: a voxel that may be lesion is predicted
# brighter than its mean. With 20, lesions were learnt sooner, and false ones with them.
LESION_WEIGHT = 2.0
HEAD_WEIGHT = 1.0  # of the lesion segmentation
LESION_BALANCE = 10.0  # of the cross-entropy of lesion voxels, of which there are few
EMA_DECAY = 0.999
# Prior on a real FLAIR's gain and offset, in voxels: small windows hold little contrast.
FIT_PRIOR = 2000.0


class SynthesisBatch(NamedTuple):
    """What one step sees.

    Attributes:
      images: float32[b, x, y, z, m], standardised; zero where absent.
      condition: float32[b, c].
      flair: float32[b, x, y, z], normal-appearing white matter about 1.
      lesion: float32[b, x, y, z], the part of each voxel that is lesion; zero where not known.
      weight: float32[b, x, y, z], of each voxel in the loss.
      measured: float32[b], 1 for a FLAIR that was scanned, whose gain and offset are unknown; 0 for
        a simulated one.
      segmented: float32[b], 1 where `lesion` is good enough to learn segmentation from.
      observe: float32[b, 3, n, n] of windows of n³ voxels: maps a line of the prediction along x, y
        and z to what a scanner's thick slices and their interpolation make of it, before it is
        compared with the FLAIR.
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
    """What a step changes.

    Attributes:
      params: of the network.
      average: exponential moving average of them.
      opt_state: of the optimiser.
      step: steps done, int32.
    """

    params: Params
    average: Params
    opt_state: optax.OptState
    step: jax.Array


def synthesis_loss(
    flair: jax.Array, logit: jax.Array, batch: SynthesisBatch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss, and its parts.

    Mean absolute and squared error, and half of the absolute one of differences between
    neighbours; lesions count more. To it are added the lesion segmentation's balanced cross-entropy
    and its Dice loss.

    Args:
      flair: predicted, b x y z.
      logit: of the lesion probability, b x y z.
      batch: what is true.
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
    """Returns the prediction at the gain and offset of a scanned FLAIR, fitted in closed form."""
    axes = (1, 2, 3)
    count = weight.sum(axes, keepdims=True)
    mean_p = (weight * flair).sum(axes, keepdims=True) / count
    mean_t = (weight * target).sum(axes, keepdims=True) / count
    covariance = (weight * (flair - mean_p) * (target - mean_t)).sum(axes, keepdims=True)
    variance = (weight * (flair - mean_p) ** 2).sum(axes, keepdims=True)
    prior = FIT_PRIOR * 0.05
    # No gradient through the gain: it must not reward a prediction of another scale. One through
    # the mean: without it, errors of unequal sign would push the level on and on.
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

    Training may go on at the constant rate for as long as it pays; a cool-down ends it.

    Args:
      learning_rate: of the constant part.
      warmup: steps up from zero.
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
    """Muon (Jordan 2024) for the kernels of convolutions, Adam for all else.

    Updates are scaled to the root mean square of Adam's (Liu et al. 2025, arXiv:2502.16982).
    """

    def dimensions(params: Any) -> Any:
        kernel = MuonDimensionNumbers(reduction_axis=(0, 1, 2, 3), output_axis=4)
        return jax.tree.map(lambda leaf: kernel if leaf.ndim == 5 else None, params)

    return muon(
        rate, weight_decay=1e-4, consistent_rms=0.2, muon_weight_dimension_numbers=dimensions
    )


# Name -> what makes the optimiser of a learning-rate schedule.
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
    """Returns the jitted step; it takes the state's buffers over."""

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
        # Early on the average follows closely; later it covers the last thousand steps.
        decay = jnp.minimum(EMA_DECAY, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        return SynthesisState(params, average, opt_state, state.step + 1), {"loss": loss, **parts}

    return step
