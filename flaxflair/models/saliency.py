"""Pulse-sequence-specific saliency (P3S): sensitivity of the error to each input.

Source: Wei et al. 2019, section 2.2, eq. 3. Operates on normalised arrays, for any network and any
stack of inputs. Independent of files and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Real, Shaped

from flaxflair.core.records import Array
from flaxflair.imaging.tiling import stream


@partial(jax.jit, static_argnames="forward")
def p3s(
    forward: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: Float[jax.Array, "x y z m"],
    target: Float[jax.Array, "x y z"],
    weight: Real[jax.Array, "x y z"] | None = None,
) -> Float[jax.Array, "x y z m"]:
    """Returns `|∂‖target − forward(params, images)‖² / ∂images|`.

    Args:
      forward: forward function of the network, hashable: (params, images) -> b x y z.
      params: its first argument.
      images: [x, y, z, m], z-scores.
      target: [x, y, z], z-scores of the true FLAIR.
      weight: [x, y, z], weight of each voxel's error; None for equal weights, as in the paper.

    Returns:
      [x, y, z, m], the map of each input sequence, in units of squared z-scores per z-score.
    """

    def squared_error(images: jax.Array) -> jax.Array:
        error = jnp.square(target - forward(params, images[None])[0])
        return jnp.sum(error if weight is None else weight * error)

    return jnp.abs(jax.grad(squared_error)(images))


def p3s_streamed(
    forward: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: Float[Array, "x y z m"],
    target: Float[Array, "x y z"],
    *,
    weight: Shaped[Array, "x y z"] | None = None,
    radius: int,
    tile_voxels: int,
    stride: int = 1,
) -> Float[Array, "x y z m"]:
    """Returns `p3s` computed in tiles, equal to rounding, in bounded memory.

    The gradient at a voxel depends on outputs up to `radius` away, each of which depends on inputs
    up to `radius` away: the halo is twice the network's radius.

    Args:
      forward: forward function of the network, hashable: (params, images) -> b x y z.
      params: its first argument.
      images: [x, y, z, m].
      target: [x, y, z].
      weight: [x, y, z]; None for equal weights.
      radius: voxels on each side that an output depends on.
      tile_voxels: voxels computed at once; 0 for the whole volume.
      stride: stride of the network.
    """
    weights = np.ones(target.shape, np.float32) if weight is None else weight.astype(np.float32)

    def maps(images: Array, target: Array, weights: Array) -> Array:
        return np.asarray(p3s(forward, params, *map(jnp.asarray, (images, target, weights))))

    volumes = images, target, weights
    return stream(maps, volumes, halo=2 * radius, tile_voxels=tile_voxels, stride=stride)


def shares(
    maps: Float[Array, "x y z m"], regions: Mapping[str, Bool[Array, "x y z"] | None]
) -> dict[str, list[float]]:
    """Returns each sequence's share of the saliency in each region.

    Args:
      maps: [x, y, z, m], from `p3s`.
      regions: name -> bool[x, y, z]; None for an unknown region.

    Returns:
      name -> m shares with sum 1; NaN if the region is unknown or empty, or has no saliency.
    """
    table = {}
    for name, region in regions.items():
        total = np.zeros(maps.shape[-1])
        if region is not None:
            total = maps[region].sum(axis=0, dtype=np.float64)
        whole = total.sum() or np.nan
        table[name] = (total / whole).tolist()
    return table
