"""Convolution: 3×3×3, 'same', stride 1, quick on a CPU, in plain JAX. Knows nothing of networks.

XLA's own 3-D convolution reaches a quarter of what a CPU can do, and a tenth at 16 channels; its
2-D convolution reaches nearly all of it where the second image axis is long. So here a 3-D
convolution is a 2-D one over x and the joint axis (y, z), and the three taps along y are dealt with

- *wide*, many channels on both sides: by Winograd's minimal filtering F(4, 3) along y, which takes
  6 multiplications where 12 were needed (Lavin & Gray 2016, arXiv:1509.09308);
- *from narrow*, few channels in (the first layer): as three times the channels in;
- *to narrow*, few channels out (the last layer): as three times the channels out, added up.

The gradient of a wide kernel goes by F(4, 3) along y and z, 36 multiplications where 144 were
needed, and is 36 matrix products.

A volume of a few voxels, as at the bottom of a U-Net, is too short for any of this: there the 27
neighbours of every voxel go side by side, and a matrix product does the rest.

Everything else goes in blocks of x, so that what is in flight is bounded and mostly in the cache.
On any other platform, and for any other convolution, `jax.lax.conv_general_dilated` does the work.

Letters: b batch, x y z space, c channels in, f channels out, p Winograd points, k taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Block = Callable[[Array], Array]

# A side of so few channels is narrow. By Winograd the first layer (5 to 64 channels) takes half as
# long again and the gradient of the last (1 to 64) twice as long: the transforms of the 64 outweigh
# what they save on the few.
NARROW = 8

# Voxels of a volume that is tiny. Forth and back, 64 channels to 64 take 1.2 ms on 4×4×4 voxels
# where Winograd takes 7.4 ms; on 8×8×8, 64 to 32, 6.4 and 5.9 ms.
TINY = 100

# What a block may take. Convolutions are indifferent: 64 channels on 104×256×40 took 1.2, 1.2 and
# 1.1 s in blocks of 4, 13 and 26 rows (32, 105 and 210 MB). Gradients of kernels like the cache:
# they took 1.7, 2.7 and 3.3 s in blocks of 4, 16 and 64 MiB.
BLOCK_BYTES = 128 * 2**20
GRADIENT_BYTES = 4 * 2**20

TILE, POINTS = 4, 6  # outputs of a Winograd tile along y, and the multiplications they take

CHANNELS_LAST = ("NDHWC", "DHWIO", "NDHWC")
_2D = ("NHWC", "HWIO", "NHWC")


def conv3d(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    out_sharding: jax.sharding.NamedSharding | jax.P | None = None,
) -> Array:
    """Convolves as `jax.lax.conv_general_dilated` does, and faster on a CPU where it matters.

    `lhs` (b x y z c) and `rhs` (3 3 3 c f) give b x y z f; every argument means what it means
    there. Faster is what is 3×3×3, 'same', stride 1, without dilation or groups, channels last, in
    float32 or bfloat16. All else is passed on. On a CPU it is computed in float32, which is as much
    as any `precision` asks for; elsewhere `precision` and all else are XLA's.

    In float32, for 64 channels of noise to 64, the result differs from XLA's by 9e-7 of the
    output's standard deviation (at most 4e-6 among ten thousand values and 1.2e-5 among twenty
    million, where XLA's own largest error is 2e-6), and a kernel's gradient from the exact one by
    8e-6 at most (XLA's by 7e-6). Repeated runs on as many cores are identical to the bit.

    Differentiable once, in reverse mode, with respect to both arguments; a gradient that is not
    asked for is not computed. Under `vmap` on a CPU the examples go one after another.
    """
    ours = (
        rhs.shape[:3] == (3, 3, 3)
        and is_plain(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers
        )
        and lhs.shape[4] == rhs.shape[3]
        and lhs.size > 0 < rhs.size
        and lhs.dtype == rhs.dtype
        and lhs.dtype in (jnp.float32, jnp.bfloat16)
        and preferred_element_type in (None, lhs.dtype)
        and not isinstance(precision, lax.DotAlgorithm | lax.DotAlgorithmPreset)
        and out_sharding is None
        and feature_group_count == batch_group_count == 1
    )
    if ours:
        return _conv(lhs, rhs, precision)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


def is_plain(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers,
) -> bool:
    """Whether it is 3-D, of an odd kernel, 'same', stride 1, undilated and channels last."""
    if lhs.ndim != 5 or rhs.ndim != 5:
        return False
    margins = [(size // 2, size // 2) for size in rhs.shape[:3]]
    same = (
        padding.upper() in ("SAME", "SAME_LOWER")
        if isinstance(padding, str)
        else [tuple(p) for p in padding] == margins
    )
    return (
        same
        and all(size % 2 for size in rhs.shape[:3])
        and tuple(window_strides) == (1, 1, 1)
        and all(d is None or tuple(d) == (1, 1, 1) for d in (lhs_dilation, rhs_dilation))
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        == lax.conv_dimension_numbers(lhs.shape, rhs.shape, CHANNELS_LAST)
    )


# --- the derivative ------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, precision: lax.PrecisionLike) -> Array:
    """Returns the convolution: b x y z c, 3 3 3 c f -> b x y z f."""
    elsewhere = partial(_xla_conv, precision=precision)
    return lax.platform_dependent(x, w, cpu=_cpu_conv, default=elsewhere)


def _conv_fwd(x, w, precision):
    # What no gradient needs is not kept: training does not differentiate with respect to the
    # images, nor saliency with respect to the kernels.
    kept = (x.value if w.perturbed else None, w.value if x.perturbed else None)
    return _conv(x.value, w.value, precision), kept


def _conv_bwd(precision, kept, g):
    x, w = kept
    # The transpose of a 'same' convolution is one with the kernel mirrored and its sides swapped.
    dx = None if w is None else _conv(g, _mirror(w), precision)
    dw = None
    if x is not None:
        elsewhere = partial(_xla_kernel_gradient, precision=precision)
        dw = lax.platform_dependent(x, g, cpu=_cpu_kernel_gradient, default=elsewhere)
    return dx, dw


_conv.defvjp(_conv_fwd, _conv_bwd, symbolic_zeros=True)


def _mirror(w: Array) -> Array:
    """Returns the kernel as seen from the output: every tap on the other side, f c for c f."""
    return jnp.flip(w, (0, 1, 2)).swapaxes(3, 4)


def _xla_conv(x: Array, w: Array, precision: lax.PrecisionLike = None) -> Array:
    return lax.conv_general_dilated(
        x, w, (1, 1, 1), "SAME", dimension_numbers=CHANNELS_LAST, precision=precision
    )


def _xla_kernel_gradient(x: Array, g: Array, precision: lax.PrecisionLike = None) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, 3, x.shape[4], g.shape[4]), x.dtype)
    (dw,) = jax.linear_transpose(lambda w: _xla_conv(x, w, precision), kernel)(g)
    return dw


# --- on a CPU ------------------------------------------------------------------------------------


def _in_turn(f: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Returns `f` computed in float32; under `vmap`, one example after another."""

    def in_float32(a: Array, b: Array) -> Array:
        return f(a.astype(jnp.float32), b.astype(jnp.float32)).astype(a.dtype)

    return jax.custom_batching.sequential_vmap(in_float32)


@_in_turn
def _cpu_conv(x: Array, w: Array) -> Array:
    c, f = w.shape[3:]
    if _is_tiny(x):
        return _tiny(x, w)
    if min(c, f) > NARROW:
        return _wide(x, w)
    return _from_narrow(x, w) if c <= f else _to_narrow(x, w)


@_in_turn
def _cpu_kernel_gradient(x: Array, g: Array) -> Array:
    """Returns the gradient of the kernel: b x y z c, b x y z f -> 3 3 3 c f."""
    c, f = x.shape[4], g.shape[4]
    if _is_tiny(x):
        return (_neighbours(x).T @ g.reshape(-1, f)).reshape(3, 3, 3, c, f)
    if min(c, f) > NARROW:
        return _wide_kernel_gradient(x, g)
    if c <= f:
        return _narrow_kernel_gradient(x, g)
    return _mirror(_narrow_kernel_gradient(g, x))


def blocks(rows: int, row_bytes: int, block_bytes: int = BLOCK_BYTES) -> tuple[int, int]:
    """Returns how many blocks to cut an axis into, and the rows of each, as even as can be.

    Args:
      rows: the length of the axis.
      row_bytes: what one row takes while it is worked on.
      block_bytes: what a block may take; it has one row at least.
    """
    number = -(-rows // max(1, block_bytes // row_bytes))
    return number, -(-rows // number)


def _pad(x: Array, *margins: tuple[int, int]) -> Array:
    """Returns b x y z c with zeros before and after along x, y and z."""
    return jnp.pad(x, ((0, 0), *margins, (0, 0)))


def _rows(x: Array, start: Array, number: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, number, axis=1)


def _join(block: Block, number: int, rows: int, shape: tuple[int, ...]) -> Array:
    """Returns b x y z f put together from blocks; `block` takes the first row and makes `rows`.

    Written in place. The last block overlaps the one before rather than going beyond the end: a
    result that had to be cut to size would be copied once more.
    """

    def step(n: Array, out: Array) -> Array:
        start = jnp.minimum(n * rows, shape[1] - rows)
        return lax.dynamic_update_slice_in_dim(out, block(start), start, axis=1)

    return lax.fori_loop(0, number, step, jnp.zeros(shape, jnp.float32))


def _sum(block: Block, number: int) -> Array:
    """Returns the sum of the blocks' results; `block` takes its number."""
    total = jax.eval_shape(block, jax.ShapeDtypeStruct((), jnp.int32))
    return lax.fori_loop(
        0, number, lambda i, total: total + block(i), jnp.zeros(total.shape, total.dtype)
    )


def _conv_xl(x: Array, w: Array) -> Array:
    """Convolves b x y z c with 3 3 c f over x, where no margin is added, and over (y, z).

    y and z go as one long axis, which is what keeps all cores busy. The last column along z has to
    be zero: a tap that leaves its line meets it. What comes out in that column is meaningless.
    """
    b, nx, ny, nz, c = x.shape
    lines = x.reshape(b, nx, ny * nz, c)
    y = lax.conv_general_dilated(lines, w, (1, 1), ((0, 0), (1, 1)), dimension_numbers=_2D)
    return y.reshape(b, nx - 2, ny, nz, -1)


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
    """Returns the weighted sum; what weighs nothing is left out."""
    first, *others = (float(w) * a for w, a in zip(weights, arrays, strict=True) if w)
    return sum(others, first)


def _parts(x: Array, tiles: int) -> list[Array]:
    """Cuts y into overlapping tiles of 6; returns each tile's first, second, ..., b x t z c."""
    return [x[:, :, j : j + (tiles - 1) * TILE + 1 : TILE] for j in range(POINTS)]


def _wide(x: Array, w: Array) -> Array:
    b, nx, ny, nz, c = x.shape
    f = w.shape[4]
    data, kernel, output = _winograd()
    tiles = -(-ny // TILE)
    number, rows = blocks(nx, 4 * b * POINTS * tiles * (nz + 1) * (c + f))
    x = _pad(x, (1, 1), (0, 0), (0, 0))
    kernels = jnp.einsum("pj,ijkcf->pikcf", kernel.astype(np.float32), w)

    def block(start: Array) -> Array:
        # Margins of y and z are added here, while the block is in the cache.
        part = _pad(_rows(x, start, rows + 2), (0, 0), (1, tiles * TILE - ny + 1), (0, 1))
        parts = _parts(part, tiles)
        points = [
            _conv_xl(_combine(weights, parts), kernel)[:, :, :, :nz]
            for weights, kernel in zip(data, kernels, strict=True)
        ]
        y = jnp.stack([_combine(weights, points) for weights in output], axis=3)
        return y.reshape(b, rows, tiles * TILE, nz, f)[:, :, :ny]

    return _join(block, number, rows, (b, nx, ny, nz, f))


def _wide_kernel_gradient(x: Array, g: Array) -> Array:
    b, nx, ny, nz, c = x.shape
    f = g.shape[4]
    data, kernel, output = _winograd()
    ty, tz = -(-ny // TILE), -(-nz // TILE)
    beyond_y, beyond_z = ty * TILE - ny, tz * TILE - nz
    pairs = -(-nx // 2)
    number, pairs = blocks(pairs, 4 * b * ty * tz * POINTS * (2 * c + 4 * f), GRADIENT_BYTES)
    beyond = 2 * number * pairs - nx
    x = _pad(x, (0, beyond), (0, 0), (0, 0))
    g = _pad(g, (1, beyond + 1), (0, 0), (0, 0))

    def points(x: Array, matrix: np.ndarray, width: int) -> Iterator[Array]:
        """Yields what meets at each of the 36 points: every position by the channels."""
        slots = range(matrix.shape[1])
        along_y = [x[:, :, j : j + (ty - 1) * TILE + 1 : TILE] for j in slots]
        for weights in matrix:
            part = _combine(weights, along_y)
            along_z = [part[:, :, :, k : k + (tz - 1) * TILE + 1 : TILE] for k in slots]
            for weights in matrix:
                yield _combine(weights, along_z).reshape(-1, width)

    def block(n: Array) -> Array:
        # Two rows of the input meet four of the output, side by side as channels: one product
        # makes all pairs of them, of which three quarters are taps along x.
        inputs = _rows(x, 2 * n * pairs, 2 * pairs)
        outputs = _rows(g, 2 * n * pairs, 2 * pairs + 2)
        inputs = jnp.concatenate([inputs[:, i::2] for i in range(2)], axis=4)
        outputs = [outputs[:, i : i + 2 * pairs - 1 : 2] for i in range(4)]
        outputs = jnp.concatenate(outputs, axis=4)
        inputs = _pad(inputs, (0, 0), (1, beyond_y + 1), (1, beyond_z + 1))
        outputs = _pad(outputs, (0, 0), (0, beyond_y), (0, beyond_z))
        return jnp.stack(
            [
                u.T @ v
                for u, v in zip(
                    points(inputs, data, 2 * c), points(outputs, output.T, 4 * f), strict=True
                )
            ]
        )

    total = _sum(block, number).reshape(POINTS, POINTS, 2, c, 4, f)
    taps = [total[:, :, 0, :, 2 - i] + total[:, :, 1, :, 3 - i] for i in range(3)]
    kernel = jnp.asarray(kernel, jnp.float32)
    return jnp.einsum("pj,qk,ipqcf->ijkcf", kernel, kernel, jnp.stack(taps))


def _is_tiny(x: Array) -> bool:
    return x.shape[1] * x.shape[2] * x.shape[3] <= TINY


def _neighbours(x: Array) -> Array:
    """Returns the 27 neighbours of every voxel side by side: b x y z c -> bxyz 27c."""
    _, nx, ny, nz, c = x.shape
    x = _pad(x, (1, 1), (1, 1), (1, 1))
    taps = product(range(3), repeat=3)
    around = [x[:, i : i + nx, j : j + ny, k : k + nz] for i, j, k in taps]
    return jnp.concatenate(around, axis=4).reshape(-1, 27 * c)


def _tiny(x: Array, w: Array) -> Array:
    c, f = w.shape[3:]
    return (_neighbours(x) @ w.reshape(27 * c, f)).reshape(*x.shape[:4], f)


def _from_narrow(x: Array, w: Array) -> Array:
    b, nx, ny, nz, c = x.shape
    f = w.shape[4]
    number, rows = blocks(nx, 4 * b * ny * (nz + 1) * (3 * c + 2 * f))
    x = _pad(x, (1, 1), (1, 1), (0, 1))
    kernel = w.swapaxes(1, 2).reshape(3, 3, 3 * c, f)

    def block(start: Array) -> Array:
        part = _rows(x, start, rows + 2)
        taps = jnp.concatenate([part[:, :, j : j + ny] for j in range(3)], axis=4)
        return _conv_xl(taps, kernel)[:, :, :, :nz]

    return _join(block, number, rows, (b, nx, ny, nz, f))


def _to_narrow(x: Array, w: Array) -> Array:
    b, nx, ny, nz, c = x.shape
    f = w.shape[4]
    number, rows = blocks(nx, 4 * b * ny * (nz + 1) * (2 * c + 3 * f))
    x = _pad(x, (1, 1), (0, 0), (0, 0))
    kernel = jnp.moveaxis(w, 1, 3).reshape(3, 3, c, 3 * f)

    def block(start: Array) -> Array:
        part = _pad(_rows(x, start, rows + 2), (0, 0), (1, 1), (0, 1))
        taps = _conv_xl(part, kernel)
        taps = taps.reshape(b, rows, ny + 2, nz + 1, 3, f)
        first, *others = (taps[:, :, j : j + ny, :nz, j] for j in range(3))
        return sum(others, first)

    return _join(block, number, rows, (b, nx, ny, nz, f))


def _narrow_kernel_gradient(x: Array, g: Array) -> Array:
    b, nx, ny, nz, c = x.shape
    f = g.shape[4]
    number, rows = blocks(nx, 4 * b * ny * nz * (39 * c + f), GRADIENT_BYTES)
    beyond = number * rows - nx
    # The narrow side goes channels first: 27 shifts of it are then a matrix with long rows.
    x = jnp.moveaxis(_pad(x, (1, beyond + 1), (1, 1), (1, 1)), 4, 1)  # b c x y z
    g = _pad(g, (0, beyond), (0, 0), (0, 0))

    def block(n: Array) -> Array:
        taps = lax.dynamic_slice_in_dim(x, n * rows, rows + 2, axis=2)
        taps = jnp.stack([taps[..., k : k + nz] for k in range(3)])
        taps = jnp.stack([taps[..., j : j + ny, :] for j in range(3)])
        taps = jnp.stack([taps[..., i : i + rows, :, :] for i in range(3)])
        return jnp.einsum("ijkbcxyz,bxyzf->ijkcf", taps, _rows(g, n * rows, rows))

    return _sum(block, number)
