"""Prediction: batches, tiles and whole volumes are one and the same."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair.models.inference import predict_streamed, predict_volumes
from flaxflair.networks.fcn import build
from flaxflair.networks.network import Network, Params
from tests.closeness import assert_near
from tests.samples import draw_params

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def shallow() -> tuple[Network, Params]:
    """An FCN of one hidden layer, and parameters for it."""
    network = build(2, layers=1, filters=4)
    return network, draw_params(network)


@pytest.mark.parametrize(("shape", "voxels"), [((13, 9, 7), 300), ((5, 6, 11), 150)])
def test_streamed_prediction_equals_whole_volume_prediction(shallow, shape, voxels: int):
    network, params = shallow
    images = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    whole = np.asarray(predict_volumes(network.forward, params, jnp.asarray(images)[None])[0])
    streamed = predict_streamed(
        network.forward, params, images, radius=network.radius, tile_voxels=voxels
    )
    assert_near(streamed, whole)


def test_any_number_of_volumes_side_by_side_predicts_the_same(shallow):
    network, params = shallow
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 7, 5, 2)), jnp.float32)
    one, two, three = (
        np.asarray(predict_volumes(network.forward, params, images, batch=batch))
        for batch in (1, 2, 3)
    )
    assert one.shape == (3, 6, 7, 5)
    assert_near(two, one)
    assert_near(three, one)
