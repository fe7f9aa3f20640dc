"""The 3D fully convolutional network of Wei et al. 2019, for any depth, width and number of inputs.

L hidden layers of 3×3×3 convolution with F filters and ReLU, then a linear 3×3×3 convolution to one
channel; 'same' padding throughout. With five inputs and L = 3 that is 60,577, 231,745 or 513,505
parameters for F = 32, 64, 96.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from flaxflair.networks.conv import conv3d
from flaxflair.networks.network import ARITHMETIC, Convolution, Network, Params
from flaxflair.volume import Array

KERNEL = (3, 3, 3)


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws a kernel as the Keras that the paper used does by default; biases start at zero.

    Drawn by NumPy: JAX would compile a program for each shape first, ten seconds in all.
    """
    taps = math.prod(shape[:-2])
    limit = math.sqrt(6 / (taps * (shape[-2] + shape[-1])))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    return jnp.asarray(rng.uniform(-limit, limit, shape), dtype)


class Fcn(nnx.Module):
    """The layers; see the module."""

    def __init__(
        self,
        channels: int,
        layers: int,
        filters: int,
        dtype: str,
        convolution: Convolution,
        *,
        rngs: nnx.Rngs,
    ):
        computed, precision = ARITHMETIC[dtype]

        def conv(inputs: int, outputs: int) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                outputs,
                KERNEL,
                dtype=computed,
                precision=precision,
                kernel_init=glorot_uniform,
                conv_general_dilated=convolution,
                rngs=rngs,
            )

        widths = [channels, *([filters] * layers)]
        self.hidden = nnx.List([conv(a, b) for a, b in pairwise(widths)])
        # Linear: a z-scored FLAIR is negative in fluid, where a ReLU would clip it.
        self.readout = conv(filters, 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the FLAIR, b x y z m -> b x y z."""
        for layer in self.hidden:
            images = nnx.relu(layer(images))
        return self.readout(images)[..., 0].astype(jnp.float32)

    def start_linear(self, coefficients: Array) -> None:
        """Makes the network compute a linear map of the sequences, voxel by voxel.

        Each sequence is carried through the rectifiers as itself and its negative, `x = relu(x) -
        relu(-x)`, by two filters of every layer. The other filters keep their random kernels, with
        no say in the output until training gives them one.
        """
        *weights, constant = (float(value) for value in coefficients)
        signs = np.tile([1.0, -1.0], len(weights))
        carried = np.arange(len(signs))
        centre = (1, 1, 1)
        hidden: list[Any] = list(self.hidden)  # nnx types a bias as one that may be absent
        readout: Any = self.readout
        for depth, layer in enumerate(hidden):
            kernel = np.array(layer.kernel[...])
            kernel[..., carried] = 0
            source = carried // 2 if depth == 0 else carried
            kernel[(*centre, source, carried)] = signs if depth == 0 else 1
            layer.kernel[...] = jnp.asarray(kernel)
            layer.bias[...] = jnp.asarray(layer.bias[...]).at[carried].set(0)
        kernel = np.zeros(readout.kernel.shape, np.float32)
        kernel[(*centre, carried, 0)] = signs * np.repeat(weights, 2)
        readout.kernel[...] = jnp.asarray(kernel)
        readout.bias[...] = jnp.full((1,), constant, jnp.float32)


def build(
    channels: int,
    *,
    layers: int = 3,
    filters: int = 64,
    dtype: str = "float32",
    convolution: Convolution = conv3d,
) -> Network:
    """Returns the network for a number of input sequences.

    Args:
      channels: input sequences, m.
      layers: hidden layers, L.
      filters: filters of each, F.
      dtype: of the computation, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: what it convolves by.
    """

    def create(key: jax.Array) -> Fcn:
        return Fcn(channels, layers, filters, dtype, convolution, rngs=nnx.Rngs(key))

    graphdef, _ = nnx.split(create(jax.random.key(0)))

    def init(key: jax.Array) -> Params:
        return nnx.split(create(key))[1]

    def forward(params: Params, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(images)

    def start_linear(params: Params, coefficients: Array) -> Params:
        net = nnx.merge(graphdef, params)
        net.start_linear(coefficients)
        return nnx.split(net)[1]

    # Fewer filters cannot carry every sequence and its negative through the rectifiers.
    able = filters >= 2 * channels
    return Network(init, forward, start_linear if able else None, radius=layers + 1)
