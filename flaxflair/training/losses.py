"""Loss functions: of the networks of a cohort, and of the universal model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from flaxflair.training.batches import SynthesisBatch

GRADIENT_WEIGHT = 0.5  # weight of the error of differences between neighbours
# Weight of the squared error. The absolute error alone is minimised by the median, which contains
# no lesion where its probability is below 1/2.
SQUARED_WEIGHT = 4.0
# Additional weight of the error in lesions. It biases possible lesion voxels above their mean. With
# 20, lesions were learnt earlier, but with false positives.
LESION_WEIGHT = 4.0
HEAD_WEIGHT = 0.3  # weight of the lesion segmentation
LESION_BALANCE = 10.0  # weight of lesion voxels in the cross-entropy, since they are few
# Prior on a real FLAIR's gain and offset, in voxels: small windows hold little contrast.
FIT_PRIOR = 2000.0


def summed_squares(
    prediction: Float[jax.Array, "b x y z"],
    target: Float[jax.Array, "b x y z"],
    weight: Float[jax.Array, "b x y z"],
) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""]]:
    """Returns the weighted sum of squared errors, and the sum of the weights.

    Args:
      prediction: [b, x, y, z].
      target: [b, x, y, z].
      weight: [b, x, y, z], 0 or 1.
    """
    error = prediction.astype(jnp.float32) - target
    return jnp.sum(weight * jnp.square(error)), jnp.sum(weight)


def mean_squared_error(
    prediction: Float[jax.Array, "b x y z"],
    target: Float[jax.Array, "b x y z"],
    weight: Float[jax.Array, "b x y z"],
) -> Float[jax.Array, ""]:
    """Returns the weighted mean squared error (Wei et al. 2019, eq. 1).

    Args:
      prediction: [b, x, y, z].
      target: [b, x, y, z].
      weight: [b, x, y, z], 0 or 1; not all zero.
    """
    total, count = summed_squares(prediction, target, weight)
    return total / count


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
    _, _, target, lesion, weight, _, segmented, _ = map(jnp.asarray, batch)
    known = segmented[:, None, None, None]
    emphasis = weight * (1 + LESION_WEIGHT * lesion)
    error = fit_scanned(observe_flair(flair, batch), batch) - target
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


def observe_flair(flair: jax.Array, batch: SynthesisBatch) -> jax.Array:
    """Returns images with the slice profile and interpolation of the scanned FLAIRs, b x y z.

    Args:
      flair: b x y z.
      batch: its `observe` is used.
    """
    along_x, along_y, along_z = jnp.asarray(batch.observe).swapaxes(0, 1)
    flair = jnp.einsum("bXx,bxyz->bXyz", along_x, flair)
    flair = jnp.einsum("bYy,bxyz->bxYz", along_y, flair)
    return jnp.einsum("bZz,bxyz->bxyZ", along_z, flair)


def fit_scanned(flair: jax.Array, batch: SynthesisBatch) -> jax.Array:
    """Returns predictions with the gain and offset of scanned FLAIRs; others are not changed.

    Args:
      flair: observed predictions, b x y z.
      batch: targets.
    """
    measured = jnp.asarray(batch.measured)[:, None, None, None]
    target, weight = jnp.asarray(batch.flair), jnp.asarray(batch.weight)
    return jnp.where(measured > 0, _fit(flair, target, weight), flair)


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
