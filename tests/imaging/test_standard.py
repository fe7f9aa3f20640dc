"""Standard form of a session: tissue levels, grid, resolution, and the inverse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from flaxflair.core.records import Geometry, InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import (
    BRIGHTEST,
    EDGE,
    MARGIN,
    MULTIPLE,
    coarse_sequences,
    encode_condition,
    standard_grid,
    standardize,
    to_subject_grid,
)
from flaxflair.imaging.tissue_levels import STANDARD
from tests.samples import ball


def test_condition_of_absent_sequences_is_zero():
    rows = encode_condition({"T2": (1.0, 0.5, 4.0)}).reshape(len(INPUTS), 4)
    assert_allclose(rows[INPUTS.index("T2")], (1, 0, -1, 2))
    assert np.count_nonzero(rows.any(axis=1)) == 1


@pytest.mark.parametrize("edges", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (2.0, 1.1, 1.0)])
def test_standard_form_has_standard_tissue_levels_at_any_resolution(edges):
    subject = ball(edges)
    standard = standardize(subject)
    assert standard.images.dtype == np.float32
    assert standard.images.max() <= BRIGHTEST
    white = standard.images[..., INPUTS.index("T1")] > 0.95
    for name in subject.sequences:
        found = np.median(standard.images[white][:, INPUTS.index(name)])
        assert found == pytest.approx(STANDARD[name].white, rel=0.06)
    absent = [INPUTS.index(name) for name in INPUTS if name not in subject.sequences]
    assert not standard.images[..., absent].any()
    assert not standard.images[~standard.brain].any()


@pytest.mark.parametrize("gain", [1e-3, 0.1, 40.0])
def test_standard_form_is_independent_of_gain(gain: float):
    subject = ball((1.0, 1.0, 2.0))
    louder = replace(subject, images=subject.images * np.float32(gain))
    assert_allclose(standardize(louder).images, standardize(subject).images, atol=2e-3)


def test_condition_holds_the_scanned_voxel_size():
    subject = replace(ball((1.0, 1.0, 1.0)), scanned={"T2": (0.5, 0.5, 4.0)})
    rows = standardize(subject).condition.reshape(len(INPUTS), 4)
    assert_allclose(rows[INPUTS.index("T1")], (1, 0, 0, 0))
    # Finer voxels are limited by the grid of 1 mm.
    assert_allclose(rows[INPUTS.index("T2")], (1, 0, 0, 2))


def test_voxels_beyond_the_trained_range_are_clipped_and_reported():
    subject = replace(ball((2.0, 2.0, 2.0)), scanned={"T2": (2.0, 2.0, 9.0)})
    rows = standardize(subject).condition.reshape(len(INPUTS), 4)
    assert sorted(2 ** rows[INPUTS.index("T1"), 1:]) == pytest.approx([1.3, 1.3, 2.0])
    assert_allclose(2 ** rows[INPUTS.index("T2"), 1:], (1.3, 1.3, 7.0), rtol=1e-5)
    assert coarse_sequences(subject) == ("T1", "T2")
    assert coarse_sequences(ball((1.0, 1.0, 6.0))) == ()


@given(
    edges=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    low=st.tuples(*[st.integers(0, 5)] * 3),
    size=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_standard_grid_covers_region_and_margin_in_whole_blocks(edges, low, size):
    shape = (12, 12, 12)
    geometry = Geometry(shape, np.diag([*edges, 1.0]))
    region = np.zeros(shape, bool)
    region[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    grid = standard_grid(geometry, region, MARGIN)
    assert all(number % MULTIPLE == 0 for number in grid.shape)
    assert_allclose(grid.voxel_size, EDGE, atol=0.02)
    to_grid = np.linalg.inv(grid.affine) @ geometry.affine
    first = to_grid @ [*low, 1]
    last = to_grid @ [*(np.array(low) + size - 1), 1]
    assert (first[:3] >= MARGIN / 1.02 - 1).all()
    assert (last[:3] <= np.array(grid.shape) - MARGIN / 1.02).all()


def test_grid_of_one_millimetre_is_not_interpolated():
    subject = ball((1.0, 1.0, 1.0))
    standard = standardize(subject)
    assert standard.brain.sum() == subject.masks.brain.sum()
    there = np.random.default_rng(0).random(standard.geometry.shape, np.float32)
    back = to_subject_grid(subject, there, standard.geometry)
    again = np.zeros_like(there)
    place = np.linalg.inv(standard.geometry.affine) @ subject.geometry.affine @ [0, 0, 0, 1]
    corner = np.rint(place[:3]).astype(int)
    assert_allclose(place[:3], corner, atol=1e-6)
    cut = tuple(
        slice(max(c, 0), c + n) for c, n in zip(corner, subject.geometry.shape, strict=True)
    )
    again[cut] = there[cut]
    inside = tuple(
        slice(max(-c, 0), max(-c, 0) + again[cut].shape[i]) for i, c in enumerate(corner)
    )
    assert_allclose(back[inside], there[cut], atol=1e-6)


def test_thick_slices_are_averages():
    subject = ball((1.0, 1.0, 4.0))
    geometry = standardize(subject).geometry
    ramp = np.zeros(geometry.shape, np.float32)
    ramp[:, :, ::4] = 4.0
    back = to_subject_grid(subject, ramp, geometry)
    middle = back[30:50, 30:50, 8:12]
    assert middle.mean() == pytest.approx(1.0, rel=0.1)
    assert middle.std() < 0.3


def test_field_of_view_beyond_the_brain_changes_nothing():
    subject = ball((1.2, 0.8, 1.0))
    wide = [(5, 7), (0, 9), (12, 0)]  # whole millimetres, as the standard grid starts at one
    affine = subject.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [5, 0, 12]
    brain = np.pad(subject.masks.brain, wide)
    x, y, z = brain.shape
    padded = replace(
        subject,
        images=np.pad(subject.images, [*wide, (0, 0)], mode="edge"),
        masks=replace(subject.masks, brain=brain, lesion=None, white_matter=None),
        geometry=Geometry((x, y, z), affine),
    )
    expected, found = standardize(subject), standardize(padded)
    assert_allclose(found.geometry.affine, expected.geometry.affine, atol=1e-9)
    assert_array_equal(found.brain, expected.brain)
    assert_allclose(found.images, expected.images, atol=1e-5)


def test_missing_and_unknown_sequences_are_refused():
    subject = ball((2.0, 2.0, 2.0))
    with pytest.raises(InputError, match="not an input of the model"):
        standardize(replace(subject, sequences=(), images=subject.images[..., :0]))
    with pytest.raises(InputError, match="CT"):
        standardize(replace(subject, sequences=("T1", "CT")))
