"""Prediction: whole volumes in one call, or any volume in tiles of bounded memory.

Works on normalised arrays. Knows nothing of files, subjects or intensities.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from flaxflair.core.records import Array
from flaxflair.imaging.tiling import Sliceable, stream


@partial(jax.jit, static_argnames=("forward", "batch"))
def predict_volumes(
    forward: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    *,
    batch: int = 1,
) -> jax.Array:
    """Predicts volumes of one grid in one compiled call.

    Args:
      forward: of the network.
      params: of the network.
      images: [n, x, y, z, m], z-scores.
      batch: volumes computed side by side under `vmap`; the rest follow in a loop on the device, so
        that memory grows with `batch` and not with n.

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
    voxels: int,
    stride: int = 1,
) -> Array:
    """Predicts one volume in tiles; equal to `predict_volumes` to rounding.

    Args:
      forward: of the network; a hashable function (params, images) -> b x y z or b x y z f.
      params: its first argument.
      images: [x, y, z, m], z-scores, on the host (a memory map will do).
      radius: voxels on each side that an output depends on.
      voxels: that are computed at a time; 0 for the whole volume.
      stride: of the network.

    Returns:
      [x, y, z] or [x, y, z, f], z-scores.
    """

    def predict(part: Array) -> Array:
        return np.asarray(predict_volumes(forward, params, part[None])[0])

    return stream(predict, (images,), halo=radius, voxels=voxels, stride=stride)
