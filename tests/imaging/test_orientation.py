"""Reorientation to RAS and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.orientation import from_ras, ras_geometry, to_ras
from tests.samples import AFFINE, SHAPE, image_of

ORDERS = list(itertools.permutations(range(3)))
SIGNS = list(itertools.product((1, -1), repeat=3))


def stored(order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """Returns the sample with the axis order of another file."""
    array, affine = image_of("T1"), AFFINE.copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            array = np.flip(array, axis)
            affine = affine.copy()
            affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
            affine[:3, axis] *= -1
    array = array.transpose(order)
    affine = affine[:, [*order, 3]]
    x, y, z = array.shape
    return Volume(np.ascontiguousarray(array), Geometry((x, y, z), affine))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("signs", SIGNS, ids=str)
def test_from_ras_undoes_to_ras_for_every_axis_order(
    order: tuple[int, ...], signs: tuple[int, ...]
):
    volume = stored(order, signs)
    reoriented = to_ras(volume)
    np.testing.assert_array_equal(reoriented.array, image_of("T1"))
    np.testing.assert_allclose(reoriented.geometry.affine, AFFINE, atol=1e-9)
    assert reoriented.geometry.shape == SHAPE
    assert ras_geometry(volume.geometry).matches(reoriented.geometry)
    np.testing.assert_array_equal(from_ras(reoriented.array, volume.geometry), volume.array)


def test_from_ras_keeps_the_channel_axis_last():
    volume = stored((2, 0, 1), (-1, 1, -1))
    maps: Array = np.stack([to_ras(volume).array, -to_ras(volume).array], axis=-1)
    back = from_ras(maps, volume.geometry)
    np.testing.assert_array_equal(back[..., 1], -volume.array)
