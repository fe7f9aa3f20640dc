"""Resampling: blocks, slabs and boxes keep the position of every voxel in the world."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging import resampling
from flaxflair.imaging.resampling import bounding_box, coarsen, resample, slabs
from tests.samples import AFFINE, image_of


def world(geometry: Geometry) -> Array:
    """Returns the world coordinates of every voxel, [x, y, z, 3]."""
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)
    return index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]


def ramp(geometry: Geometry) -> Volume:
    """Returns an image whose intensity is a linear function of the world coordinates."""
    values = world(geometry) @ np.array([1.0, -2.0, 0.5])
    return Volume(values.astype(np.float32), geometry)


@pytest.mark.parametrize(
    ("edges", "shape"),
    [((0.4, 0.5, 3.0), (6, 6, 10)), ((0.3, 0.3, 0.3), (4, 4, 5)), ((1.0, 0.5, 0.9), (13, 6, 10))],
)
def test_coarse_voxels_are_means_at_the_centres_of_their_blocks(edges, shape):
    turned = np.array([[0.0, -1, 0, 3], [1, 0, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1]])
    affine = turned @ np.diag([*edges, 1.0])
    image = ramp(Geometry((13, 12, 10), affine))
    coarse = coarsen(image, 1.0)
    assert coarse.geometry.shape == shape
    assert min(coarse.geometry.voxel_size) > 0.5
    assert_allclose(coarse.array, ramp(coarse.geometry).array, atol=1e-4)


def test_an_image_of_large_voxels_is_not_changed():
    image = ramp(Geometry((5, 6, 4), np.diag([0.6, 1.0, 3.0, 1.0])))
    assert coarsen(image, 1.0) is image


@pytest.mark.parametrize(("size", "left"), [(1, 1), (3, 3), (5, 5), (7, 7), (8, 4), (11, 5)])
def test_a_short_axis_keeps_the_four_voxels_that_smoothing_needs(size: int, left: int):
    image = ramp(Geometry((8, size, 8), np.diag([0.5, 0.5, 0.5, 1.0])))
    assert coarsen(image, 1.0).geometry.shape == (4, left, 4)


@pytest.mark.parametrize("voxels", [1, 100, 10_000])
def test_slabs_resample_to_the_rows_of_the_whole(monkeypatch: pytest.MonkeyPatch, voxels: int):
    monkeypatch.setattr(resampling, "_SLAB", voxels)
    image = Volume(image_of("slabs", (9, 8, 7)), Geometry((9, 8, 7), AFFINE))
    grid = Geometry((11, 6, 5), AFFINE @ np.diag([0.8, 1.3, 1.2, 1.0]))
    whole = resample(image.array, AFFINE, grid, np.eye(4), beyond="zero")
    rows = []
    for part, piece in slabs(grid):
        rows += range(part.start, part.stop)
        found = resample(image.array, AFFINE, piece, np.eye(4), beyond="zero")
        assert_allclose(found, whole[part], rtol=1e-5, atol=1e-3)
    assert rows == list(range(11))


def test_box_contains_region_and_margin_at_the_same_world_coordinates():
    geometry = Geometry((9, 8, 7), AFFINE)
    region = np.zeros(geometry.shape, bool)
    region[3:5, 4:6, 2:4] = True
    box, at = bounding_box(geometry, region, 1.0)
    assert region[at].sum() == region.sum()
    assert all(size >= 4 for size in box.shape)  # two voxels, and at least one on each side
    assert_allclose(world(box), world(geometry)[at])


def test_box_of_an_empty_region_is_the_whole_grid():
    geometry = Geometry((9, 8, 7), AFFINE)
    box, at = bounding_box(geometry, np.zeros(geometry.shape, bool), 1.0)
    assert box.shape == geometry.shape
    assert_array_equal(world(box), world(geometry)[at])


@pytest.mark.parametrize("beyond", ["border", "zero"])
@pytest.mark.parametrize("slab", [1, 500, 1_000_000])
@pytest.mark.parametrize(
    "edges", [(0.5, 0.7, 0.3), (1.0, 1.0, 1.0), (1.3, 0.9, 0.6), (-0.5, 0.7, -0.6)], ids=str
)
def test_parallel_grids_are_interpolated_as_turned_ones_are(monkeypatch, beyond, slab, edges):
    monkeypatch.setattr(resampling, "_SLAB", slab)
    shape, size = (9, 8, 7), (14, 13, 12)
    image = image_of("parallel", shape) + 10  # no zeros
    target = np.diag([*edges, 1.0])
    target[:3, 3] = np.where(np.array(edges) < 0, 7.5, (-2.5, 1.0, 0.25))
    found = resample(image, np.eye(4), Geometry(size, target), np.eye(4), beyond=beyond)
    mode = {"border": "nearest", "zero": "constant"}[beyond]
    expected = ndimage.affine_transform(image, target, output_shape=size, order=1, mode=mode)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_the_border_of_an_image_is_inside_it_in_spite_of_rounding():
    image = np.ones((6, 6, 6), np.float32)
    affine = np.diag([0.1, 0.3, 0.7, 1.0])
    affine[:3, 3] = (0.1, -0.7, 1e3)
    shift = np.eye(4)
    shift[:3, 3] = (1 / 3, 1e-9, -0.1)
    moved = Geometry((6, 6, 6), np.linalg.inv(shift) @ affine)
    assert resample(image, affine, moved, shift, beyond="zero").all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, bool])
def test_images_of_other_types_are_interpolated_as_float32(dtype: type):
    image = np.zeros((4, 4, 4), dtype)
    image[1] = 1
    affine = np.diag([0.25, 1.0, 1.0, 1.0])
    found = resample(image, np.eye(4), Geometry((13, 4, 4), affine), np.eye(4))
    assert found.dtype == np.float32
    assert_allclose(found[:, 2, 2], np.maximum(1 - abs(np.arange(13) / 4 - 1), 0))
