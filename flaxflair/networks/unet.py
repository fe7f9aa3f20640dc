"""The 3D U-Net of Wei et al. 2019, a baseline, for any width and number of inputs.

Encoder: two 3×3×3 convolutions of F filters at full resolution, two of 2F at half and two of 4F at
a quarter, with 2×2×2 max pooling between. Decoder: two of 2F at half and two of 2F at full
resolution, each pair applied to the skip connection and the result of a 2×2×2 transposed
convolution with stride 2. Every 3×3×3 convolution has 'same' padding and ReLU; the output is a
linear 1×1×1 convolution to one channel. With five inputs and F = 16 that is 375,585 parameters.

A volume whose edges are not multiples of 4 is padded with zeros at the far ends, and the FLAIR
cropped. With other padding, or shifted by less than 4 voxels, pooling windows and so the result
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from flaxflair.core.records import InputError
from flaxflair.networks.conv import conv3d
from flaxflair.networks.layers import (
    Layer,
    as_functions,
    glorot_uniform,
    make_conv,
    make_linear,
    read_out,
    rectify,
)
from flaxflair.networks.network import ARITHMETIC, Convolution, Network

POOLINGS = 2
STRIDE = 2**POOLINGS

# Receptive radius towards lower indices, from the second voxel of a block of 4: 2 voxels each at
# full, half, quarter, half and full resolution. The maximum towards higher indices is the same.
RADIUS = 23


class UpConv(nnx.Module):
    """Transposed 2×2×2 convolution with stride 2, linear.

    Kernels as wide as their stride do not overlap, so it is a matrix product of each voxel with the
    kernel, which gives eight voxels.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs):
        self.dtype, self.precision = ARITHMETIC[dtype]
        kernel = glorot_uniform(rngs.params(), (2, 2, 2, inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(
        self, values: Float[jax.Array, "b x y z m"]
    ) -> Float[jax.Array, "b 2*x 2*y 2*z f"]:
        """Returns twice as many voxels along each axis, b x y z m -> b 2x 2y 2z f."""
        b, x, y, z, _ = values.shape
        kernel, bias = (array[...].astype(self.dtype) for array in (self.kernel, self.bias))
        octants = jnp.einsum("bxyzm,ijkmf->bxiyjzkf", values, kernel, precision=self.precision)
        return octants.reshape(b, 2 * x, 2 * y, 2 * z, -1) + bias[None, None, None, None]


class UNet(nnx.Module):
    """The U-Net as a module; see the docstring of this module."""

    def __init__(
        self, channels: int, filters: int, dtype: str, convolution: Convolution, *, rngs: nnx.Rngs
    ):
        conv = partial(make_conv, dtype=dtype, convolution=convolution, rngs=rngs)
        up = partial(UpConv, dtype=dtype, rngs=rngs)

        def pair(inputs: int, outputs: int) -> nnx.List[nnx.Conv]:
            return nnx.List([conv(inputs, outputs), conv(outputs, outputs)])

        f, ff, ffff = filters, 2 * filters, 4 * filters
        self.full_down = pair(channels, f)
        self.half_down = pair(f, ff)
        self.quarter = pair(ff, ffff)
        self.quarter_to_half = up(ffff, ff)
        self.half_up = pair(ff + ff, ff)
        self.half_to_full = up(ff, f)
        self.full_up = pair(f + f, ff)
        self.readout = make_linear(ff, 1, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[jax.Array, "b x y z m"]) -> Float[jax.Array, "b x y z"]:
        """Returns the FLAIR, b x y z m -> b x y z."""
        x, y, z = images.shape[1:4]
        margins = [(0, -size % STRIDE) for size in (x, y, z)]
        full = rectify(self.full_down, jnp.pad(images, [(0, 0), *margins, (0, 0)]))
        half = rectify(self.half_down, max_pool(full))
        quarter = rectify(self.quarter, max_pool(half))
        half = rectify(self.half_up, _join(half, self.quarter_to_half(quarter)))
        full = rectify(self.full_up, _join(full, self.half_to_full(half)))
        return read_out(self.readout, full)[:, :x, :y, :z]

    def hidden_layers(self) -> Sequence[Layer]:
        """Returns the layers at full resolution, which the skip connection joins."""
        return [*self.full_down, *self.full_up]


def max_pool(values: Float[jax.Array, "b x y z f"]) -> Float[jax.Array, "b x//2 y//2 z//2 f"]:
    """Returns the maximum of each 2×2×2 block, b 2x 2y 2z f -> b x y z f."""
    b, x, y, z, f = values.shape
    return values.reshape(b, x // 2, 2, y // 2, 2, z // 2, 2, f).max((2, 4, 6))


def _join(
    skip: Float[jax.Array, "b x y z m"], upsampled: Float[jax.Array, "b x y z f"]
) -> Float[jax.Array, "b x y z m+f"]:
    """Concatenates channels; those of the skip are first, as `Rectified.hidden_layers` requires."""
    return jnp.concatenate([skip, upsampled], axis=-1)


def build(
    channels: int,
    *,
    layers: int = POOLINGS,
    filters: int = 16,
    dtype: str = "float32",
    convolution: Convolution = conv3d,
) -> Network:
    """Returns the network for a number of input sequences.

    Args:
      channels: input sequences, m.
      layers: number of poolings; must be 2.
      filters: filters at full resolution on the way down, F.
      dtype: arithmetic, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: convolution function of the 3×3×3 kernels.

    Raises:
      InputError: `layers` is not 2.
    """
    if layers != POOLINGS:
        raise InputError(
            f"config.network.layers is {layers}; the U-Net has {POOLINGS} poolings, so set it to "
            f"{POOLINGS}"
        )

    def create(rngs: nnx.Rngs) -> UNet:
        return UNet(channels, filters, dtype, convolution, rngs=rngs)

    return as_functions(create, radius=RADIUS, stride=STRIDE)
