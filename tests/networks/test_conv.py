"""Convolution: value and both gradients equal those of XLA."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from flaxflair.networks.conv import conv3d
from flaxflair.networks.conv_blocks import blocks
from tests.closeness import assert_near

DIMS = ("NDHWC", "DHWIO", "NDHWC")
CHANNELS = [(5, 64), (64, 64), (64, 1), (5, 16), (16, 16), (16, 1), (1, 1), (9, 33), (96, 96)]
CASES = [((5, 9, 7), channels) for channels in CHANNELS] + [
    (grid, channels)
    for grid in [(1, 2, 3), (4, 4, 4), (13, 6, 11)]
    for channels in [(5, 9), (9, 10), (9, 5)]
]

# Low optimisation: compilation dominates the time, and only the arithmetic is tested.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def example(grid, c, f, batch=1, dtype=np.float32):
    """Returns images, kernel and an output cotangent."""
    normal = np.random.default_rng(0).standard_normal
    shapes = (batch, *grid, c), (3, 3, 3, c, f), (batch, *grid, f)
    return tuple(jnp.asarray(normal(shape), dtype) for shape in shapes)


def same(x, w):
    return conv3d(x, w, (1, 1, 1), "SAME", dimension_numbers=DIMS)


def reference(x, w):
    return lax.conv_general_dilated(x, w, (1, 1, 1), "SAME", dimension_numbers=DIMS)


def value_and_gradients(conv, x, w, g):
    """Returns the value, the gradient of the images and that of the kernel."""
    y, vjp = jax.vjp(conv, x, w)
    return y, *vjp(g)


quick = jit(partial(value_and_gradients, same))
_direct = jit(partial(value_and_gradients, reference))


def direct(*arrays):
    """The value and the gradients by XLA in float64, free of the rounding of float32."""
    with jax.enable_x64(True):
        return _direct(*(np.asarray(array, np.float64) for array in arrays))


@pytest.mark.parametrize(("grid", "channels"), CASES, ids=str)
def test_value_and_both_gradients_equal_those_of_xla(grid, channels):
    arrays = example(grid, *channels)
    # Rounding grows at most linearly with the number of summed products.
    tolerance = 1e-5 * max(1, *(c / 64 for c in channels))
    for found, expected in zip(quick(*arrays), direct(*arrays), strict=True):
        assert_near(found, expected, tolerance)


def test_a_batch_of_tiny_volumes_equals_that_of_xla():
    arrays = example((4, 3, 5), 12, 16, batch=3)
    for found, expected in zip(quick(*arrays), direct(*arrays), strict=True):
        assert_near(found, expected)


@pytest.mark.parametrize("channels", [(5, 12), (12, 12), (12, 1)], ids=str)
def test_blocks_equal_the_whole_volume(monkeypatch, channels):
    for module in ("conv_wide", "conv_narrow"):
        name = f"flaxflair.networks.{module}.blocks"
        monkeypatch.setattr(name, lambda rows, *_: blocks(rows, 1, 3))
    arrays = example((7, 6, 5), *channels, batch=2)
    for found, expected in zip(quick(*arrays), direct(*arrays), strict=True):
        assert_near(found, expected)


def test_blocks_cover_the_axis_within_their_size():
    for rows in range(1, 50):
        for size in (1, 7, 100, 10**6):
            number, each = blocks(rows, 7, size)
            assert (number - 1) * each < rows <= number * each
            assert each == 1 or each * 7 <= size


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_equals_a_loop(axes):
    x, w, g = example((4, 5, 6), 9, 10)
    x = x if axes[0] is None else jnp.stack([x, 2 * x, -x])
    w = w if axes[1] is None else jnp.stack([w, 2 * w, -w])
    for found, expected in zip(
        jit(jax.vmap(partial(value_and_gradients, same), (*axes, None)))(x, w, g),
        jit(jax.vmap(partial(value_and_gradients, reference), (*axes, None)))(x, w, g),
        strict=True,
    ):
        assert_near(found, expected)


@pytest.mark.parametrize("many", [jax.vmap, lambda f: partial(lax.map, f)], ids=["vmap", "map"])
def test_gradient_through_vmap_and_lax_map_equals_that_of_xla(many):
    x, w, _ = example((4, 5, 6), 9, 10, batch=3)

    def gradient(conv):
        def loss(w):
            return jnp.sum(many(lambda x: jnp.tanh(0.01 * conv(x[None], w)))(x))

        return jit(jax.grad(loss))(w)

    assert_near(gradient(same), gradient(reference))


def test_only_requested_gradients_are_computed():
    x, w, g = example((4, 5, 6), 16, 16)

    def flops(argnums):
        def loss(x, w):
            return jnp.vdot(same(x, w), g)

        cost = jit(jax.grad(loss, argnums)).lower(x, w).compile().cost_analysis()
        return cost["flops"] if cost else 0

    assert flops(0) + flops(1) < 1.2 * flops((0, 1))


def test_residuals_are_stored_for_requested_gradients_only():
    x, w, _ = example((4, 5, 6), 16, 16)
    _, of_images = jax.vjp(lambda x: same(x, w), x)
    _, of_kernel = jax.vjp(lambda w: same(x, w), w)
    assert {a.shape for a in jax.tree.leaves(of_images)} == {w.shape}
    assert {a.shape for a in jax.tree.leaves(of_kernel)} == {x.shape}


def test_bfloat16_is_accurate_to_its_precision():
    arrays = example((5, 6, 7), 16, 16, 2, jnp.bfloat16)
    found, expected = quick(*arrays), direct(*arrays)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        assert_near(a.astype(jnp.float32), b, 2e-2)


def test_repeated_runs_are_bit_identical():
    arrays = example((9, 17, 12), 16, 32)
    first = quick(*arrays)
    for _ in range(5):
        for a, b in zip(quick(*arrays), first, strict=True):
            np.testing.assert_array_equal(a, b)


OTHERS = {
    "stride": {"window_strides": (1, 2, 1)},
    "valid": {"padding": "VALID"},
    "uneven padding": {"padding": [(1, 1), (2, 0), (1, 1)]},
    "dilated images": {"padding": [(1, 1)] * 3, "lhs_dilation": (1, 1, 2)},
    "dilated kernel": {"rhs_dilation": (2, 1, 1)},
    "algorithm": {"precision": lax.DotAlgorithmPreset.BF16_BF16_F32},
    "groups": {"feature_group_count": 2},
    "preferred type": {"preferred_element_type": jnp.float64},
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_convolutions_are_passed_to_xla(other):
    x, w, _ = example((4, 5, 6), 16, 16)
    options: dict = {"window_strides": (1, 1, 1), "padding": "SAME", "dimension_numbers": DIMS}
    options |= OTHERS[other]
    if other == "groups":
        w = w[..., :8, :]

    def jaxpr(conv):
        return str(jax.make_jaxpr(lambda x, w: conv(x, w, **options))(x, w))

    with jax.enable_x64(other == "preferred type"):
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
def test_other_shapes_are_passed_to_xla(x, w, dims):
    x, w = jnp.ones(x), jnp.ones(w)
    options = ((1,) * (x.ndim - 2), "SAME", None, None, dims)
    assert str(jax.make_jaxpr(lambda x, w: conv3d(x, w, *options))(x, w)) == str(
        jax.make_jaxpr(lambda x, w: lax.conv_general_dilated(x, w, *options))(x, w)
    )


def test_mismatched_channels_raise_the_error_of_xla():
    x, w, _ = example((4, 5, 6), 16, 16)
    with pytest.raises(ValueError, match="feature"):
        same(x[..., :8], w)


def test_nnx_layer_accepts_conv3d():
    x, _, _ = example((4, 5, 6), 9, 10)

    def run(conv):
        layer = nnx.Conv(9, 10, (3, 3, 3), conv_general_dilated=conv, rngs=nnx.Rngs(0))
        graphdef, params = nnx.split(layer)
        return jit(lambda params, x: nnx.merge(graphdef, params)(x))(params, x)

    assert_near(run(conv3d), run(lax.conv_general_dilated))


def test_other_platforms_use_the_convolution_of_xla():
    traced = jax.jit(partial(value_and_gradients, same)).trace(*example((4, 5, 6), 16, 16))
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "stablehlo.dot_general" not in text
    assert "stablehlo.dot_general" in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize("precision", ["highest", lax.Precision.HIGHEST], ids=str)
def test_other_platforms_use_the_requested_precision(precision):
    def conv(x, w):
        options = {"dimension_numbers": DIMS, "precision": precision}
        return conv3d(x, w, (1, 1, 1), "SAME", **options)

    traced = jax.jit(partial(value_and_gradients, conv)).trace(*example((4, 5, 6), 16, 16))
    assert traced.lower(lowering_platforms=("cuda",)).as_text().count("precision HIGHEST") == 6
