"""The random forest: it reads neighbours, and it repeats itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from flaxflair.baselines import forest, least_squares
from flaxflair.baselines.forest import Forest
from flaxflair.baselines.trees import from_sklearn, pack, unpack, walk
from flaxflair.core.records import Array, InputError

SHAPE = (9, 8, 7)


def shifted_world(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Array, Array, Array]:
    """Returns (images, flair, region); the FLAIR is the second image, moved by one voxel in y."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(*shape, 2)).astype(np.float32)
    flair = np.zeros(shape, np.float32)
    flair[:, 1:] = images[:, :-1, :, 1]
    region = np.zeros(shape, bool)
    region[1:-1, 1:-1, 1:-1] = True
    return images, np.where(region, flair, np.float32(1e6)), region


def grow(
    examples: Iterable[tuple[Array, Array, Array]], *, patches: int = 0, seed: int = 0
) -> Forest:
    return forest.fit(examples, trees=8, leaf=2, features=1 / 3, patches=patches, seed=seed)


@pytest.fixture(scope="module")
def model() -> Forest:
    return grow(shifted_world(seed) for seed in range(3))


def error(prediction: Array, flair: Array, region: Array) -> float:
    return float(np.square(prediction - flair)[region].mean() / flair[region].var())


def test_forest_uses_neighbours_unlike_least_squares(model: Forest):
    world = [shifted_world(seed) for seed in range(3)]
    images, flair, region = shifted_world(7)
    prediction = forest.predict(model, images)
    baseline = least_squares.predict(least_squares.fit(world), images)
    assert prediction.dtype == np.float32
    assert error(prediction, flair, region) < 0.4
    assert error(baseline, flair, region) > 0.9


def test_patch_has_neighbours_and_zeros_beyond_the_grid():
    images = shifted_world(0, (3, 4, 2))[0]
    padded = np.pad(images, [(1, 1)] * 3 + [(0, 0)])
    patches = forest._read_patches(padded, np.arange(24))
    expected = [
        padded[at][...].ravel()
        for at in (
            (slice(x, x + 3), slice(y, y + 3), slice(z, z + 3)) for x, y, z in np.ndindex(3, 4, 2)
        )
    ]
    np.testing.assert_array_equal(patches, expected)


def test_forest_depends_on_its_seed():
    images = shifted_world(7)[0]
    world = [shifted_world(0)]
    first, again, other = (
        forest.predict(grow(world, patches=100, seed=seed), images) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_chunked_prediction_equals_whole(model: Forest, monkeypatch: pytest.MonkeyPatch):
    images = shifted_world(7)[0]
    whole = forest.predict(model, images)
    monkeypatch.setattr(forest, "_CHUNK", 50)
    np.testing.assert_array_equal(forest.predict(model, images), whole)


@pytest.mark.parametrize("leaf", [1, 3, 400])
def test_stored_trees_equal_scikit_learn(leaf: int):
    rng = np.random.default_rng(0)
    # Neighbouring float32, between which a threshold has to fall where it did.
    table = (1 + rng.integers(0, 6, (600, 5)) * np.spacing(np.float32(1))).astype(np.float32)
    table[:, 3:] = rng.normal(size=(600, 2))
    grown = RandomForestRegressor(5, min_samples_leaf=leaf, random_state=0)
    grown.fit(table, table @ rng.normal(size=5) * 1e5 + rng.normal(size=600))
    trees = from_sklearn(grown)
    np.testing.assert_allclose(walk(trees, table), grown.predict(table), rtol=1e-6)
    assert unpack(pack(trees), 5) == trees


def test_voxels_outside_the_mask_are_zero(model: Forest):
    images, _, _ = shifted_world(7)
    inside = np.random.default_rng(0).random(SHAPE) > 0.5
    expected = np.where(inside, forest.predict(model, images), 0)
    np.testing.assert_array_equal(forest.predict(model, images, inside), expected)
    assert not forest.predict(model, images, np.zeros(SHAPE, bool)).any()


@pytest.mark.parametrize(
    ("patches", "shares"),
    [
        (0, [5, 100, 40]),
        (145, [5, 100, 40]),
        (1000, [5, 100, 40]),
        (65, [5, 30, 30]),
        (2, [0, 1, 1]),
    ],
)
def test_patches_are_distributed_evenly_over_subjects(patches: int, shares: list[int]):
    assert forest._share([5, 100, 40], patches) == shares


def test_tree_draws_its_share_of_patches():
    world = [shifted_world(0)]
    for share in (1.0, 0.25):
        grown = forest.fit(world, trees=2, leaf=2, features=1 / 3, patches=100, share=share, seed=0)
        # A leaf holds at least two of the patches drawn.
        assert (np.diff(grown.trees.starts) < 100 * share).all()


def test_subjects_may_differ_in_grid():
    world = [shifted_world(0), shifted_world(1, (5, 12, 6))]
    model = grow(world)
    assert forest.predict(model, shifted_world(2, (4, 4, 4))[0]).shape == (4, 4, 4)


def test_different_number_of_sequences_is_refused(model: Forest):
    images, flair, region = shifted_world(0)
    one = images[..., :1]
    with pytest.raises(InputError, match="reads 2 sequences and the images hold 1"):
        forest.predict(model, one)
    with pytest.raises(InputError, match="have 1 and 2 sequences"):
        grow([(images, flair, region), (one, flair, region)])


def test_empty_regions_are_refused():
    images, flair, region = shifted_world(0)
    for world in ([], [(images, flair, np.zeros_like(region))]):
        with pytest.raises(InputError, match="regions of the training subjects are empty"):
            grow(world)
