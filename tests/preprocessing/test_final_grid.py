"""The final grid: masks estimated in averages of voxels, on the voxels of the reference."""

from __future__ import annotations

import numpy as np
import pytest

from flaxflair.core.records import Geometry, Volume
from flaxflair.imaging.resampling import coarsen
from flaxflair.preprocessing.final_grid import refine_mask


@pytest.mark.parametrize("edge", [0.3, 0.4, 0.5])
def test_a_mask_reaches_the_border_of_the_field_of_view(edge: float):
    grid = Geometry((23, 24, 25), np.diag([edge, edge, edge, 1.0]))
    everywhere = Volume(np.ones(grid.shape, np.float32), grid)
    assert refine_mask(coarsen(everywhere, 1.0), grid).all()


def test_a_mask_on_the_grid_is_not_changed():
    grid = Geometry((9, 8, 7), np.eye(4))
    mask = np.random.default_rng(0).random(grid.shape) > 0.5
    np.testing.assert_array_equal(refine_mask(Volume(mask.astype(np.float32), grid), grid), mask)
