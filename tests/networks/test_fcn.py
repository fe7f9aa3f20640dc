"""FCN: parameter count, initialisation, forward pass and receptive field."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair.config import NetworkConfig
from flaxflair.networks import NETWORKS
from flaxflair.networks.fcn import build
from flaxflair.networks.network import Params, count_parameters
from tests.closeness import assert_near
from tests.samples import draw_params, reference_fcn

pytestmark = pytest.mark.usefixtures("quick_compile")

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 5, 6, 2)).astype(np.float32)


def shapes_of(channels: int, layers: int, filters: int) -> Params:
    """Returns the parameters of an FCN as shapes, without computation."""
    network = build(channels, layers=layers, filters=filters)
    return network.init(jax.random.key(0))


def leaves_named(params: Params, name: str) -> list[jax.Array]:
    """Returns the kernels, or the biases."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for place, leaf in leaves if name in jax.tree_util.keystr(place)]


@pytest.mark.parametrize(("filters", "count"), [(32, 60_577), (64, 231_745), (96, 513_505)])
def test_parameter_counts_are_those_of_the_paper(filters: int, count: int):
    assert count_parameters(shapes_of(5, 3, filters)) == count


@pytest.mark.parametrize(
    ("channels", "layers", "filters"), list(itertools.product((1, 2, 5), (1, 2, 4), (1, 7)))
)
def test_parameter_count_follows_the_formula(channels: int, layers: int, filters: int):
    first = 27 * channels * filters + filters
    between = (layers - 1) * (27 * filters**2 + filters)
    last = 27 * filters + 1
    params = shapes_of(channels, layers, filters)
    assert count_parameters(params) == first + between + last


def test_registry_builds_the_configured_network():
    network = NETWORKS["fcn"](2, NetworkConfig(layers=2, filters=3, dtype="bfloat16"))
    assert network.radius == 3
    assert count_parameters(network.init(jax.random.key(0))) == 493


def test_kernels_are_glorot_uniform_and_biases_zero():
    params = build(2, layers=1, filters=16).init(jax.random.key(0))
    for kernel in leaves_named(params, "kernel"):
        limit = np.sqrt(6 / (27 * sum(kernel.shape[-2:])))
        spread = np.asarray(kernel)
        assert 0.95 * limit < np.abs(spread).max() <= limit
        assert abs(spread.mean()) < 0.1 * limit
        assert spread.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
    for bias in leaves_named(params, "bias"):
        assert not np.asarray(bias).any()


def test_initial_weights_depend_on_the_key_only():
    network = build(2, layers=1, filters=16)
    same, again, other = (network.init(jax.random.key(seed)) for seed in (3, 3, 4))
    kernels = [np.asarray(leaves_named(params, "kernel")[0]) for params in (same, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_forward_pass_equals_scipy(network, params):
    prediction = jax.jit(network.forward)(params, IMAGES)
    assert prediction.shape == IMAGES.shape[:-1]
    for image, flair in zip(IMAGES, prediction, strict=True):
        assert_near(flair, reference_fcn(params, image))


def test_linear_start_computes_the_linear_map_and_keeps_other_kernels():
    network = build(2, layers=2, filters=6)
    assert network.start_linear is not None
    drawn = draw_params(network)  # biases of hidden layers included, which must not leak in
    params = network.start_linear(drawn, np.array([2.0, -0.5, 0.25]))
    linear = IMAGES @ np.array([2.0, -0.5], np.float32) + 0.25
    assert_near(jax.jit(network.forward)(params, IMAGES), linear)
    for kernel, before in zip(
        leaves_named(params, "kernel")[:-1], leaves_named(drawn, "kernel")[:-1], strict=True
    ):
        np.testing.assert_array_equal(kernel[..., 4:], before[..., 4:])


def test_narrow_network_has_no_linear_start():
    assert build(2, layers=2, filters=4).start_linear is not None
    assert build(2, layers=2, filters=3).start_linear is None


def test_bfloat16_keeps_parameters_and_output_in_float32(network, params):
    coarse = build(2, layers=2, filters=4, dtype="bfloat16")
    kept = jax.tree.leaves(coarse.init(jax.random.key(0)))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    near, exact = (jax.jit(n.forward)(params, IMAGES) for n in (coarse, network))
    assert near.dtype == jnp.float32
    difference = np.abs(np.asarray(near - exact)).max() / np.asarray(exact).std()
    assert 1e-5 < difference < 0.1


@pytest.mark.parametrize("layers", [1, 3])
def test_receptive_field_is_the_radius(layers: int):
    network = build(1, layers=layers, filters=8)
    params = draw_params(network)
    size = 2 * network.radius + 5
    middle = size // 2
    images = np.random.default_rng(0).normal(size=(1, size, size, size, 1)).astype(np.float32)
    touched = images.copy()
    touched[0, middle, middle, middle] += 100
    forward = jax.jit(network.forward)
    change = np.abs(np.asarray(forward(params, touched) - forward(params, images)))[0]
    # A blocked convolution may round the same voxel differently; that is not dependence.
    reached = np.argwhere(change > 1e-5 * change.max()) - middle
    assert (reached.min(axis=0) == -network.radius).all()
    assert (reached.max(axis=0) == network.radius).all()
