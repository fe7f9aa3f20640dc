"""Convolution of many channels to many: Winograd's minimal filtering along y.

Letters: b batch, x y z space, c channels in, f channels out, p Winograd points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

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

TILE, POINTS = 4, 6  # outputs of a Winograd tile along y, and the multiplications they take


def _winograd() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the matrices of F(4, 3): of the data p 6, of the kernel p 3, of the output 4 p.

    The points are 0, ±5/8, ±3/2 and infinity, not the usual 0, ±1, ±2: with 64 channels the largest
    error is then 5.5e-6 of the output's standard deviation instead of 1.0e-5.
    """
    s, t = 5 / 8, 3 / 2
    ss, tt = s * s, t * t
    data = [
        [ss * tt, 0, -ss - tt, 0, 1, 0],
        [0, -s * tt, -tt, s, 1, 0],
        [0, s * tt, -tt, -s, 1, 0],
        [0, -t * ss, -ss, t, 1, 0],
        [0, t * ss, -ss, -t, 1, 0],
        [0, ss * tt, 0, -ss - tt, 0, 1],
    ]
    points = np.array([[0], [s], [-s], [t], [-t]])
    scale = np.array([[ss * tt], *[[2 * ss * (ss - tt)]] * 2, *[[2 * tt * (tt - ss)]] * 2])
    kernel = np.vstack([points ** np.arange(3) / scale, [0, 0, 1]])
    output = np.vstack([points ** np.arange(4), [0, 0, 0, 1]]).T
    return np.array(data), kernel, output


def _combine(weights: np.ndarray, arrays: Sequence[Array]) -> Array:
    """Returns the weighted sum, without terms of weight zero."""
    first, *others = (float(w) * a for w, a in zip(weights, arrays, strict=True) if w)
    return sum(others, first)


def _parts(x: Array, tiles: int) -> list[Array]:
    """Cuts y into overlapping tiles of 6; returns each tile's first, second, ..., b x t z c."""
    return [x[:, :, j : j + (tiles - 1) * TILE + 1 : TILE] for j in range(POINTS)]


def conv_wide(x: Array, w: Array) -> Array:
    """Convolves many channels to many: b x y z c, 3 3 3 c f -> b x y z f."""
    b, nx, ny, nz, c = x.shape
    f = w.shape[4]
    data, kernel, output = _winograd()
    tiles = -(-ny // TILE)
    number, rows = blocks(nx, 4 * b * POINTS * tiles * (nz + 1) * (c + f))
    x = pad(x, (1, 1), (0, 0), (0, 0))
    kernels = jnp.einsum("pj,ijkcf->pikcf", kernel.astype(np.float32), w)

    def block(start: Array) -> Array:
        # Margins of y and z are added here, while the block is in the cache.
        part = pad(take_rows(x, start, rows + 2), (0, 0), (1, tiles * TILE - ny + 1), (0, 1))
        parts = _parts(part, tiles)
        points = [
            conv_xl(_combine(weights, parts), kernel)[:, :, :, :nz]
            for weights, kernel in zip(data, kernels, strict=True)
        ]
        y = jnp.stack([_combine(weights, points) for weights in output], axis=3)
        return y.reshape(b, rows, tiles * TILE, nz, f)[:, :, :ny]

    return join_blocks(block, number, rows, (b, nx, ny, nz, f))


def wide_kernel_gradient(x: Array, g: Array) -> Array:
    """Returns the gradient of a wide kernel: b x y z c, b x y z f -> 3 3 3 c f."""
    b, nx, ny, nz, c = x.shape
    f = g.shape[4]
    data, kernel, output = _winograd()
    ty, tz = -(-ny // TILE), -(-nz // TILE)
    beyond_y, beyond_z = ty * TILE - ny, tz * TILE - nz
    pairs = -(-nx // 2)
    number, pairs = blocks(pairs, 4 * b * ty * tz * POINTS * (2 * c + 4 * f), GRADIENT_BYTES)
    beyond = 2 * number * pairs - nx
    x = pad(x, (0, beyond), (0, 0), (0, 0))
    g = pad(g, (1, beyond + 1), (0, 0), (0, 0))

    def points(x: Array, matrix: np.ndarray, width: int) -> Iterator[Array]:
        """Yields the transformed data at each of the 36 points, positions × channels."""
        slots = range(matrix.shape[1])
        along_y = [x[:, :, j : j + (ty - 1) * TILE + 1 : TILE] for j in slots]
        for weights in matrix:
            part = _combine(weights, along_y)
            along_z = [part[:, :, :, k : k + (tz - 1) * TILE + 1 : TILE] for k in slots]
            for weights in matrix:
                yield _combine(weights, along_z).reshape(-1, width)

    def block(n: Array) -> Array:
        # Two rows of the input and four of the output are concatenated as channels: one product
        # gives all pairs of them, of which three quarters are taps along x.
        inputs = take_rows(x, 2 * n * pairs, 2 * pairs)
        outputs = take_rows(g, 2 * n * pairs, 2 * pairs + 2)
        inputs = jnp.concatenate([inputs[:, i::2] for i in range(2)], axis=4)
        outputs = [outputs[:, i : i + 2 * pairs - 1 : 2] for i in range(4)]
        outputs = jnp.concatenate(outputs, axis=4)
        inputs = pad(inputs, (0, 0), (1, beyond_y + 1), (1, beyond_z + 1))
        outputs = pad(outputs, (0, 0), (0, beyond_y), (0, beyond_z))
        return jnp.stack(
            [
                u.T @ v
                for u, v in zip(
                    points(inputs, data, 2 * c), points(outputs, output.T, 4 * f), strict=True
                )
            ]
        )

    total = sum_blocks(block, number).reshape(POINTS, POINTS, 2, c, 4, f)
    taps = [total[:, :, 0, :, 2 - i] + total[:, :, 1, :, 3 - i] for i in range(3)]
    kernel = jnp.asarray(kernel, jnp.float32)
    return jnp.einsum("pj,qk,ipqcf->ijkcf", kernel, kernel, jnp.stack(taps))
