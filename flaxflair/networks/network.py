"""What a network is to everything above it. Knows no particular network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxflair.volume import Array

Params = nnx.State

# What products are computed in: an accelerator, left to itself, rounds those of float32.
ARITHMETIC: dict[str, tuple[jnp.dtype, lax.Precision]] = {
    "float32": (jnp.dtype("float32"), lax.Precision.HIGHEST),
    "tensorfloat32": (jnp.dtype("float32"), lax.Precision.DEFAULT),
    "bfloat16": (jnp.dtype("bfloat16"), lax.Precision.DEFAULT),
}
Forward = Callable[[Params, jax.Array], jax.Array]
Convolution = Callable[..., jax.Array]  # called as `jax.lax.conv_general_dilated`


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: key -> params.
      forward: (params, images b x y z m) -> flair b x y z, float32.
      start_linear: (params, coefficients m + 1) -> params of a network that computes exactly
        `Σ_m c_m · image_m + c_(m+1)`, from which training then goes on; None if it cannot.
      radius: voxels on each side that an output depends on.
      stride: tiles must begin at multiples of it, along every axis: images shifted by as much give
        the FLAIR shifted by as much, and by no less.
    """

    init: Callable[[jax.Array], Params]
    forward: Forward
    start_linear: Callable[[Params, Array], Params] | None
    radius: int
    stride: int = 1


def count_parameters(params: Params) -> int:
    """Returns the number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
