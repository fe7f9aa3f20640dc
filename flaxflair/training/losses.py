"""Loss functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float


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
