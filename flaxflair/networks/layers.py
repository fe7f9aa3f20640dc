"""Layers of networks: rectified hidden layers, a linear readout, and their initialisation.

Independent of the architecture of a particular network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Float

from flaxflair.core.records import Array
from flaxflair.networks.network import ARITHMETIC, AnyArray, Apply, Convolution, Network, Params

Layer = Any  # nnx layer with a kernel ... m f and a bias f; nnx types the bias as optional


@runtime_checkable
class Rectified(Protocol):
    """A network as an `nnx.Module`.

    Attributes:
      readout: last layer, linear, ... f -> ... 1.
    """

    readout: Layer

    def __call__(self, images: Float[jax.Array, "b x y z m"]) -> Float[jax.Array, "b x y z"]:
        """Returns the FLAIR, float32, b x y z m -> b x y z."""
        ...

    def hidden_layers(self) -> Sequence[Layer]:
        """Returns rectified layers on a path from the images to the readout.

        The first output channels of each layer are the first input channels of the next.
        """
        ...


class Chain(nnx.Module):
    """A sequence of rectified hidden layers, and the readout."""

    def __init__(self, hidden: Iterable[Layer], readout: Layer):
        self.hidden = nnx.List(hidden)
        self.readout = readout

    def __call__(self, images: Float[jax.Array, "b x y z m"]) -> Float[jax.Array, "b x y z"]:
        """Returns the FLAIR, b x y z m -> b x y z."""
        return read_out(self.readout, rectify(self.hidden, images))

    def hidden_layers(self) -> Sequence[Layer]:
        """Returns the hidden layers."""
        return self.hidden


def rectify(
    layers: Iterable[Layer], values: Float[jax.Array, "b x y z m"]
) -> Float[jax.Array, "b x y z f"]:
    """Applies layers in sequence, each followed by a ReLU, b x y z m -> b x y z f."""
    for layer in layers:
        values = nnx.relu(layer(values))
    return values


def read_out(layer: Layer, values: Float[jax.Array, "b x y z m"]) -> Float[jax.Array, "b x y z"]:
    """Returns the FLAIR, float32, b x y z f -> b x y z."""
    # Linear: a z-scored FLAIR is negative in fluid, where a ReLU would clip it.
    return layer(values)[..., 0].astype(jnp.float32)


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws a kernel from Glorot's uniform distribution, the default of Keras (Wei et al. 2019).

    Drawn by NumPy: `nnx.initializers.glorot_uniform` has the same distribution but compiles a
    program for each shape. On two busy cores that took 21 s for an FCN of 64 filters and 54 s for a
    U-Net, whether jitted as a whole or not; this takes 1 s. It can be traced: `jax.eval_shape` and
    `jax.jit` of a network's `init` work.

    Args:
      key: random key.
      shape: ... m f; as in Keras, the taps count in both fan-in and fan-out, also of a transposed
        kernel.
      dtype: data type of the kernel.
    """
    taps = math.prod(shape[:-2])
    return _uniform(key, shape, dtype, math.sqrt(6 / (taps * (shape[-2] + shape[-1]))))


def he_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws a kernel from He's uniform distribution, for rectified outputs (He et al. 2015, ICCV).

    Args:
      key: random key.
      shape: ... m f.
      dtype: data type of the kernel.
    """
    return _uniform(key, shape, dtype, math.sqrt(6 / math.prod(shape[:-1])))


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, limit: float) -> jax.Array:
    def draw(seed: AnyArray) -> Array:
        rng = np.random.default_rng(np.asarray(seed).ravel())
        return rng.uniform(-limit, limit, shape).astype(dtype)

    seed = jax.random.key_data(key)
    if isinstance(seed, Tracer):  # under `jax.eval_shape` or `jax.jit`
        return jax.pure_callback(draw, jax.ShapeDtypeStruct(shape, dtype), seed)
    return jnp.asarray(draw(np.asarray(seed)))


def make_conv(
    inputs: int,
    outputs: int,
    *,
    dtype: str,
    convolution: Convolution,
    rngs: nnx.Rngs,
    kernel_init: Callable[..., jax.Array] = glorot_uniform,
) -> nnx.Conv:
    """Returns a 3×3×3 convolution with 'same' padding, b x y z m -> b x y z f.

    Args:
      inputs: input channels, m.
      outputs: output channels, f.
      dtype: arithmetic, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: convolution function.
      rngs: random streams of the initial weights.
      kernel_init: `glorot_uniform` or `he_uniform`.
    """
    computed, precision = ARITHMETIC[dtype]
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3, 3),
        dtype=computed,
        precision=precision,
        kernel_init=kernel_init,
        conv_general_dilated=convolution,
        rngs=rngs,
    )


def make_linear(inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a voxel-wise linear layer, b x y z m -> b x y z f; see `make_conv`."""
    computed, precision = ARITHMETIC[dtype]
    return nnx.Linear(
        inputs,
        outputs,
        dtype=computed,
        precision=precision,
        kernel_init=glorot_uniform,
        rngs=rngs,
    )


def as_functions(
    create: Callable[[nnx.Rngs], Rectified], *, radius: int, stride: int = 1
) -> Network:
    """Returns a network as pure functions.

    Args:
      create: creates the module with initial weights.
      radius: see `Network`.
      stride: see `Network`.
    """
    first = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
    graphdef, _ = nnx.split(first)

    def init(key: jax.Array) -> Params:
        return nnx.split(create(nnx.Rngs(key)))[1]

    def start_linear(params: Params, coefficients: Array) -> Params:
        net = nnx.merge(graphdef, params, copy=True)
        _set_linear_map(net.hidden_layers(), net.readout, coefficients)
        return nnx.split(net)[1]

    # Every sequence and its negative need a filter of each layer.
    shapes = [layer.kernel.shape for layer in first.hidden_layers()]
    able = min(shape[-1] for shape in shapes) >= 2 * shapes[0][-2]
    return Network(init, Apply(graphdef), start_linear if able else None, radius, stride)


def _set_linear_map(layers: Sequence[Layer], readout: Layer, coefficients: Array) -> None:
    """Sets weights with which layers and readout compute a voxel-wise linear map of the sequences.

    Two filters of every layer pass each sequence and its negative through the rectifiers, `x =
    relu(x) - relu(-x)`. The other filters keep their random kernels, with zero weight in the
    readout before training. The previous arrays are not modified.

    Args:
      layers: hidden layers, modified.
      readout: readout, modified.
      coefficients: [m + 1], one per sequence and the constant last.
    """
    *weights, constant = (float(value) for value in coefficients)
    signs = np.tile([1.0, -1.0], len(weights))
    filters = np.arange(len(signs))
    for depth, layer in enumerate(layers):
        kernel = np.array(layer.kernel[...])
        kernel[..., filters] = 0
        source = filters // 2 if depth == 0 else filters
        kernel[(*_centre(kernel), source, filters)] = signs if depth == 0 else 1
        layer.kernel.set_value(jnp.asarray(kernel))
        layer.bias.set_value(jnp.asarray(layer.bias[...]).at[filters].set(0))
    kernel = np.zeros(readout.kernel.shape, np.float32)
    kernel[(*_centre(kernel), filters, 0)] = signs * np.repeat(weights, 2)
    readout.kernel.set_value(jnp.asarray(kernel))
    readout.bias.set_value(jnp.full((1,), constant, jnp.float32))


def _centre(kernel: Array) -> tuple[int, ...]:
    """Returns the index of a kernel's central tap; () without taps."""
    return tuple(size // 2 for size in kernel.shape[:-2])
