"""Fast 3×3×3 'same' convolution with stride 1 on CPUs, in plain JAX. Independent of networks.

XLA's 3-D convolution reaches a quarter of a CPU's peak, and a tenth with 16 channels; its 2-D
convolution reaches nearly all of it if the second image axis is long. Here a 3-D convolution is
therefore a 2-D one over x and the joint axis (y, z), and the three taps along y are handled

- *wide*, many channels on both sides: by Winograd's minimal filtering F(4, 3) along y, which takes
  6 multiplications where 12 were needed (Lavin & Gray 2016, arXiv:1509.09308);
- *from narrow*, few channels in (the first layer): as three times the channels in;
- *to narrow*, few channels out (the last layer): as three times the channels out, added up.

The gradient of a wide kernel uses F(4, 3) along y and z, with 36 multiplications instead of 144, as
36 matrix products.

Volumes of a few voxels, as at the bottom of a U-Net, are too small for this: there the convolution
is one matrix product of the 27 neighbours of every voxel with the kernel.

All other volumes are processed in blocks of x, so that memory is bounded and mostly in the cache.
On other platforms, and for other convolutions, `jax.lax.conv_general_dilated` is used.

Letters: b batch, x y z space, c channels in, f channels out, p Winograd points, k taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from flaxflair.networks.conv_blocks import Array
from flaxflair.networks.conv_narrow import (
    conv_from_narrow,
    conv_tiny,
    conv_to_narrow,
    is_tiny,
    narrow_kernel_gradient,
    neighbours,
)
from flaxflair.networks.conv_wide import conv_wide, wide_kernel_gradient

# Maximum number of channels of a narrow side. With Winograd, the first layer (5 to 64 channels)
# takes 1.5 times as long and the gradient of the last (1 to 64) twice as long: the transforms of
# the 64 channels cost more than they save on the few.
NARROW = 8


CHANNELS_LAST = ("NDHWC", "DHWIO", "NDHWC")


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
    """Convolves like `jax.lax.conv_general_dilated`, but faster on a CPU for 3×3×3 kernels.

    `lhs` (b x y z c) and `rhs` (3 3 3 c f) give b x y z f, with the same arguments. Convolutions
    that are 3×3×3, 'same', stride 1, without dilation or groups, channels last, in float32 or
    bfloat16 are faster; others are passed to XLA. On a CPU the computation is in float32, which
    satisfies any `precision`; elsewhere it is XLA's.

    In float32, for 64 channels of noise to 64, the result differs from XLA's by 9e-7 of the
    output's standard deviation (at most 4e-6 among ten thousand values and 1.2e-5 among twenty
    million, where XLA's own largest error is 2e-6), and a kernel's gradient from the exact one by
    8e-6 at most (XLA's by 7e-6). Repeated runs on the same number of cores are bit-identical.

    Differentiable once, in reverse mode, with respect to both arguments; only the gradients needed
    are computed. Under `vmap` on a CPU the examples are computed sequentially.
    """
    supported = (
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
    if supported:
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
    """Whether a convolution is 3-D, of odd kernel, 'same', stride 1, undilated, channels last."""
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


# --- derivative ----------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, precision: lax.PrecisionLike) -> Array:
    """Returns the convolution: b x y z c, 3 3 3 c f -> b x y z f."""
    default = partial(_xla_conv, precision=precision)
    return lax.platform_dependent(x, w, cpu=_cpu_conv, default=default)


def _conv_fwd(x, w, precision):
    # Only residuals of needed gradients are stored: training does not differentiate with respect to
    # the images, nor saliency with respect to the kernels.
    residuals = (x.value if w.perturbed else None, w.value if x.perturbed else None)
    return _conv(x.value, w.value, precision), residuals


def _conv_bwd(precision, residuals, g):
    x, w = residuals
    # The transpose of a 'same' convolution is one with a flipped kernel and swapped channels.
    dx = None if w is None else _conv(g, _mirror(w), precision)
    dw = None
    if x is not None:
        default = partial(_xla_kernel_gradient, precision=precision)
        dw = lax.platform_dependent(x, g, cpu=_cpu_kernel_gradient, default=default)
    return dx, dw


_conv.defvjp(_conv_fwd, _conv_bwd, symbolic_zeros=True)


def _mirror(w: Array) -> Array:
    """Returns the kernel of the transpose: flipped along x, y and z, with channels swapped."""
    return jnp.flip(w, (0, 1, 2)).swapaxes(3, 4)


def _xla_conv(x: Array, w: Array, precision: lax.PrecisionLike = None) -> Array:
    return lax.conv_general_dilated(
        x, w, (1, 1, 1), "SAME", dimension_numbers=CHANNELS_LAST, precision=precision
    )


def _xla_kernel_gradient(x: Array, g: Array, precision: lax.PrecisionLike = None) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, 3, x.shape[4], g.shape[4]), x.dtype)
    (dw,) = jax.linear_transpose(lambda w: _xla_conv(x, w, precision), kernel)(g)
    return dw


# --- CPU -----------------------------------------------------------------------------------------


def _sequential(f: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Returns `f` computed in float32; under `vmap`, examples are computed sequentially."""

    def in_float32(a: Array, b: Array) -> Array:
        return f(a.astype(jnp.float32), b.astype(jnp.float32)).astype(a.dtype)

    return jax.custom_batching.sequential_vmap(in_float32)


@_sequential
def _cpu_conv(x: Array, w: Array) -> Array:
    c, f = w.shape[3:]
    if is_tiny(x):
        return conv_tiny(x, w)
    if min(c, f) > NARROW:
        return conv_wide(x, w)
    return conv_from_narrow(x, w) if c <= f else conv_to_narrow(x, w)


@_sequential
def _cpu_kernel_gradient(x: Array, g: Array) -> Array:
    """Returns the gradient of the kernel: b x y z c, b x y z f -> 3 3 3 c f."""
    c, f = x.shape[4], g.shape[4]
    if is_tiny(x):
        return (neighbours(x).T @ g.reshape(-1, f)).reshape(3, 3, 3, c, f)
    if min(c, f) > NARROW:
        return wide_kernel_gradient(x, g)
    if c <= f:
        return narrow_kernel_gradient(x, g)
    return _mirror(narrow_kernel_gradient(g, x))
