"""Perceptron: parameter count, initialisation, forward pass and voxel-wise computation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair.config import NetworkConfig
from flaxflair.models.inference import predict_streamed
from flaxflair.networks import NETWORKS
from flaxflair.networks.mlp import build
from flaxflair.networks.network import count_parameters
from tests.closeness import assert_near
from tests.samples import draw_params
from tests.training.sharding_worker import flat

pytestmark = pytest.mark.usefixtures("quick_compile")

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 5, 3, 2)).astype(np.float32)


def test_parameter_count_is_that_of_the_paper():
    network = NETWORKS["mlp"](5, NetworkConfig(layers=2, filters=100))
    assert count_parameters(network.init(jax.random.key(0))) == 10_801


def test_kernels_are_glorot_uniform_and_biases_zero():
    hidden = build(2, layers=1, filters=200).init(jax.random.key(0))["hidden"][0]
    kernel = np.asarray(hidden["kernel"][...])
    limit = np.sqrt(6 / 202)
    assert 0.95 * limit < np.abs(kernel).max() <= limit
    assert not np.asarray(hidden["bias"][...]).any()


@pytest.mark.parametrize("layers", [1, 3])
def test_forward_pass_equals_numpy(layers: int):
    network = build(2, layers=layers, filters=6)
    params = draw_params(network)
    values = IMAGES.astype(np.float64)
    for layer in range(layers):
        hidden = params["hidden"][layer]
        kernel, bias = (np.asarray(hidden[name][...], np.float64) for name in ("kernel", "bias"))
        values = np.maximum(values @ kernel + bias, 0)
    readout = params["readout"]
    kernel, bias = (np.asarray(readout[name][...], np.float64) for name in ("kernel", "bias"))
    flair = jax.jit(network.forward)(params, IMAGES)
    assert_near(flair, (values @ kernel + bias)[..., 0])


def test_output_depends_on_its_voxel_only():
    network = build(2, layers=2, filters=6)
    params = draw_params(network)
    spoilt = IMAGES.copy()
    spoilt[0, 3, 2, 1, 0] = np.nan
    flair = np.asarray(jax.jit(network.forward)(params, spoilt))
    np.testing.assert_array_equal(np.argwhere(np.isnan(flair)), [[0, 3, 2, 1]])
    streamed = predict_streamed(
        network.forward,
        params,
        IMAGES[1],
        radius=network.radius,
        tile_voxels=11,
        stride=network.stride,
    )
    assert_near(streamed, flair[1])


def test_linear_start_computes_the_linear_map_and_keeps_other_kernels():
    network = build(2, layers=2, filters=6)
    assert network.start_linear is not None
    drawn = draw_params(network)
    given = flat(drawn)
    params = network.start_linear(drawn, np.array([2.0, -0.5, 0.25]))
    np.testing.assert_array_equal(flat(drawn), given)
    linear = IMAGES @ np.array([2.0, -0.5], np.float32) + 0.25
    assert_near(jax.jit(network.forward)(params, IMAGES), linear)
    for ours, before in zip(params["hidden"].values(), drawn["hidden"].values(), strict=True):
        np.testing.assert_array_equal(ours["kernel"][..., 4:], before["kernel"][..., 4:])


def test_narrow_perceptron_has_no_linear_start():
    assert build(2, filters=4).start_linear is not None
    assert build(2, filters=3).start_linear is None


def test_bfloat16_keeps_parameters_and_output_in_float32():
    exact, coarse = (build(2, filters=6, dtype=dtype) for dtype in ("float32", "bfloat16"))
    params = draw_params(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(coarse.init(jax.random.key(0)))} == {
        jnp.dtype("float32")
    }
    near, true = (jax.jit(network.forward)(params, IMAGES) for network in (coarse, exact))
    assert near.dtype == jnp.float32
    assert 1e-5 < np.abs(np.asarray(near - true)).max() / np.asarray(true).std() < 0.1
