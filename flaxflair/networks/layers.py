"""Layers that networks are made of: rectified ones in a row, a linear readout, their first weights.

Knows not how a particular network joins its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike

from flaxflair.core.records import Array
from flaxflair.networks.network import ARITHMETIC, Apply, Convolution, Network, Params

Layer = Any  # of nnx, with a kernel ... m f and a bias f, which nnx types as one that may be absent


class Rectified(Protocol):
    """A network as an `nnx.Module`.

    Attributes:
      readout: its last layer, linear, ... f -> ... 1.
    """

    readout: Layer

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the FLAIR, float32, b x y z m -> b x y z."""
        ...

    def carriers(self) -> Sequence[Layer]:
        """Returns layers that lead from the images to the readout, each rectified.

        The first channels that one gives are the first that the next takes.
        """
        ...


class Chain(nnx.Module):
    """Rectified layers in a row, and the readout."""

    def __init__(self, hidden: Iterable[Layer], readout: Layer):
        self.hidden = nnx.List(hidden)
        self.readout = readout

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the FLAIR, b x y z m -> b x y z."""
        return read_out(self.readout, rectify(self.hidden, images))

    def carriers(self) -> Sequence[Layer]:
        """Returns the hidden layers."""
        return self.hidden


def rectify(layers: Iterable[Layer], values: jax.Array) -> jax.Array:
    """Applies layers in a row, ReLU after each, b x y z m -> b x y z f."""
    for layer in layers:
        values = nnx.relu(layer(values))
    return values


def read_out(layer: Layer, values: jax.Array) -> jax.Array:
    """Returns the FLAIR, float32, b x y z f -> b x y z."""
    # Linear: a z-scored FLAIR is negative in fluid, where a ReLU would clip it.
    return layer(values)[..., 0].astype(jnp.float32)


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws a kernel as the Keras that the paper used does by default; biases start at zero.

    Drawn by NumPy: `nnx.initializers.glorot_uniform` gives the same distribution, and JAX compiles
    a program for each shape first. On two busy cores that took 21 s for an FCN of 64 filters and
    54 s for a U-Net, whether jitted as a whole or not; this takes 1 s. It can be traced all the
    same: `jax.eval_shape` and `jax.jit` of a network's `init` work.

    Args:
      key: of this draw.
      shape: ... m f; Keras counts the taps before them on both sides, of a transposed kernel too.
      dtype: of the kernel.
    """
    taps = math.prod(shape[:-2])
    return _uniform(key, shape, dtype, math.sqrt(6 / (taps * (shape[-2] + shape[-1]))))


def he_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws a kernel whose outputs, rectified, vary as much as its inputs (He et al. 2015, ICCV).

    Args:
      key: of this draw.
      shape: ... m f.
      dtype: of the kernel.
    """
    return _uniform(key, shape, dtype, math.sqrt(6 / math.prod(shape[:-1])))


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, limit: float) -> jax.Array:
    def draw(seed: Array) -> Array:
        rng = np.random.default_rng(np.asarray(seed).ravel())
        return rng.uniform(-limit, limit, shape).astype(dtype)

    seed = jax.random.key_data(key)
    if isinstance(seed, Tracer):  # where the shapes of a network alone are asked for
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
      inputs: channels, m.
      outputs: channels, f.
      dtype: of the computation, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: what it convolves by.
      rngs: of the first weights.
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
    """Returns a layer of each voxel alone, b x y z m -> b x y z f; see `make_conv`."""
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
    """Returns the network as pure functions.

    Args:
      create: makes it, with its first weights.
      radius: see `Network`.
      stride: see `Network`.
    """
    first = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
    graphdef, _ = nnx.split(first)

    def init(key: jax.Array) -> Params:
        return nnx.split(create(nnx.Rngs(key)))[1]

    def start_linear(params: Params, coefficients: Array) -> Params:
        net = nnx.merge(graphdef, params, copy=True)
        _carry_linear_map(net.carriers(), net.readout, coefficients)
        return nnx.split(net)[1]

    # Fewer filters cannot carry every sequence and its negative through the rectifiers.
    shapes = [layer.kernel.shape for layer in first.carriers()]
    able = min(shape[-1] for shape in shapes) >= 2 * shapes[0][-2]
    return Network(init, Apply(graphdef), start_linear if able else None, radius, stride)


def _carry_linear_map(layers: Sequence[Layer], readout: Layer, coefficients: Array) -> None:
    """Makes layers and readout compute a linear map of the sequences, voxel by voxel.

    Each sequence is carried through the rectifiers as itself and its negative, `x = relu(x) -
    relu(-x)`, by two filters of every layer. The other filters keep their random kernels, with no
    say in the output until training gives them one. Arrays that were there are left as they were.
    """
    *weights, constant = (float(value) for value in coefficients)
    signs = np.tile([1.0, -1.0], len(weights))
    carried = np.arange(len(signs))
    for depth, layer in enumerate(layers):
        kernel = np.array(layer.kernel[...])
        kernel[..., carried] = 0
        source = carried // 2 if depth == 0 else carried
        kernel[(*_centre(kernel), source, carried)] = signs if depth == 0 else 1
        layer.kernel.set_value(jnp.asarray(kernel))
        layer.bias.set_value(jnp.asarray(layer.bias[...]).at[carried].set(0))
    kernel = np.zeros(readout.kernel.shape, np.float32)
    kernel[(*_centre(kernel), carried, 0)] = signs * np.repeat(weights, 2)
    readout.kernel.set_value(jnp.asarray(kernel))
    readout.bias.set_value(jnp.full((1,), constant, jnp.float32))


def _centre(kernel: Array) -> tuple[int, ...]:
    """Returns the place of a kernel's middle tap; () where it has no taps."""
    return tuple(size // 2 for size in kernel.shape[:-2])
