"""U-Net: parameter count, initialisation, forward pass, receptive field and tiling."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh
from numpy.lib.stride_tricks import sliding_window_view

from flaxflair.config import NetworkConfig
from flaxflair.core.records import Array, InputError
from flaxflair.models.inference import predict_streamed, predict_volumes
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import Network, Params, count_parameters
from flaxflair.networks.unet import build
from flaxflair.training.batches import Batch
from flaxflair.training.sharding import make_mesh, make_parallel_step, predict_parallel
from flaxflair.training.step import make_train_step
from tests.closeness import assert_near
from tests.samples import draw_params
from tests.training.sharding_worker import OPTIMIZER, flat, start_state

pytestmark = pytest.mark.usefixtures("quick_compile")

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 5, 10, 2)).astype(np.float32)
build_network = partial(NETWORKS["unet"], 2, NetworkConfig(layers=2, filters=4))


@pytest.fixture(scope="module")
def network() -> Network:
    """A small U-Net of two inputs; overrides the FCN shared by other tests."""
    return build_network()


@pytest.fixture(scope="module")
def params(network: Network) -> Params:
    return draw_params(network)


# --- reference in NumPy and float64 --------------------------------------------------------------


def weights_of(layer: Any) -> tuple[Array, Array]:
    kernel, bias = (np.asarray(layer[name][...], np.float64) for name in ("kernel", "bias"))
    return kernel, bias


def convolve_twice(layers: Any, values: Array) -> Array:
    for layer in layers.values():
        kernel, bias = weights_of(layer)
        padded = np.pad(values, [(1, 1)] * 3 + [(0, 0)])
        windows = sliding_window_view(padded, (3, 3, 3), axis=(0, 1, 2))
        values = np.maximum(np.einsum("xyzmijk,ijkmf->xyzf", windows, kernel) + bias, 0)
    return values


def pool(values: Array) -> Array:
    octants = [values[i::2, j::2, k::2] for i, j, k in np.ndindex(2, 2, 2)]
    return np.max(octants, axis=0)


def transpose_convolve(layer: Any, values: Array) -> Array:
    kernel, bias = weights_of(layer)
    result = np.zeros((*(2 * size for size in values.shape[:3]), kernel.shape[-1]))
    for i, j, k in np.ndindex(2, 2, 2):
        result[i::2, j::2, k::2] = values @ kernel[i, j, k]
    return result + bias


def reference_unet(params: Params, images: Array) -> Array:
    """Returns the FLAIR, x y z m -> x y z."""
    x, y, z = images.shape[:3]
    margins = [(0, -size % 4) for size in (x, y, z)]
    full = convolve_twice(params["full_down"], np.pad(images.astype(float), [*margins, (0, 0)]))
    half = convolve_twice(params["half_down"], pool(full))
    quarter = convolve_twice(params["quarter"], pool(half))
    raised = transpose_convolve(params["quarter_to_half"], quarter)
    half = convolve_twice(params["half_up"], np.concatenate([half, raised], axis=-1))
    raised = transpose_convolve(params["half_to_full"], half)
    full = convolve_twice(params["full_up"], np.concatenate([full, raised], axis=-1))
    kernel, bias = weights_of(params["readout"])
    return (full @ kernel + bias)[:x, :y, :z, 0]


# --- size and first weights ----------------------------------------------------------------------


def test_parameter_count_is_that_of_the_paper():
    network = NETWORKS["unet"](5, NetworkConfig(layers=2, filters=16))
    assert count_parameters(network.init(jax.random.key(0))) == 375_585


@pytest.mark.parametrize(
    ("place", "taps", "widths"),
    [
        (("full_down", 1), 27, (16, 16)),
        (("quarter_to_half",), 8, (64, 32)),
        (("readout",), 1, (32, 1)),
    ],
)
def test_kernels_are_glorot_uniform_and_biases_zero(place, taps: int, widths):
    layer: Any = build(2).init(jax.random.key(0))
    for name in place:
        layer = layer[name]
    kernel, bias = weights_of(layer)
    limit = np.sqrt(6 / (taps * sum(widths)))
    assert kernel.shape[-2:] == widths
    assert kernel.size == taps * np.prod(widths)
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert not bias.any()


def test_initial_weights_depend_on_the_key_only(network):
    same, again, other = (network.init(jax.random.key(seed)) for seed in (3, 3, 4))
    for one, two, three in zip(*map(jax.tree.leaves, (same, again, other)), strict=True):
        np.testing.assert_array_equal(one, two)
        assert not one.any() or not np.array_equal(one, three)


@pytest.mark.parametrize("layers", [1, 3])
def test_only_two_poolings_are_accepted(layers: int):
    with pytest.raises(InputError, match=f"config.network.layers is {layers}; .* set it to 2"):
        NETWORKS["unet"](2, NetworkConfig(layers=layers, filters=4))


# --- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5, 10), (8, 4, 12), (1, 3, 2)])
def test_forward_pass_equals_numpy_for_any_shape(network, params, shape):
    images = np.random.default_rng(1).normal(size=(2, *shape, 2)).astype(np.float32)
    prediction = jax.jit(network.forward)(params, images)
    assert prediction.shape == images.shape[:-1]
    for image, flair in zip(images, prediction, strict=True):
        theirs = reference_unet(params, image)
        assert_near(flair, theirs)


def test_linear_start_computes_the_linear_map_and_keeps_other_kernels(network, params):
    assert network.start_linear is not None
    given = flat(params)
    started = network.start_linear(params, np.array([2.0, -0.5, 0.25]))
    linear = IMAGES @ np.array([2.0, -0.5], np.float32) + 0.25
    assert_near(jax.jit(network.forward)(started, IMAGES), linear)
    for name in ("half_down", "quarter", "quarter_to_half", "half_up", "half_to_full"):
        for ours, before in zip(*map(jax.tree.leaves, (started[name], params[name])), strict=True):
            np.testing.assert_array_equal(ours, before)
    ours, before = (weights_of(p["full_up"][0])[0] for p in (started, params))
    np.testing.assert_array_equal(ours[..., 4:], before[..., 4:])
    np.testing.assert_array_equal(flat(params), given)


def test_narrow_network_has_no_linear_start():
    assert build(2, filters=4).start_linear is not None
    assert build(2, filters=3).start_linear is None


def test_bfloat16_keeps_parameters_and_output_in_float32(network, params):
    coarse = build(2, filters=4, dtype="bfloat16")
    kept = jax.tree.leaves(coarse.init(jax.random.key(0)))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    near, exact = (jax.jit(n.forward)(params, IMAGES) for n in (coarse, network))
    assert near.dtype == jnp.float32
    assert 1e-5 < np.abs(np.asarray(near - exact)).max() / np.asarray(exact).std() < 0.2


def test_gradient_step_is_finite_and_lowers_the_error():
    network = build_network(lax.conv_general_dilated)
    params = network.init(jax.random.key(0))
    flair = IMAGES.sum(axis=-1)

    def error(params: Params) -> jax.Array:
        return jnp.mean(jnp.square(network.forward(params, jnp.asarray(IMAGES)) - flair))

    before, gradient = jax.jit(jax.value_and_grad(error))(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()
    stepped = jax.tree.map(lambda value, slope: value - 1e-3 * slope, params, gradient)
    assert error(stepped) < before


# --- how far it looks ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_receptive_field_is_the_radius(axis: int):
    # XLA's convolution adds nothing beyond its kernel's reach; Winograd's leaves rounding there.
    network = build(1, filters=2, convolution=lax.conv_general_dilated)
    # Nothing negative, so that no rectifier and no pooling hides what depends.
    params = jax.tree.map(jnp.abs, draw_params(network))
    radius, alignments = network.radius, np.arange(network.stride)
    shape = [network.stride, 8, 8, 8, 1]
    shape[axis + 1] = 2 * radius + 2 * network.stride
    images = np.random.default_rng(0).random(shape, np.float32)
    place: list[Any] = [alignments, 4, 4, 4]
    place[axis + 1] = radius + alignments

    def offsets(marked: Array) -> tuple[int, int]:
        found = [np.argwhere(m)[:, axis] - radius - i for i, m in enumerate(marked)]
        return min(o.min() for o in found), max(o.max() for o in found)

    touched = images.copy()
    touched[tuple(place)] = np.inf
    flair = jax.jit(network.forward)(params, touched)
    assert offsets(np.asarray(jnp.isinf(flair))) == (-radius, radius)

    def outputs(images: jax.Array) -> jax.Array:
        return network.forward(params, images)[tuple(place)].sum()

    low, high = offsets(np.asarray(jax.jit(jax.grad(outputs))(images)))
    assert -radius <= low < 0 < high <= radius


@pytest.mark.parametrize("shape", [(107, 6, 5), (7, 5, 81)])
def test_streamed_prediction_equals_whole_volume_at_its_stride(
    network, params, shape: tuple[int, ...]
):
    images = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    whole = np.asarray(predict_volumes(network.forward, params, jnp.asarray(images)[None])[0])

    def streamed(stride: int) -> Array:
        return predict_streamed(
            network.forward, params, images, radius=network.radius, tile_voxels=2000, stride=stride
        )

    assert_near(streamed(network.stride), whole)
    assert np.abs(streamed(1) - whole).max() > 0.01 * whole.std()


# --- over devices --------------------------------------------------------------------------------


def test_batch_mesh_equals_one_device(network, params):
    mesh = make_mesh(1, 1, jax.devices()[:1])
    ours = predict_parallel(build_network, params, IMAGES, mesh)
    theirs = np.asarray(predict_volumes(network.forward, params, jnp.asarray(IMAGES)))
    assert_near(ours, theirs)
    batch = Batch(IMAGES, IMAGES.sum(axis=-1), np.ones(IMAGES.shape[:4], np.float32))
    drawn = network.init(jax.random.key(0))
    plain = build_network(lax.conv_general_dilated)
    steps = (
        make_parallel_step(build_network, OPTIMIZER, mesh),
        make_train_step(plain.forward, OPTIMIZER),
    )
    ours, theirs = (flat(step(start_state(drawn), batch)) for step in steps)
    assert_near(ours, theirs)


def test_mesh_that_shards_volumes_is_refused(params):
    mesh: Any = AbstractMesh((1, 2), ("data", "space"))
    with pytest.raises(InputError, match=r"config\.mesh.space is 2, and a network that pools"):
        make_parallel_step(build_network, OPTIMIZER, mesh)
