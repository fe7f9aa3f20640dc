"""Convolution of a volume sharded along x over devices (halo exchange). Independent of networks.

Each device holds a slab, b x y z c. Before a convolution it receives the adjacent row of each of
its two neighbours, so that the slabs together give the result of one device on the whole volume.
Slabs have one size: if x is not divisible, rows are added at its end and set to zero before every
convolution, as 'same' padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from flaxflair.networks.conv import conv3d, is_plain
from flaxflair.networks.network import Convolution


def halo_conv(axis: str, extent: int) -> Convolution:
    """Returns a 'same' convolution, for use inside `jax.shard_map(..., check_vma=False)`.

    It has the signature of `jax.lax.conv_general_dilated`, and maps this device's slab to its slab
    of the result. In reverse mode the gradient of a kernel is that of this slab: sum it over
    `axis`. Rows of the result from `extent` on are meaningless.

    Args:
      axis: axis of the mesh over which x is sharded into slabs of one size, in order.
      extent: rows of the volume along x, without those added at its end.

    The returned function raises:
      ValueError: it is not 3×3×3 or 1×1×1, 'same', stride 1, undilated, channels last; or the slabs
        hold fewer rows than the volume has.
    """

    def convolve(
        lhs: jax.Array,
        rhs: jax.Array,
        window_strides: Sequence[int],
        padding: str | Sequence[tuple[int, int]],
        lhs_dilation: Sequence[int] | None = None,
        rhs_dilation: Sequence[int] | None = None,
        dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
        feature_group_count: int = 1,
        precision: lax.PrecisionLike = None,
        preferred_element_type: jax.typing.DTypeLike | None = None,
        out_sharding: None = None,
    ) -> jax.Array:
        plain = is_plain(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers
        )
        if not plain or rhs.shape[:3] not in ((1, 1, 1), (3, 3, 3)):
            raise ValueError(
                f"a convolution of {lhs.shape} with {rhs.shape}, strides {tuple(window_strides)}, "
                f"padding {padding!r} cannot be cut along x: only 3×3×3 and 1×1×1 can, 'same', "
                "stride 1, undilated, channels last"
            )
        margin = rhs.shape[0] // 2  # rows of its neighbours that a slab needs
        if margin:
            lhs = _with_margins(lhs, axis, extent)
        result = conv3d(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )
        return result[:, 1:-1] if margin else result

    return convolve


def _with_margins(slab: jax.Array, axis: str, extent: int) -> jax.Array:
    """Returns the slab with one more row on each side: the neighbour's, or zeros at the ends."""
    slabs, rows = lax.axis_size(axis), slab.shape[1]
    if slabs * rows < extent:
        raise ValueError(
            f"{slabs} slabs of {rows} rows hold less than the {extent} rows of the volume"
        )
    if slabs * rows > extent:
        row = lax.axis_index(axis) * rows + jnp.arange(rows)
        slab = jnp.where((row < extent)[:, None, None, None], slab, 0)
    # Devices without a neighbour receive zeros.
    before = lax.ppermute(slab[:, -1:], axis, [(i, i + 1) for i in range(slabs - 1)])
    after = lax.ppermute(slab[:, :1], axis, [(i + 1, i) for i in range(slabs - 1)])
    return jnp.concatenate([before, slab, after], axis=1)
