"""Conditional U-Net: shapes, receptive field, tiling, and the effect of the condition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from flaxflair.networks import conditional
from flaxflair.networks.conditional import depth_to_space, space_to_depth
from flaxflair.networks.network import ConditionalNetwork, Params, count_parameters
from tests.closeness import assert_near

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPES = (
    {"widths": (4, 6), "reduction": 2},
    {"widths": (4, 6), "reduction": 2, "fine": 3},
    {"widths": (4, 6, 8), "reduction": 1},
    {"widths": (6,), "convolutions": 3, "reduction": 1},
)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def with_lively_weights(network: ConditionalNetwork) -> Params:
    """Also draws biases and conditions at random, so that no result depends on zeros."""
    leaves, tree = jax.tree.flatten(network.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    )


def build(*channels: int, **shape: Any) -> ConditionalNetwork:
    """Builds a network with a compiled `forward`: its operations compile slower one by one."""
    network = conditional.build(*channels, **shape)
    return network._replace(forward=jax.jit(network.forward))


def an_input(*edges: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(1)
    images = rng.standard_normal((1, *edges, 2), np.float32)
    return jnp.asarray(images), jnp.asarray(rng.standard_normal((1, 3), np.float32))


@each_shape
def test_outputs_have_the_shape_of_the_images(shape):
    network = build(2, 3, **shape)
    images, condition = an_input(9, 12, 7)
    flair, logit = network.forward(with_lively_weights(network), images, condition)
    assert flair.shape == logit.shape == (1, 9, 12, 7)
    assert flair.dtype == jnp.float32


@each_shape
def test_output_is_independent_of_voxels_beyond_the_radius(shape):
    network = build(2, 3, **shape)
    params = with_lively_weights(network)
    images, condition = an_input(8, 8, 2 * network.radius + 24)
    middle = network.radius + 12 - (network.radius + 12) % network.stride
    changed = images.at[:, :, :, middle].add(5.0)
    difference = np.abs(
        network.forward(params, images, condition)[0]
        - network.forward(params, changed, condition)[0]
    ).max((0, 1, 2))
    reached = np.flatnonzero(difference > 1e-6)
    assert middle - network.radius <= reached.min()
    assert reached.max() <= middle + network.radius


@each_shape
def test_tile_with_halo_equals_whole_volume(shape):
    network = build(2, 3, **shape)
    params = with_lively_weights(network)
    halo = network.radius + -network.radius % network.stride
    images, condition = an_input(8, 8, 2 * halo + 2 * network.stride)
    whole = network.forward(params, images, condition)[0]
    tile = network.forward(params, images[:, :, :, : 2 * halo + network.stride], condition)[0]
    kept = slice(halo, halo + network.stride)
    assert_near(tile[..., kept], whole[..., kept])


@each_shape
def test_slabs_give_the_outputs_and_gradients_of_the_whole(shape, monkeypatch):
    params = with_lively_weights(build(2, 3, **shape))
    images, condition = an_input(30, 7, 6)

    def outputs_and_gradient() -> Any:
        network = build(2, 3, **shape)  # compiled anew

        def total(images: jax.Array) -> tuple[jax.Array, Any]:
            flair, logit = network.forward(params, images, condition)
            return (flair**2 + logit).sum(), (flair, logit)

        gradient, outputs = jax.jit(jax.grad(total, has_aux=True))(images)
        return outputs, gradient

    whole = outputs_and_gradient()
    monkeypatch.setattr(conditional, "_SLAB_BYTES", 1)  # slabs of one row
    slabs = outputs_and_gradient()
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-4), whole, slabs)


def test_condition_has_no_effect_at_initialisation():
    network = build(2, 3, widths=(4, 6))
    images, condition = an_input(8, 8, 8)
    fresh = network.init(jax.random.key(0))
    a, _ = network.forward(fresh, images, condition)
    b, _ = network.forward(fresh, images, 2 * condition)
    assert_allclose(a, b)
    trained = with_lively_weights(network)
    a, _ = network.forward(trained, images, condition)
    b, _ = network.forward(trained, images, 2 * condition)
    assert np.abs(a - b).max() > 1e-3


def test_each_example_of_a_batch_has_its_condition():
    network = build(2, 3, widths=(4, 6))
    params = with_lively_weights(network)
    images, condition = an_input(8, 8, 8)
    both = network.forward(
        params, jnp.concatenate([images, images]), jnp.concatenate([condition, -condition])
    )[0]
    assert_near(both[:1], network.forward(params, images, condition)[0])
    assert_near(both[1:], network.forward(params, images, -condition)[0])


def test_depth_to_space_undoes_space_to_depth():
    values = jnp.arange(2 * 4 * 6 * 8 * 3.0).reshape(2, 4, 6, 8, 3)
    assert_allclose(depth_to_space(space_to_depth(values, 2), 2), values)


def test_default_network_has_about_a_million_parameters():
    network = build(5, 20)
    assert 0.8e6 < count_parameters(network.init(jax.random.key(0))) < 1.4e6


def test_fine_branch_has_no_effect_at_initialisation():
    without, network = (build(2, 3, widths=(4, 6), fine=fine) for fine in (0, 3))
    images, condition = an_input(8, 8, 8)
    params, plain = network.init(jax.random.key(0)), without.init(jax.random.key(0))
    named = {jax.tree_util.keystr(place): leaf for place, leaf in jax.tree.leaves_with_path(params)}
    same = [named[jax.tree_util.keystr(place)] for place, _ in jax.tree.leaves_with_path(plain)]
    plain = jax.tree.unflatten(jax.tree.structure(plain), same)
    for a, b in zip(
        network.forward(params, images, condition),
        without.forward(plain, images, condition),
        strict=True,
    ):
        assert_allclose(a, b, atol=1e-6)


@each_shape
def test_every_filter_has_a_gradient(shape):
    """Filters with negative pre-activations still have a gradient, unlike with ReLU."""
    network = build(2, 3, **shape)
    images, condition = an_input(8, 8, 8)

    def sink(path: tuple[object, ...], leaf: jax.Array) -> jax.Array:
        return leaf - 100 if "bias" in jax.tree_util.keystr(path) else leaf

    params = jax.tree_util.tree_map_with_path(sink, with_lively_weights(network))

    def energy(params: Params) -> jax.Array:
        flair, logit = network.forward(params, images, condition)
        return jnp.sum(flair**2) + jnp.sum(logit**2)

    gradient = jax.jit(jax.grad(energy))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        if "convolutions" in jax.tree_util.keystr(path):
            assert np.abs(leaf).reshape(-1, leaf.shape[-1]).max(0).min() > 0
