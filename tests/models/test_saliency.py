"""P3S: the gradient it claims to be, whole or in tiles, and how it is shared out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from flax import nnx

from flaxflair.models.saliency import p3s, p3s_streamed, shares
from flaxflair.networks import unet
from tests.closeness import assert_near
from tests.samples import draw_params, reference_fcn

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPE = (5, 19, 4)


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [x, y, z, m], target [x, y, z] and weight [x, y, z]."""
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(*SHAPE, 2)), rng.normal(size=SHAPE), rng.random(SHAPE)
    images, target, weight = (array.astype(np.float32) for array in arrays)
    return images, target, weight


def test_saliency_is_the_central_difference_of_the_squared_error(network, params, scan):
    images, target, weight = scan
    maps = p3s(network.forward, params, images, target, weight)

    def squared_error(nudge: np.ndarray) -> float:
        return float(np.sum(weight * (target - reference_fcn(params, images + nudge)) ** 2))

    sampled = np.random.default_rng(1).integers((*SHAPE, 2), size=(6, 4))
    corners = [(0, 0, 0, 0), (4, 18, 3, 1)]
    step = 1e-5
    for at in itertools.chain(corners, map(tuple, sampled)):
        nudge = np.zeros(images.shape)
        nudge[at] = step
        slope = (squared_error(nudge) - squared_error(-nudge)) / (2 * step)
        assert maps[at] == pytest.approx(abs(slope), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("voxels", "weighted"), [(0, True), (400, True), (400, False)])
def test_streamed_saliency_equals_whole_volume_saliency(network, params, scan, voxels, weighted):
    images, target, weight = scan
    chosen = weight if weighted else None
    whole = np.asarray(p3s(network.forward, params, images, target, chosen))
    streamed = p3s_streamed(
        network.forward,
        params,
        images,
        target,
        weight=chosen,
        radius=network.radius,
        tile_voxels=voxels,
    )
    assert_near(streamed, whole)


def test_streamed_saliency_of_a_network_with_a_stride_equals_that_of_the_whole_volume():
    network = unet.build(2, filters=2)
    params = draw_params(network)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(147, 5, 6, 2)).astype(np.float32)
    target = rng.normal(size=images.shape[:3]).astype(np.float32)
    whole = np.asarray(p3s(network.forward, params, images, target))
    streamed = p3s_streamed(
        network.forward,
        params,
        images,
        target,
        radius=network.radius,
        tile_voxels=110 * 30,
        stride=network.stride,
    )
    assert_near(streamed, whole)


def test_an_input_that_the_network_ignores_has_no_saliency(scan):
    images, target, _ = scan
    maps = p3s(lambda _, images: 2 * images[..., 0], nnx.State({}), images, target)
    np.testing.assert_allclose(
        maps[..., 0], np.abs(4 * (2 * images[..., 0] - target)), rtol=1e-4, atol=1e-5
    )
    assert not np.asarray(maps[..., 1]).any()


def test_shares_are_the_parts_of_each_region_and_add_up_to_one():
    maps = np.zeros((2, 1, 1, 3))
    maps[0, 0, 0], maps[1, 0, 0] = (1, 2, 1), (0, 0, 4)
    first = np.array([True, False]).reshape(2, 1, 1)
    table = shares(maps, {"all": np.ones((2, 1, 1), bool), "first": first})
    assert table == {"all": [1 / 8, 2 / 8, 5 / 8], "first": [1 / 4, 2 / 4, 1 / 4]}


def test_shares_of_an_unknown_or_empty_region_or_of_no_saliency_are_nan():
    nowhere, everywhere = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    table = shares(np.ones((2, 2, 2, 3)), {"unknown": None, "empty": nowhere})
    table |= shares(np.zeros((2, 2, 2, 3)), {"dead": everywhere})
    assert list(table) == ["unknown", "empty", "dead"]
    assert all(len(row) == 3 and all(map(math.isnan, row)) for row in table.values())
