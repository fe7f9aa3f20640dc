"""Convolution of a sharded volume: refused arguments. For results see `test_sharding`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair.networks.conv import CHANNELS_LAST
from flaxflair.networks.halo import halo_conv
from flaxflair.training.sharding import make_mesh

IMAGES = np.random.default_rng(0).normal(size=(1, 5, 4, 3, 2)).astype(np.float32)
ONES = (1, 1, 1)


def test_pointwise_kernel_needs_no_mesh():
    kernel = np.random.default_rng(1).normal(size=(1, 1, 1, 2, 3)).astype(np.float32)
    convolve = halo_conv("space", 5)
    result = convolve(IMAGES, kernel, ONES, "SAME", dimension_numbers=CHANNELS_LAST)
    np.testing.assert_allclose(result, IMAGES @ kernel[0, 0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "strides", "padding", "dilation", "numbers"),
    [
        ((5, 5, 5), ONES, "SAME", None, CHANNELS_LAST),
        ((3, 3, 1), ONES, "SAME", None, CHANNELS_LAST),
        ((3, 3, 3), (2, 1, 1), "SAME", None, CHANNELS_LAST),
        ((1, 1, 1), (2, 1, 1), "SAME", None, CHANNELS_LAST),
        ((3, 3, 3), ONES, "VALID", None, CHANNELS_LAST),
        ((3, 3, 3), ONES, [(2, 0), (1, 1), (1, 1)], None, CHANNELS_LAST),
        ((3, 3, 3), ONES, "SAME", (2, 1, 1), CHANNELS_LAST),
        ((3, 3, 3), ONES, "SAME", None, ("NCDHW", "DHWIO", "NCDHW")),
    ],
)
def test_convolution_that_cannot_be_sharded_is_refused(
    size: tuple[int, ...],
    strides: Sequence[int],
    padding: str | list[tuple[int, int]],
    dilation: Sequence[int] | None,
    numbers: tuple[str, str, str],
):
    kernel = np.zeros((*size, 2, 2), np.float32)
    with pytest.raises(ValueError, match="cannot be cut along x"):
        halo_conv("space", 5)(
            IMAGES, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )


def test_slabs_smaller_than_the_volume_are_refused():
    convolve = partial(halo_conv("space", 6), window_strides=ONES, padding="SAME")
    cut = jax.shard_map(
        partial(convolve, dimension_numbers=CHANNELS_LAST),
        mesh=make_mesh(1, 1, jax.devices()[:1]),
        in_specs=(jax.P(None, "space"), jax.P()),
        out_specs=jax.P(None, "space"),
        check_vma=False,
    )
    with pytest.raises(ValueError, match="1 slabs of 5 rows hold less than the 6 rows"):
        jax.eval_shape(cut, IMAGES, jnp.zeros((3, 3, 3, 2, 2)))
