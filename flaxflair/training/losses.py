"""Losses, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def summed_squares(
    prediction: jax.Array, target: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of squared errors over the voxels that count, and the number of these.

    Args:
      prediction: [b, x, y, z].
      target: [b, x, y, z].
      weight: [b, x, y, z], 1 where a voxel counts and 0 where not.
    """
    error = prediction.astype(jnp.float32) - target
    return jnp.sum(weight * jnp.square(error)), jnp.sum(weight)


def mean_squared_error(prediction: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the mean of squared errors over the voxels that count (Wei et al. 2019, eq. 1).

    Args:
      prediction: [b, x, y, z].
      target: [b, x, y, z].
      weight: [b, x, y, z], 1 where a voxel counts and 0 where not; not all zero.
    """
    total, count = summed_squares(prediction, target, weight)
    return total / count
