"""Modality propagation: the nearest patch is found, everywhere, and exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flaxflair.baselines import propagation
from flaxflair.baselines.propagation import Atlas
from flaxflair.core.records import Array, InputError

SHAPE = (6, 5, 4)
SEARCH = (2, 1, 1)


def draw_subject(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[Array, Array, Array]:
    """Returns (images, flair, region), of small integers: distances are exact and often tie."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-2, 3, (*shape, 2)).astype(np.float32)
    flair = rng.normal(size=shape).astype(np.float32)
    return images, flair, rng.random(shape) > 0.4


def search_by_hand(model: Atlas, images: Array) -> Array:
    """Looks at one patch after the other; NaN where no candidate counts."""
    own = np.pad(images, [(1, 1)] * 3 + [(0, 0)])
    others = [np.pad(other, [(1, 1)] * 3 + [(0, 0)]) for other in model.images]

    def patch(padded: Array, at: tuple[int, ...]) -> Array:
        return padded[tuple(slice(n, n + 3) for n in at)]

    flair = np.full(images.shape[:-1], np.nan, np.float32)
    for at in np.ndindex(*flair.shape):
        nearest = np.inf
        for number, other in enumerate(others):
            for shift in itertools.product(*(range(-n, n + 1) for n in model.search)):
                there = tuple(np.add(at, shift))
                on_grid = all(0 <= n < size for n, size in zip(there, flair.shape, strict=True))
                if not on_grid or not model.region[number][there]:
                    continue
                distance = np.square(patch(own, at) - patch(other, there)).sum()
                if distance < nearest:
                    nearest, flair[at] = distance, model.flair[number][there]
    return flair


@pytest.fixture(scope="module")
def model() -> Atlas:
    return propagation.fit((draw_subject(seed) for seed in range(3)), search=SEARCH)


@pytest.mark.parametrize("search", [(0, 0, 0), (1, 1, 1), SEARCH, (7, 0, 5)])
@pytest.mark.parametrize("slab", [1, 1 << 15])
def test_search_equals_brute_force(
    search: tuple[int, int, int], slab: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(propagation, "_SLAB", slab)
    model = propagation.fit((draw_subject(seed) for seed in range(3)), search=search)
    images = draw_subject(7)[0]
    expected = search_by_hand(model, images)
    prediction = propagation.predict(model, images)
    assert prediction.dtype == np.float32
    known = np.isfinite(expected)
    np.testing.assert_array_equal(prediction[known], expected[known])


def test_identical_patch_gives_its_flair():
    rng = np.random.default_rng(3)
    shape = (12, 11, 9)
    images, *subjects = (rng.normal(size=(*shape, 3)).astype(np.float32) for _ in range(4))
    world = [(own, np.full(shape, -1, np.float32), np.ones(shape, bool)) for own in subjects]
    planted, flair, _ = world[1]
    planted[6:9, 3:6, 4:7] = images[4:7, 4:7, 4:7]
    flair[7, 4, 5] = 42
    near, far = (
        propagation.predict(propagation.fit(world, search=search), images)[5, 5, 5]
        for search in ((2, 1, 0), (1, 1, 1))
    )
    assert near == 42
    assert far == -1


def test_ties_take_first_subject_and_lowest_shift():
    images = np.zeros((*SHAPE, 1), np.float32)
    flair = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    region = np.ones(SHAPE, bool)
    model = propagation.fit([(images, flair, region), (images, -flair, region)], search=(1, 1, 1))
    assert propagation.predict(model, images)[2, 2, 2] == flair[1, 1, 1]


def test_voxel_without_candidate_takes_the_closest_mean():
    images, flair, region = draw_subject(0)
    region = np.zeros_like(region)
    region[0, 0, 0] = True
    model = propagation.fit([(images, flair, region), (images, flair + 2, region)], search=SEARCH)
    prediction = propagation.predict(model, images)
    assert prediction[0, 0, 0] == flair[0, 0, 0]
    np.testing.assert_allclose(prediction[3:], flair[0, 0, 0] + 1, rtol=1e-6)


def test_voxels_outside_the_mask_are_zero(model: Atlas):
    images = draw_subject(7)[0]
    inside = np.zeros(SHAPE, bool)
    inside[1:4, 2:5, 1] = np.random.default_rng(0).random((3, 3)) > 0.3
    expected = np.where(inside, propagation.predict(model, images), 0)
    np.testing.assert_array_equal(propagation.predict(model, images, inside), expected)
    assert not propagation.predict(model, images, np.zeros(SHAPE, bool)).any()


def test_different_grids_are_refused(model: Atlas):
    other = draw_subject(1, (6, 5, 3))
    with pytest.raises(InputError, match=r"subject has 6×5×3 .* the first has 6×5×4 voxel"):
        propagation.fit([draw_subject(0), other], search=SEARCH)
    with pytest.raises(
        InputError, match="have 6×5×4 voxels of 2 sequences, these have 6×5×3 voxels"
    ):
        propagation.predict(model, other[0])


def test_empty_regions_and_negative_search_are_refused():
    images, flair, region = draw_subject(0)
    with pytest.raises(InputError, match="no subject"):
        propagation.fit([], search=SEARCH)
    with pytest.raises(InputError, match="regions of the training subjects are empty"):
        propagation.fit([(images, flair, np.zeros_like(region))], search=SEARCH)
    with pytest.raises(InputError, match="zero or more"):
        propagation.fit([(images, flair, region)], search=(1, -1, 1))
