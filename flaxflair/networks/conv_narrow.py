"""Convolution with few channels on one side, and of volumes of a few voxels.

Letters: b batch, x y z space, c channels in, f channels out.
"""

from __future__ import annotations

from itertools import product

import jax.numpy as jnp
from jax import lax

from flaxflair.networks.conv_blocks import (
    GRADIENT_BYTES,
    Array,
    blocks,
    conv_xl,
    join_blocks,
    pad,
    sum_blocks,
    take_rows,
)

# Maximum number of voxels of a tiny volume. Forward and backward, 64 channels to 64 take 1.2 ms on
# 4×4×4 voxels and 7.4 ms with Winograd; on 8×8×8, 64 to 32, 6.4 and 5.9 ms.
TINY = 100


def is_tiny(x: Array) -> bool:
    """Whether a volume has so few voxels that a matrix product of neighbours is faster."""
    return x.shape[1] * x.shape[2] * x.shape[3] <= TINY


def neighbours(x: Array) -> Array:
    """Returns the 27 neighbours of every voxel side by side: b x y z c -> bxyz 27c."""
    _, nx, ny, nz, c = x.shape
    x = pad(x, (1, 1), (1, 1), (1, 1))
    taps = product(range(3), repeat=3)
    around = [x[:, i : i + nx, j : j + ny, k : k + nz] for i, j, k in taps]
    return jnp.concatenate(around, axis=4).reshape(-1, 27 * c)


def conv_tiny(x: Array, w: Array) -> Array:
    """Convolves a tiny volume: b x y z c, 3 3 3 c f -> b x y z f."""
    c, f = w.shape[3:]
    return (neighbours(x) @ w.reshape(27 * c, f)).reshape(*x.shape[:4], f)


def conv_from_narrow(x: Array, w: Array) -> Array:
    """Convolves few channels to many: b x y z c, 3 3 3 c f -> b x y z f."""
    b, nx, ny, nz, c = x.shape
    f = w.shape[4]
    number, rows = blocks(nx, 4 * b * ny * (nz + 1) * (3 * c + 2 * f))
    x = pad(x, (1, 1), (1, 1), (0, 1))
    kernel = w.swapaxes(1, 2).reshape(3, 3, 3 * c, f)

    def block(start: Array) -> Array:
        part = take_rows(x, start, rows + 2)
        taps = jnp.concatenate([part[:, :, j : j + ny] for j in range(3)], axis=4)
        return conv_xl(taps, kernel)[:, :, :, :nz]

    return join_blocks(block, number, rows, (b, nx, ny, nz, f))


def conv_to_narrow(x: Array, w: Array) -> Array:
    """Convolves many channels to few: b x y z c, 3 3 3 c f -> b x y z f."""
    b, nx, ny, nz, c = x.shape
    f = w.shape[4]
    number, rows = blocks(nx, 4 * b * ny * (nz + 1) * (2 * c + 3 * f))
    x = pad(x, (1, 1), (0, 0), (0, 0))
    kernel = jnp.moveaxis(w, 1, 3).reshape(3, 3, c, 3 * f)

    def block(start: Array) -> Array:
        part = pad(take_rows(x, start, rows + 2), (0, 0), (1, 1), (0, 1))
        taps = conv_xl(part, kernel)
        taps = taps.reshape(b, rows, ny + 2, nz + 1, 3, f)
        first, *others = (taps[:, :, j : j + ny, :nz, j] for j in range(3))
        return sum(others, first)

    return join_blocks(block, number, rows, (b, nx, ny, nz, f))


def narrow_kernel_gradient(x: Array, g: Array) -> Array:
    """Returns the gradient of a kernel with a narrow side: b x y z c, b x y z f -> 3 3 3 c f."""
    b, nx, ny, nz, c = x.shape
    f = g.shape[4]
    number, rows = blocks(nx, 4 * b * ny * nz * (39 * c + f), GRADIENT_BYTES)
    beyond = number * rows - nx
    # Channels first for the narrow side: its 27 shifts are then a matrix with long rows.
    x = jnp.moveaxis(pad(x, (1, beyond + 1), (1, 1), (1, 1)), 4, 1)  # b c x y z
    g = pad(g, (0, beyond), (0, 0), (0, 0))

    def block(n: Array) -> Array:
        taps = lax.dynamic_slice_in_dim(x, n * rows, rows + 2, axis=2)
        taps = jnp.stack([taps[..., k : k + nz] for k in range(3)])
        taps = jnp.stack([taps[..., j : j + ny, :] for j in range(3)])
        taps = jnp.stack([taps[..., i : i + rows, :, :] for i in range(3)])
        return jnp.einsum("ijkbcxyz,bxyzf->ijkcf", taps, take_rows(g, n * rows, rows))

    return sum_blocks(block, number)
