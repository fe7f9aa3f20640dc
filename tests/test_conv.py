"""Convolution: equal to XLA's own, in value and in both gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from flaxflair.networks.conv import blocks, conv3d

DIMS = ("NDHWC", "DHWIO", "NDHWC")
GRIDS = [(1, 1, 1), (1, 2, 3), (3, 1, 2), (4, 4, 4), (5, 9, 7), (13, 6, 11)]
CHANNELS = [(5, 64), (64, 64), (64, 1), (5, 16), (16, 16), (16, 1), (1, 1), (9, 33), (96, 96)]


def example(grid, c, f, batch=1, dtype=jnp.float32):
    """Returns images, kernel and an output cotangent."""
    x, w, g = (jax.random.key(i) for i in range(3))
    return (
        jax.random.normal(x, (batch, *grid, c), dtype),
        jax.random.normal(w, (3, 3, 3, c, f), dtype),
        jax.random.normal(g, (batch, *grid, f), dtype),
    )


def same(x, w):
    return conv3d(x, w, (1, 1, 1), "SAME", dimension_numbers=DIMS)


def reference(x, w):
    return lax.conv_general_dilated(x, w, (1, 1, 1), "SAME", dimension_numbers=DIMS)


@jax.jit
def direct(x, w, g):
    """Returns value, gradient of the images and gradient of the kernel, all by XLA."""
    y, vjp = jax.vjp(reference, x, w)
    return y, *vjp(g)


@jax.jit
def quick(x, w, g):
    y, vjp = jax.vjp(same, x, w)
    return y, *vjp(g)


def assert_near(found, expected, tolerance=1e-5):
    """The largest error is at most `tolerance` of the standard deviation (or size, if constant)."""
    found, expected = np.float64(found), np.float64(expected)
    scale = expected.std() if expected.size > 9 else np.abs(expected).max()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * scale


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_value_and_both_gradients_equal_those_of_xla(grid, channels):
    arrays = example(grid, *channels)
    for found, expected in zip(quick(*arrays), direct(*arrays), strict=True):
        assert_near(found, expected)


@pytest.mark.parametrize("channels", [(5, 16), (16, 16), (16, 1)], ids=str)
@pytest.mark.parametrize("nx", [7, 12])
def test_blocks_of_rows_join_without_a_seam(monkeypatch, channels, nx):
    monkeypatch.setattr("flaxflair.networks.conv.blocks", lambda rows, _: blocks(rows, 1, 3))
    arrays = example((nx, 7, 5), *channels, batch=2)
    for found, expected in zip(quick(*arrays), direct(*arrays), strict=True):
        assert_near(found, expected)


def test_blocks_cover_the_axis_and_fit_the_cache():
    for rows in range(1, 50):
        for cache in (1, 7, 100, 10**6):
            number, size = blocks(rows, 7, cache)
            assert (number - 1) * size < rows <= number * size
            assert size == 1 or size * 7 <= cache


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("channels", [(5, 16), (16, 16), (16, 1)], ids=str)
def test_vmap_equals_one_at_a_time(axes, channels):
    x, w, g = example((4, 5, 6), *channels)
    x, w = (
        a if axis is None else jnp.stack([a, 2 * a, -a])
        for a, axis in zip((x, w), axes, strict=True)
    )
    for found, expected in zip(
        jax.jit(jax.vmap(quick, (*axes, None)))(x, w, g),
        jax.vmap(direct, (*axes, None))(x, w, g),
        strict=True,
    ):
        assert_near(found, expected)


def test_gradient_of_vmap_and_of_lax_map_equals_that_of_xla():
    x, w, _ = example((4, 5, 6), 9, 10, batch=3)

    def loss(w, conv, many):
        return jnp.sum(many(lambda x: jnp.tanh(conv(x[None], w)))(x))

    def mapped(f):
        return lambda x: lax.map(f, x)

    expected = jax.grad(loss)(w, reference, jax.vmap)
    assert_near(jax.grad(loss)(w, same, jax.vmap), expected)
    assert_near(jax.jit(jax.grad(loss), static_argnums=(1, 2))(w, same, mapped), expected)


def test_only_the_gradients_that_are_asked_for_are_computed():
    x, w, g = example((4, 5, 6), 16, 16)

    def flops(argnums):
        def loss(x, w):
            return jnp.vdot(same(x, w), g)

        cost = jax.jit(jax.grad(loss, argnums)).lower(x, w).compile().cost_analysis()
        return cost["flops"]

    assert flops(0) + flops(1) < 1.2 * flops((0, 1))


@pytest.mark.parametrize("batch", [1, 3])
def test_bfloat16_is_as_near_as_bfloat16_can_be(batch):
    x, w, g = example((5, 6, 7), 16, 16, batch, jnp.bfloat16)
    found = quick(x, w, g)
    expected = direct(*(a.astype(jnp.float32) for a in (x, w, g)))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        assert_near(a.astype(jnp.float32), b, 2e-2)


def test_repeated_runs_are_identical_to_the_bit():
    arrays = example((9, 17, 12), 16, 32)
    first = quick(*arrays)
    for _ in range(5):
        for a, b in zip(quick(*arrays), first, strict=True):
            np.testing.assert_array_equal(a, b)


CASES = {
    "stride": dict(window_strides=(1, 2, 1)),
    "valid": dict(padding="VALID"),
    "uneven padding": dict(padding=[(1, 1), (2, 0), (1, 1)]),
    "dilated images": dict(lhs_dilation=(1, 1, 2)),
    "dilated kernel": dict(rhs_dilation=(2, 1, 1)),
    "precision": dict(precision=lax.Precision.HIGHEST),
    "groups": dict(feature_group_count=2),
    "preferred type": dict(preferred_element_type=jnp.float64),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_other_convolution_is_passed_on_unchanged(case):
    x, w, _ = example((4, 5, 6), 16, 16)
    options = dict(window_strides=(1, 1, 1), padding="SAME", dimension_numbers=DIMS) | CASES[case]
    if case == "groups":
        w = w[..., :8, :]

    def jaxpr(conv):
        return str(jax.make_jaxpr(lambda x, w: conv(x, w, **options))(x, w))

    with jax.enable_x64(case == "preferred type"):
        assert jaxpr(conv3d) == jaxpr(lax.conv_general_dilated)


@pytest.mark.parametrize(
    ("x", "w", "dims"),
    [
        ((1, 16, 4, 5, 6), (8, 16, 3, 3, 3), None),
        ((1, 4, 5, 6, 16), (3, 3, 1, 16, 8), DIMS),
        ((1, 5, 6, 16), (3, 3, 16, 8), ("NHWC", "HWIO", "NHWC")),
        ((0, 4, 5, 6, 16), (3, 3, 3, 16, 8), DIMS),
    ],
    ids=["channels first", "flat kernel", "two dimensions", "empty batch"],
)
def test_any_other_shape_is_passed_on_unchanged(x, w, dims):
    x, w = jnp.ones(x), jnp.ones(w)
    options = ((1,) * (x.ndim - 2), "SAME", None, None, dims)
    assert str(jax.make_jaxpr(lambda x, w: conv3d(x, w, *options))(x, w)) == str(
        jax.make_jaxpr(lambda x, w: lax.conv_general_dilated(x, w, *options))(x, w)
    )


def test_channels_that_do_not_match_are_refused_as_xla_refuses_them():
    x, w, _ = example((4, 5, 6), 16, 16)
    with pytest.raises(ValueError, match="feature"):
        same(x[..., :8], w)


def test_an_nnx_layer_takes_it():
    layers = [
        nnx.Conv(9, 10, (3, 3, 3), conv_general_dilated=conv, rngs=nnx.Rngs(0))
        for conv in (conv3d, lax.conv_general_dilated)
    ]
    x, _, _ = example((4, 5, 6), 9, 10)
    quick_layer, direct_layer = (nnx.jit(layer)(x) for layer in layers)
    assert_near(quick_layer, direct_layer)


def test_another_platform_is_given_the_convolution_of_xla():
    x, w, g = example((4, 5, 6), 16, 16)
    text = jax.jit(quick).trace(x, w, g).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in text
