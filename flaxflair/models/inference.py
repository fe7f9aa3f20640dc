"""Prediction: whole volumes in one call, or any volume in tiles of bounded memory.

Operates on normalised arrays. Independent of files, subjects and intensities.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flaxflair.core.records import Array
from flaxflair.imaging.tiling import Sliceable, stream
from flaxflair.networks.network import AnyArray


@partial(jax.jit, static_argnames=("forward", "batch"))
def predict_volumes(
    forward: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: Float[AnyArray, "n x y z m"],
    *,
    batch: int = 1,
) -> Float[jax.Array, "n x y z *f"]:
    """Predicts volumes of one grid in one compiled call.

    Args:
      forward: forward function of the network.
      params: parameters of the network.
      images: [n, x, y, z, m], z-scores.
      batch: volumes computed at once under `vmap`, in a loop on the device; memory grows with
        `batch`, not with n.

    Returns:
      [n, x, y, z], z-scores.
    """

    def one(image: jax.Array) -> jax.Array:
        return forward(params, image[None])[0]  # x y z m -> x y z

    return jax.lax.map(one, images, batch_size=batch)


def predict_streamed(
    forward: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: Sliceable,
    *,
    radius: int,
    tile_voxels: int,
    stride: int = 1,
) -> Array:
    """Predicts one volume in tiles; equal to `predict_volumes` to rounding.

    Args:
      forward: forward function of the network, hashable: (params, images) -> b x y z or b x y z f.
      params: its first argument.
      images: [x, y, z, m], z-scores, on the host; may be a memory map.
      radius: voxels on each side that an output depends on.
      tile_voxels: voxels computed at once; 0 for the whole volume.
      stride: stride of the network.

    Returns:
      [x, y, z] or [x, y, z, f], z-scores.
    """

    def predict(part: Array) -> Array:
        return np.asarray(predict_volumes(forward, params, part[None])[0])

    return stream(predict, (images,), halo=radius, tile_voxels=tile_voxels, stride=stride)
