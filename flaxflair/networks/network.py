"""Interface of networks. Independent of any particular architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxflair.core.records import Array

Params = nnx.State
AnyArray = jax.Array | Array  # on the device or on the host

# Arithmetic of products: by default, accelerators round the operands of float32 products.
ARITHMETIC: dict[str, tuple[jnp.dtype, lax.Precision]] = {
    "float32": (jnp.dtype("float32"), lax.Precision.HIGHEST),
    "tensorfloat32": (jnp.dtype("float32"), lax.Precision.DEFAULT),
    "bfloat16": (jnp.dtype("bfloat16"), lax.Precision.DEFAULT),
}
Forward = Callable[[Params, jax.Array], jax.Array]
Convolution = Callable[..., jax.Array]  # called as `jax.lax.conv_general_dilated`


@dataclass(frozen=True)
class Apply:
    """A network as a function of its parameters and inputs.

    Static by equality: networks built alike are equal and hash alike, so that a jitted function
    that takes one as a static argument compiles once however often a model is loaded.

    Attributes:
      graphdef: of `flax.nnx`, all of the network but its parameters.
    """

    graphdef: nnx.GraphDef[Any]

    def __call__(self, params: Params, *inputs: AnyArray) -> Any:
        """Returns the outputs of the network."""
        return nnx.merge(self.graphdef, params)(*map(jnp.asarray, inputs))


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: key -> params.
      forward: (params, images b x y z m) -> flair b x y z, float32; an `Apply`.
      start_linear: (params, coefficients m + 1) -> initial params with which the network computes
        exactly `Σ_m c_m · image_m + c_(m+1)`; None if the architecture does not allow it.
      radius: voxels on each side that an output depends on.
      stride: smallest shift along every axis to which the network is equivariant; tiles must begin
        at its multiples.
    """

    init: Callable[[jax.Array], Params]
    forward: Forward
    start_linear: Callable[[Params, Array], Params] | None
    radius: int
    stride: int = 1


class ConditionalNetwork(NamedTuple):
    """A network conditioned on a description of its inputs, as pure functions.

    Attributes:
      init: key -> params.
      forward: (params, images b x y z m, condition b c) -> FLAIR and lesion logit, b x y z each,
        float32.
      radius: voxels on each side that an output depends on, at most.
      stride: see `Network`.
    """

    init: Callable[[jax.Array], Params]
    forward: Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    radius: int
    stride: int


def count_parameters(params: Params) -> int:
    """Returns the number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
