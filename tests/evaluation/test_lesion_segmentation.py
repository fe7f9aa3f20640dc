"""Rule-based lesion segmentation."""

from __future__ import annotations

import numpy as np
import pytest

from flaxflair.core.records import Array, InputError
from flaxflair.evaluation.lesion_segmentation import Case, SegmentationConfig, segment, tune
from flaxflair.evaluation.metrics import dice, lesion_scores

SHAPE = (48, 48, 48)
ONE_MM = (1.0, 1.0, 1.0)
CENTRE = (23.5, 23.5, 23.5)
NOWHERE = np.zeros(SHAPE, bool)


def ball(centre: tuple[float, ...], radius: float) -> Array:
    """bool[x, y, z], the voxels within a radius in voxels."""
    offset = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return np.linalg.norm(offset, axis=0) <= radius


BRAIN = ball(CENTRE, 22)
WHITE = ball(CENTRE, 16)
GREY = ball(CENTRE, 20) & ~WHITE
VENTRICLE = ball(CENTRE, 4)
LESION = ball((13, 23, 23), 3)


def scan(bright: Array, *, dark_on_t1: bool = True, excess: float = 40.0) -> tuple[Array, Array]:
    """Returns the FLAIR and T1 of nested balls: a ventricle, white and grey matter, and fluid."""
    noise = np.random.default_rng(0).normal(0, 2, (2, *SHAPE))
    tissue = [VENTRICLE, WHITE, GREY, BRAIN]
    flair = np.select(tissue, [20.0, 100.0, 115.0, 20.0], 0.0) + bright * excess
    t1 = np.select(tissue, [30.0, 150.0, 100.0, 30.0], 0.0)
    if dark_on_t1:
        t1[bright & WHITE] = 100
    return tuple(
        (image + n * BRAIN).astype(np.float32) for image, n in zip((flair, t1), noise, strict=True)
    )


@pytest.mark.parametrize("dark_on_t1", [True, False])
def test_lesion_in_white_matter_is_found_at_any_t1(dark_on_t1: bool):
    found = segment(*scan(LESION, dark_on_t1=dark_on_t1), BRAIN, ONE_MM)
    scores = lesion_scores(found, LESION)
    assert scores.dice > 0.85
    assert scores.recall == 1
    assert scores.false_positives == 0


def test_bright_cortex_is_not_a_lesion():
    spot = ball((5.5, 23, 23), 1.5)
    assert (spot & GREY).sum() == spot.sum()
    assert not segment(*scan(spot), BRAIN, ONE_MM).any()


def test_bright_spot_in_a_ventricle_is_not_a_lesion():
    assert not segment(*scan(ball(CENTRE, 2), excess=140), BRAIN, ONE_MM).any()


def test_healthy_brain_has_no_lesion():
    assert not segment(*scan(NOWHERE), BRAIN, ONE_MM).any()


def test_minimum_volume_is_in_cubic_millimetres():
    images, size = scan(LESION), int(LESION.sum())
    least = SegmentationConfig(volume=1.5 * size)
    assert not segment(*images, BRAIN, ONE_MM, least).any()
    assert segment(*images, BRAIN, (1.0, 1.0, 2.0), least).any()


def test_segmentation_is_independent_of_gain():
    flair, t1 = scan(LESION)
    found = segment(flair, t1, BRAIN, ONE_MM)
    assert np.array_equal(segment(flair * 8, t1 / 4, BRAIN, ONE_MM), found)
    assert dice(segment(flair * 3.7, t1 * 0.13, BRAIN, ONE_MM), found) > 0.99


def test_segmentation_is_independent_of_the_background():
    flair, t1 = scan(LESION)
    found = segment(flair, t1, BRAIN, ONE_MM)
    head = np.where(BRAIN, 0, 500).astype(np.float32)
    assert np.array_equal(segment(flair + head, t1 + head, BRAIN, ONE_MM), found)


def test_segmentation_does_not_modify_the_images():
    images = scan(LESION)
    copies = [image.copy() for image in images]
    segment(*images, BRAIN, ONE_MM)
    assert all(np.array_equal(a, b) for a, b in zip(images, copies, strict=True))


def test_unreachable_seed_or_rim_gives_an_empty_mask():
    images = scan(LESION)
    assert not segment(*images, BRAIN, ONE_MM, SegmentationConfig(seed=1000)).any()
    dark = images[0], np.where(ball((13, 23, 23), 7), 100 * BRAIN, images[1])
    assert not segment(*dark, BRAIN, ONE_MM).any()


def test_images_without_contrast_give_an_empty_mask():
    flair, t1 = scan(LESION)
    assert not segment(flair, np.ones_like(t1), BRAIN, ONE_MM).any()
    assert not segment(np.ones_like(flair), t1, BRAIN, ONE_MM).any()
    assert not segment(flair, t1, NOWHERE, ONE_MM).any()


def test_different_shapes_are_refused():
    flair, t1 = scan(LESION)
    with pytest.raises(InputError, match=r"the T1 is .* and the FLAIR"):
        segment(flair, t1[1:], BRAIN, ONE_MM)


@pytest.mark.parametrize("wrong", [{"white": 1.5}, {"edge": -0.1}, {"volume": -1}])
def test_invalid_parameters_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SegmentationConfig(**wrong)


def test_tuning_selects_the_best_parameters():
    healthy, ill = (Case(*scan(where), BRAIN, ONE_MM, where) for where in (NOWHERE, LESION))
    start = SegmentationConfig(seed=1000)
    grid = {"seed": (1000, 2.5), "volume": (5, 1e6)}
    chosen = tune([healthy, ill], grid, start)
    assert (chosen.seed, chosen.volume) == (2.5, start.volume)
    assert chosen.edge == start.edge
    assert tune([healthy], grid, start) == start


def test_tuning_weights_the_cases():
    images = scan(LESION)
    tight, wide = SegmentationConfig(edge=0.9), SegmentationConfig(edge=0.1)
    truths = [segment(*images, BRAIN, ONE_MM, config) for config in (tight, wide)]
    assert truths[0].sum() < truths[1].sum()
    for weights, best in (((3, 1), tight), ((1, 3), wide)):
        pairs = zip(truths, weights, strict=True)
        cases = [Case(*images, BRAIN, ONE_MM, truth, weight) for truth, weight in pairs]
        assert tune(cases, {"edge": (0.1, 0.9)}) == best


def test_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match="threshold is no parameter"):
        tune([], {"threshold": (1,)})


def test_lesion_is_found_on_a_coarse_grid():
    coarse = (3.6, 3.6, 3.6)
    found = segment(*scan(LESION), BRAIN, coarse)
    assert lesion_scores(found, LESION).dice > 0.85


def test_fluid_in_the_grey_matter_class_does_not_hide_a_lesion():
    flair, t1 = scan(LESION, excess=30)
    shrunken = GREY & ~ball(CENTRE, 18.2)
    depth = np.random.default_rng(1).uniform(5, 60, SHAPE)
    partial = np.where(shrunken, flair - depth, flair).astype(np.float32)
    found = segment(flair, t1, BRAIN, ONE_MM)
    assert lesion_scores(found, LESION).recall == 1
    assert dice(segment(partial, t1, BRAIN, ONE_MM), found) > 0.9
