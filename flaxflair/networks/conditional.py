"""A U-Net conditioned on the available sequences, for any number of levels and filters.

Every level has 3×3×3 convolutions with 'same' padding and leaky ReLU: with ReLU, four fifths of the
filters of the lower levels died early in training. The first convolution of a level is followed by
an affine map of each filter whose coefficients are linear in a condition vector (FiLM,
Perez et al. 2018, AAAI), which encodes the sequences present and their voxel sizes. Downsampling is
2×2×2 max pooling, upsampling a transposed 2×2×2 convolution; skip connections are concatenated.

With `reduction` 2 the levels begin at half resolution: each 2×2×2 block becomes channels
(space-to-depth, as in Shi et al. 2016, CVPR). The output of the levels is rearranged to full
resolution with `DETAIL` channels, which one convolution combines with the images. A CPU is most
efficient for many filters on few voxels. With `fine` filters, a parallel branch of a few
convolutions at full resolution adds a correction; it learns fine structure fastest.

No layer normalises over space, so tiled and whole-volume predictions are equal. Volumes whose edges
are not multiples of the stride are padded with zeros at the far ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from flaxflair.networks.conv import conv3d
from flaxflair.networks.conv_blocks import blocks, join_blocks, take_rows
from flaxflair.networks.layers import he_uniform, make_conv, make_linear
from flaxflair.networks.network import Apply, ConditionalNetwork, Convolution, Params
from flaxflair.networks.unet import UpConv, max_pool

DETAIL = 8  # channels of the levels' output at full resolution
REFINED = 16  # filters of the convolution at full resolution
FINE_CONVOLUTIONS = 3  # of the branch at full resolution
# Memory of a voxel at full resolution, and of a slab in which such voxels are computed.
_FINE_BYTES, _SLAB_BYTES = 350, 2**28
SLOPE = 0.1  # of the leaky ReLU for negative values
OUTPUTS = 2  # the FLAIR, and the logit of the lesion probability


def _rectify(values: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    return nnx.leaky_relu(values, SLOPE)


class Level(nnx.Module):
    """Convolutions at one resolution, the first of which is conditioned."""

    def __init__(
        self,
        inputs: int,
        filters: int,
        *,
        convolutions: int,
        condition: int,
        dtype: str,
        convolution: Convolution,
        rngs: nnx.Rngs,
    ):
        conv = partial(
            make_conv, dtype=dtype, convolution=convolution, rngs=rngs, kernel_init=he_uniform
        )
        widths = [inputs, *([filters] * convolutions)]
        self.convolutions = nnx.List([conv(a, b) for a, b in pairwise(widths)])
        # Initialised to zero: the condition has no effect before training.
        zeros = nnx.initializers.zeros_init()
        self.film = nnx.Linear(condition, 2 * filters, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, values: Float[jax.Array, "b x y z m"], condition: Float[jax.Array, "b c"]
    ) -> Float[jax.Array, "b x y z f"]:
        """Returns b x y z f, from b x y z m and b c."""
        first, *others = self.convolutions
        scale, shift = jnp.split(self.film(condition)[:, None, None, None], 2, axis=-1)
        values = _rectify(first(values) * (1 + scale) + shift)
        before = values
        for layer in others:
            values = _rectify(layer(values))
        return values + before if others else values


class ConditionalUNet(nnx.Module):
    """The network as a module; see the docstring of this module."""

    def __init__(
        self,
        channels: int,
        condition: int,
        *,
        widths: Sequence[int],
        convolutions: int,
        reduction: int,
        fine: int,
        dtype: str,
        convolution: Convolution,
        rngs: nnx.Rngs,
    ):
        level = partial(
            Level,
            convolutions=convolutions,
            condition=condition,
            dtype=dtype,
            convolution=convolution,
            rngs=rngs,
        )
        self.reduction, self.filters = reduction, fine
        first = channels * reduction**3
        self.down = nnx.List([level(a, b) for a, b in pairwise([first, *widths])])
        self.up = nnx.List(
            [UpConv(b, a, dtype=dtype, rngs=rngs) for a, b in reversed(list(pairwise(widths)))]
        )
        self.merge = nnx.List([level(2 * a, a) for a in reversed(widths[:-1])])
        linear = partial(make_linear, dtype=dtype, rngs=rngs)
        if reduction == 1:
            self.readout = linear(widths[0], OUTPUTS)
            return
        self.detail = linear(widths[0], DETAIL * reduction**3)
        self.refine = make_conv(
            channels + DETAIL,
            REFINED,
            dtype=dtype,
            convolution=convolution,
            rngs=rngs,
            kernel_init=he_uniform,
        )
        self.readout = linear(REFINED, OUTPUTS)
        if fine:
            self.fine = Level(
                channels + DETAIL,
                fine,
                convolutions=FINE_CONVOLUTIONS,
                condition=condition,
                dtype=dtype,
                convolution=convolution,
                rngs=rngs,
            )
            # Initialised to zero, so that adding the branch to a trained network changes nothing.
            zeros = nnx.initializers.zeros_init()
            self.correction = nnx.Linear(
                fine, OUTPUTS, use_bias=False, kernel_init=zeros, rngs=rngs
            )

    def __call__(
        self, images: Float[jax.Array, "b x y z m"], condition: Float[jax.Array, "b c"]
    ) -> tuple[Float[jax.Array, "b x y z"], Float[jax.Array, "b x y z"]]:
        """Returns the FLAIR and the lesion logit, float32, b x y z each."""
        x, y, z = images.shape[1:4]
        stride = self.reduction * 2 ** len(self.up)
        padded = jnp.pad(images, [(0, 0), *[(0, -size % stride) for size in (x, y, z)], (0, 0)])
        values = space_to_depth(padded, self.reduction)
        skips = []
        for depth, level in enumerate(self.down):
            values = level(max_pool(values) if depth else values, condition)
            skips.append(values)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            values = merge(jnp.concatenate([skips.pop(), up(values)], axis=-1), condition)
        if self.reduction > 1:
            out = self._refine(values, padded, condition)
        else:
            out = self.readout(values)
        out = out[:, :x, :y, :z].astype(jnp.float32)
        return out[..., 0], out[..., 1]

    def _refine(
        self,
        values: Float[jax.Array, "b _ _ _ f"],
        images: Float[jax.Array, "b x y z m"],
        condition: Float[jax.Array, "b c"],
    ) -> Float[jax.Array, "b x y z 2"]:
        """Returns the outputs at full resolution, b x y z 2, from the output of the levels.

        In slabs along x, since activations at full resolution need most of the memory.
        """
        b, total, y, z, _ = values.shape
        k = self.reduction
        row_bytes = b * y * z * k**3 * _FINE_BYTES
        number, rows = blocks(total, row_bytes, _SLAB_BYTES)
        margin = -(-_fine_radius(self.filters > 0) // k)
        read = rows + 2 * margin
        if read >= total:
            return self._refine_slab(values, images, condition)

        def slab(start: jax.Array) -> jax.Array:
            low = jnp.clip(start // k - margin, 0, total - read)
            part = take_rows(values, low, read), take_rows(images, k * low, k * read)
            out = self._refine_slab(*part, condition)
            return take_rows(out, start - k * low, k * rows).astype(jnp.float32)

        return join_blocks(slab, number, k * rows, (b, k * total, k * y, k * z, OUTPUTS))

    def _refine_slab(
        self,
        values: Float[jax.Array, "b _ _ _ f"],
        images: Float[jax.Array, "b x y z m"],
        condition: Float[jax.Array, "b c"],
    ) -> Float[jax.Array, "b x y z 2"]:
        """Returns the outputs at full resolution of some rows; see `_refine`."""
        detail = depth_to_space(self.detail(values), self.reduction)
        joined = jnp.concatenate([images, detail], axis=-1)
        out = self.readout(_rectify(self.refine(joined)))
        return out + self.correction(self.fine(joined, condition)) if self.filters else out


def space_to_depth(
    values: Float[jax.Array, "b x y z m"], factor: int
) -> Float[jax.Array, "b x//{factor} y//{factor} z//{factor} m*{factor}**3"]:
    """Returns the voxels of each block as channels, b kx ky kz m -> b x y z k³m."""
    if factor == 1:
        return values
    b, x, y, z, m = values.shape
    k = factor
    cubes = values.reshape(b, x // k, k, y // k, k, z // k, k, m)
    return cubes.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, x // k, y // k, z // k, k**3 * m)


def depth_to_space(
    values: Float[jax.Array, "b x y z m"], factor: int
) -> Float[jax.Array, "b x*{factor} y*{factor} z*{factor} m//{factor}**3"]:
    """Undoes `space_to_depth`, b x y z k³f -> b kx ky kz f."""
    b, x, y, z, _ = values.shape
    k = factor
    cubes = values.reshape(b, x, y, z, k, k, k, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return cubes.reshape(b, k * x, k * y, k * z, -1)


def receptive_radius(levels: int, convolutions: int, reduction: int, *, fine: bool = False) -> int:
    """Returns the maximum number of voxels on each side that an output depends on.

    A convolution at a level with voxels of width s adds s voxels; pooling, whose blocks are aligned
    to the grid, adds s - 1.
    """
    radius, scale = 0, reduction
    for level in range(levels):
        # On the way down and up, but only once at the lowest level.
        passes = convolutions * (1 if level == levels - 1 else 2)
        radius += passes * scale + (scale - scale // 2 if level else 0)
        scale *= 2
    bottom = reduction * 2 ** (levels - 1)
    return radius + bottom + (_fine_radius(fine) if reduction > 1 else 0)


def _fine_radius(fine: bool) -> int:
    """Returns the radius of the convolutions at full resolution, with or without the branch."""
    return FINE_CONVOLUTIONS if fine else 1


def build(
    channels: int,
    condition: int,
    *,
    widths: Sequence[int] = (32, 64, 96),
    convolutions: int = 2,
    reduction: int = 2,
    fine: int = 0,
    dtype: str = "float32",
    convolution: Convolution = conv3d,
) -> ConditionalNetwork:
    """Returns the network.

    Args:
      channels: input sequences, m; absent ones are zero.
      condition: length of the condition vector, c.
      widths: filters of each level, finest first.
      convolutions: convolutions of each level.
      reduction: 1, or 2 to begin at half resolution.
      fine: filters of the branch at full resolution; 0 for none, as with `reduction` 1.
      dtype: arithmetic, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: convolution function.
    """

    def create(rngs: nnx.Rngs) -> ConditionalUNet:
        return ConditionalUNet(
            channels,
            condition,
            widths=tuple(widths),
            convolutions=convolutions,
            reduction=reduction,
            fine=fine,
            dtype=dtype,
            convolution=convolution,
            rngs=rngs,
        )

    graphdef, _ = nnx.split(create(nnx.Rngs(0)))

    def init(key: jax.Array) -> Params:
        return nnx.split(create(nnx.Rngs(key)))[1]

    return ConditionalNetwork(
        init,
        Apply(graphdef),
        receptive_radius(len(widths), convolutions, reduction, fine=bool(fine)),
        reduction * 2 ** (len(widths) - 1),
    )
