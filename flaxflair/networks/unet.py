"""The 3D U-Net that Wei et al. 2019 compare with, for any width and number of inputs.

At full resolution two 3×3×3 convolutions of F filters, at half two of 2F, at a quarter two of 4F;
back at half two of 2F, and at full two of 2F again, each pair fed by the skip of its resolution and
by what comes up. Down goes by max pooling of 2×2×2, up by transposed convolution of 2×2×2 with
stride 2. 'Same' padding and ReLU with every 3×3×3 convolution, and with nothing else; a linear
1×1×1 convolution to one channel ends it. With five inputs and F = 16 that is 375,585 parameters.

A volume whose edges are no multiples of 4 is filled up with zeros at the far ends, and the FLAIR
cut to size. Volumes filled up otherwise, or shifted by less than 4 voxels, pool otherwise: the
result is another, and no better or worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

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
from flaxflair.volume import InputError

POOLINGS = 2
STRIDE = 2**POOLINGS

# Towards lower indices, from the second voxel of a block of 4: 2 voxels at full resolution, then at
# half, at a quarter and at half again, 2 each of theirs, then 2 at full. The furthest that any
# voxel looks towards higher ones is as much.
RADIUS = 23


class Raise(nnx.Module):
    """Transposed convolution of 2×2×2 with stride 2, linear.

    Kernels as wide as their stride do not overlap, so that it is a matrix product: each voxel by
    the kernel gives the eight that it becomes.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs):
        self.dtype, self.precision = ARITHMETIC[dtype]
        kernel = glorot_uniform(rngs.params(), (2, 2, 2, inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, values: jax.Array) -> jax.Array:
        """Returns twice as many voxels along each axis, b x y z m -> b 2x 2y 2z f."""
        b, x, y, z, _ = values.shape
        kernel, bias = (array[...].astype(self.dtype) for array in (self.kernel, self.bias))
        octants = jnp.einsum("bxyzm,ijkmf->bxiyjzkf", values, kernel, precision=self.precision)
        return octants.reshape(b, 2 * x, 2 * y, 2 * z, -1) + bias


class UNet(nnx.Module):
    """The layers; see the module."""

    def __init__(
        self, channels: int, filters: int, dtype: str, convolution: Convolution, *, rngs: nnx.Rngs
    ):
        conv = partial(make_conv, dtype=dtype, convolution=convolution, rngs=rngs)
        up = partial(Raise, dtype=dtype, rngs=rngs)

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

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the FLAIR, b x y z m -> b x y z."""
        x, y, z = images.shape[1:4]
        margins = [(0, -size % STRIDE) for size in (x, y, z)]
        full = rectify(self.full_down, jnp.pad(images, [(0, 0), *margins, (0, 0)]))
        half = rectify(self.half_down, _pool(full))
        quarter = rectify(self.quarter, _pool(half))
        half = rectify(self.half_up, _join(half, self.quarter_to_half(quarter)))
        full = rectify(self.full_up, _join(full, self.half_to_full(half)))
        return read_out(self.readout, full)[:, :x, :y, :z]

    def carriers(self) -> Sequence[Layer]:
        """Returns the layers at full resolution, which the skip connects."""
        return [*self.full_down, *self.full_up]


def _pool(values: jax.Array) -> jax.Array:
    """Returns the largest of every 2×2×2 voxels, b 2x 2y 2z f -> b x y z f."""
    b, x, y, z, f = values.shape
    return values.reshape(b, x // 2, 2, y // 2, 2, z // 2, 2, f).max((2, 4, 6))


def _join(skip: jax.Array, raised: jax.Array) -> jax.Array:
    """Returns the channels of both; those of the skip come first, as `carriers` promises."""
    return jnp.concatenate([skip, raised], axis=-1)


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
      layers: poolings; there are 2.
      filters: filters at full resolution on the way down, F.
      dtype: of the computation, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: what it convolves by, where kernels are of 3×3×3.

    Raises:
      InputError: other than 2 poolings are asked for.
    """
    if layers != POOLINGS:
        raise InputError(
            f"config.network.layers is {layers}; the U-Net has {POOLINGS} poolings, so set it to "
            f"{POOLINGS}"
        )

    def create(rngs: nnx.Rngs) -> UNet:
        return UNet(channels, filters, dtype, convolution, rngs=rngs)

    return as_functions(create, radius=RADIUS, stride=STRIDE)
