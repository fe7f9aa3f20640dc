"""The random forest: it reads neighbours, repeats itself, and says what is wrong with its file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import InconsistentVersionWarning

from flaxflair.baselines import forest, least_squares
from flaxflair.baselines.forest import FILE, Forest
from flaxflair.volume import Array, InputError

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


def test_a_forest_learns_what_a_neighbour_tells_and_least_squares_cannot(model: Forest):
    world = [shifted_world(seed) for seed in range(3)]
    images, flair, region = shifted_world(7)
    prediction = forest.predict(model, images)
    rival = least_squares.predict(least_squares.fit(world), images)
    assert prediction.dtype == np.float32
    assert error(prediction, flair, region) < 0.4
    assert error(rival, flair, region) > 0.9


def test_a_patch_holds_the_neighbours_of_its_voxel_and_zeros_beyond_the_grid():
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


def test_one_seed_gives_one_forest_and_another_seed_another():
    images = shifted_world(7)[0]
    world = [shifted_world(0)]
    first, again, other = (
        forest.predict(grow(world, patches=100, seed=seed), images) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_prediction_in_chunks_equals_the_forests_own(
    model: Forest, monkeypatch: pytest.MonkeyPatch
):
    images = shifted_world(7)[0]
    monkeypatch.setattr(forest, "_CHUNK", 50)
    patches = forest._read_patches(forest._pad(images), np.arange(np.prod(SHAPE)))
    expected = model.trees.predict(patches).reshape(SHAPE)
    np.testing.assert_allclose(forest.predict(model, images), expected, rtol=1e-6)


def test_voxels_that_are_not_asked_for_are_zero_and_change_no_other(model: Forest):
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
def test_patches_are_shared_evenly_among_subjects_that_have_them(patches: int, shares: list[int]):
    assert forest._share([5, 100, 40], patches) == shares


def test_a_tree_draws_its_share_of_the_patches():
    world = [shifted_world(0)]
    for share in (1.0, 0.25):
        grown = forest.fit(world, trees=2, leaf=2, features=1 / 3, patches=100, share=share, seed=0)
        for tree in grown.trees.estimators_:
            assert tree.tree_.weighted_n_node_samples[0] == 100 * share


def test_subjects_may_differ_in_grid():
    world = [shifted_world(0), shifted_world(1, (5, 12, 6))]
    model = grow(world)
    assert forest.predict(model, shifted_world(2, (4, 4, 4))[0]).shape == (4, 4, 4)


def test_a_loaded_forest_predicts_what_the_saved_one_does(model: Forest, tmp_path: Path):
    forest.save(model, tmp_path)
    images = shifted_world(7)[0]
    loaded = forest.load(tmp_path)
    np.testing.assert_array_equal(forest.predict(loaded, images), forest.predict(model, images))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_damaged_file_is_refused_by_name_wherever_the_damage_is(model: Forest, tmp_path: Path):
    forest.save(model, tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    flipped = [bytearray(whole) for _ in range(8)]
    for part, content in enumerate(flipped):
        content[len(whole) * part // 8 + 12] ^= 16
    for content in (b"", b"no forest", whole[:-9], whole[: len(whole) // 2], *flipped):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{FILE}: is damaged.* fit the forest anew"):
            forest.load(tmp_path)


def test_a_forest_that_was_never_saved_is_refused_by_name(tmp_path: Path):
    with pytest.raises(InputError, match=f"{FILE}: no such file"):
        forest.load(tmp_path)


def test_a_forest_of_another_scikit_learn_is_refused(
    model: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forest.save(model, tmp_path)

    def load(stream: object) -> None:
        raise InconsistentVersionWarning(
            estimator_name="tree", current_sklearn_version="1.9", original_sklearn_version="1.5"
        )

    monkeypatch.setattr(forest.joblib, "load", load)
    with pytest.raises(InputError, match=r"saved by scikit-learn 1\.5 and this is 1\.9"):
        forest.load(tmp_path)


def test_other_numbers_of_sequences_are_refused(model: Forest):
    images, flair, region = shifted_world(0)
    one = images[..., :1]
    with pytest.raises(InputError, match="reads 2 sequences and the images hold 1"):
        forest.predict(model, one)
    with pytest.raises(InputError, match="have 1 and 2 sequences"):
        grow([(images, flair, region), (one, flair, region)])


def test_a_cohort_without_a_voxel_that_counts_is_refused():
    images, flair, region = shifted_world(0)
    for world in ([], [(images, flair, np.zeros_like(region))]):
        with pytest.raises(InputError, match="no voxel of the training subjects counts"):
            grow(world)
