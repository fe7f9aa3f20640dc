"""Masks: binarisation independent of the value range, and plausibility of brain masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, InputError, Volume
from flaxflair.imaging.masks import binarize, check_brain_mask, check_brain_volume, expect_mask

EDGE = 4.0  # mm
PLACES = EDGE * (np.indices((50, 50, 50)) - 24.5)
RADIUS = np.sqrt((PLACES**2).sum(axis=0))
BRAIN = RADIUS < 68  # mm; 1.3 L
GEOMETRY = Geometry((50, 50, 50), np.diag([EDGE, EDGE, EDGE, 1.0]))
SOFT = ndimage.gaussian_filter(BRAIN.astype(np.float64), 0.4)
HEAD = Volume(np.where(RADIUS < 80, 300.0, 2.0).astype(np.float32), GEOMETRY)


@pytest.mark.parametrize(
    "mask",
    [
        BRAIN.astype(np.float64),
        SOFT,
        255.0 * BRAIN,
        255 * SOFT,
        100 * SOFT,
        BRAIN * (1.0 + np.arange(50) % 7),
        1e-3 + BRAIN,
    ],
    ids=["0 and 1", "0 to 1", "0 and 255", "0 to 255", "0 to 100", "labels", "an offset"],
)
def test_binarize_is_independent_of_the_value_range(mask: Array):
    assert_array_equal(binarize(mask.astype(np.float32)), BRAIN)


def test_empty_mask_is_refused_by_name():
    empty = binarize(np.zeros(GEOMETRY.shape, np.float32))
    with pytest.raises(InputError, match=r"^mask\.nii: the mask is empty; give one"):
        expect_mask(empty, "mask.nii")


@pytest.mark.parametrize(
    ("brain", "litres"),
    [(RADIUS < 40, "0.27"), (RADIUS < 1e9, "8.00"), (BRAIN, "")],
    ids=["a lesion", "all", "a brain"],
)
def test_implausible_brain_volume_is_a_warning(brain: Array, litres: str):
    found = check_brain_volume(brain, (EDGE, EDGE, EDGE))
    assert len(found) == bool(litres)
    assert all(f"a volume of {litres} L" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("move", "warned"),
    [
        (lambda at: at, False),
        (lambda at: at + np.array([0, 0, 8.0])[:, None, None, None], False),
        (lambda at: at + np.array([0, 0, 40.0])[:, None, None, None], True),
        (lambda at: at / 1.3, True),
        (lambda at: at + 900, True),
    ],
    ids=["in place", "nearly", "40 mm off", "too large", "nowhere"],
)
def test_brain_mask_beyond_the_head_is_a_warning(move: Callable[[Array], Array], warned: bool):
    brain = np.sqrt((move(PLACES) ** 2).sum(axis=0)) < 68
    assert bool(check_brain_mask(Volume(brain, GEOMETRY), HEAD)) == warned
