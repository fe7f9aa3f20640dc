"""Metrics and white-matter segmentation: values computed by hand, and NaN if undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.measure import label
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from flaxflair.evaluation import metrics
from flaxflair.imaging.tissue import white_matter
from tests.samples import brain_of, image_of

TRUTH = image_of("truth", (11, 9, 8))
PREDICTION = (TRUTH + image_of("error", TRUTH.shape) / 5).astype(np.float32)
BRAIN = brain_of(TRUTH.shape)
NOWHERE = np.zeros(TRUTH.shape, bool)


def test_mse_is_a_mean_over_volume_or_region():
    square = (PREDICTION.astype(np.float64) - TRUTH) ** 2
    assert metrics.mse(PREDICTION, TRUTH) == pytest.approx(square.mean())
    assert metrics.mse(PREDICTION, TRUTH, BRAIN) == pytest.approx(square[BRAIN].mean())
    assert math.isnan(metrics.mse(PREDICTION, TRUTH, NOWHERE))


def test_nmse_is_one_for_the_mean_and_zero_for_the_truth():
    mean = np.full_like(TRUTH, TRUTH[BRAIN].mean())
    assert metrics.nmse(mean, TRUTH, BRAIN) == pytest.approx(1)
    assert metrics.nmse(TRUTH, TRUTH, BRAIN) == 0
    assert metrics.nmse(PREDICTION * 9, TRUTH * 9, BRAIN) == pytest.approx(
        metrics.nmse(PREDICTION, TRUTH, BRAIN)
    )


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (3.7, -200), (0.01, 5), (-2, 40)])
def test_fitted_metrics_are_independent_of_gain_and_offset(gain: float, offset: float):
    scaled = gain * PREDICTION + offset
    expected = 1 - np.corrcoef(PREDICTION[BRAIN], TRUTH[BRAIN])[0, 1] ** 2
    assert metrics.nmse_fit(scaled, TRUTH, BRAIN) == pytest.approx(expected, rel=1e-4)
    assert metrics.nmse_fit(gain * TRUTH + offset, TRUTH, BRAIN) == pytest.approx(0, abs=1e-6)
    assert metrics.ssim_fit(gain * TRUTH + offset, TRUTH, BRAIN) == pytest.approx(1, abs=1e-5)
    assert metrics.ssim_fit(scaled, TRUTH, BRAIN) == pytest.approx(
        metrics.ssim_fit(PREDICTION, TRUTH, BRAIN), rel=1e-4
    )


def test_fit_of_constant_and_of_empty_region():
    flat = np.full_like(TRUTH, 7)
    assert metrics.nmse_fit(flat, TRUTH, BRAIN) == pytest.approx(1)
    assert math.isnan(metrics.nmse_fit(PREDICTION, TRUTH, NOWHERE))
    assert math.isnan(metrics.ssim_fit(PREDICTION, TRUTH, NOWHERE))
    assert math.isnan(metrics.ssim_fit(PREDICTION, flat, BRAIN))


def test_fitted_metrics_are_independent_of_the_background():
    outside = np.where(BRAIN, PREDICTION, 1e6).astype(np.float32)
    for metric in (metrics.nmse_fit, metrics.ssim_fit):
        assert metric(outside, TRUTH, BRAIN) == pytest.approx(metric(PREDICTION, TRUTH, BRAIN))


def test_lesion_rest_compares_with_the_rest_of_the_brain():
    lesion = NOWHERE.copy()
    lesion[2:4, 3, 3] = True
    flair = np.where(lesion, 3.0, 2.0)
    assert metrics.lesion_rest(flair, lesion, BRAIN) == pytest.approx(1.5)
    assert math.isnan(metrics.lesion_rest(flair, NOWHERE, BRAIN))


def test_ssim_and_psnr_equal_scikit_image():
    extent = float(np.ptp(TRUTH))
    assert metrics.ssim(PREDICTION, TRUTH) == pytest.approx(
        structural_similarity(TRUTH, PREDICTION, data_range=extent, win_size=7), abs=1e-5
    )
    assert metrics.psnr(PREDICTION, TRUTH) == pytest.approx(
        peak_signal_noise_ratio(TRUTH, PREDICTION, data_range=extent), abs=1e-4
    )
    assert metrics.ssim(TRUTH, TRUTH) == pytest.approx(1)
    assert metrics.psnr(TRUTH, TRUTH) == math.inf


@pytest.mark.parametrize(("slices", "window"), [(3, 3), (4, 3), (5, 5), (6, 5), (7, 7)])
def test_ssim_window_shrinks_for_thin_volumes(slices: int, window: int):
    truth, prediction = TRUTH[..., :slices], PREDICTION[..., :slices]
    assert metrics.ssim(prediction, truth) == pytest.approx(
        structural_similarity(
            truth, prediction, data_range=metrics.data_range(truth), win_size=window
        ),
        abs=1e-5,
    )


def test_undefined_metrics_are_nan():
    flat = np.zeros_like(TRUTH)
    assert math.isnan(metrics.nmse(PREDICTION, flat, BRAIN))
    assert math.isnan(metrics.nmse(PREDICTION, TRUTH, NOWHERE))
    assert math.isnan(metrics.psnr(PREDICTION, flat))
    assert math.isnan(metrics.ssim(PREDICTION, flat))
    assert math.isnan(metrics.ssim(PREDICTION[..., :2], TRUTH[..., :2]))


def test_lesion_ratios_use_all_and_surrounding_white_matter():
    distance = np.abs(np.arange(-10, 11)).reshape(-1, 1, 1)
    lesion = distance == 0
    nawm = distance > 1  # a rim of grey matter between the lesion and its surroundings
    flair = np.select([lesion, distance == 1, distance <= 5], [3.0, 99.0, 2.0], 1.0)
    first, second = metrics.lesion_ratios(flair, lesion, nawm | lesion)
    assert first == pytest.approx(3 / ((8 * 2 + 10 * 1) / 18))
    assert second == pytest.approx(1.5)


def test_lesion_ratio_of_a_healthy_subject_is_nan():
    assert np.isnan(metrics.lesion_ratios(TRUTH, NOWHERE, BRAIN)).all()


def test_lesion_ratio_without_positive_white_matter_is_nan():
    lesion = NOWHERE.copy()
    lesion[1, 1, 1] = True
    far = NOWHERE.copy()
    far[-2:, -2:, -2:] = True
    first, second = metrics.lesion_ratios(TRUTH + 1, lesion, far)
    assert first > 0
    assert math.isnan(second)
    assert np.isnan(metrics.lesion_ratios(np.zeros_like(TRUTH), lesion, BRAIN)).all()


def test_dice_of_empty_masks_is_nan():
    half = np.arange(TRUTH.shape[0]).reshape(-1, 1, 1) < 5
    half = np.broadcast_to(half, TRUTH.shape)
    assert metrics.dice(half, half) == 1
    assert metrics.dice(half, ~half) == 0
    assert metrics.dice(half, np.ones_like(half)) == pytest.approx(2 * 5 / (5 + 11))
    assert metrics.dice(half, NOWHERE) == 0
    assert math.isnan(metrics.dice(NOWHERE, NOWHERE))


def test_lesion_scores_count_lesions():
    truth, segmented = NOWHERE.copy(), NOWHERE.copy()
    truth[1:3, 1, 1] = True
    truth[3, 2, 2] = True  # touches by a corner: the same lesion
    truth[8, 1, 1] = True  # missed
    segmented[3, 2, 2] = True
    segmented[6, 6, 5:7] = True  # false, as is the next
    segmented[9, 8, 7] = True
    segmented[2, 1, 1] = True
    scores = metrics.lesion_scores(segmented, truth)
    assert scores.dice == pytest.approx(2 * 2 / (5 + 4))
    assert scores.recall == 0.5
    assert scores.false_positives == 2
    assert scores.volume_bias == pytest.approx(1 / 4)


def test_lesion_scores_of_a_healthy_subject_are_nan():
    scores = metrics.lesion_scores(NOWHERE, NOWHERE)
    assert scores.false_positives == 0
    assert np.isnan([scores.dice, scores.recall, scores.volume_bias]).all()
    scores = metrics.lesion_scores(BRAIN, NOWHERE)
    assert (scores.dice, scores.false_positives) == (0, 1)
    assert np.isnan([scores.recall, scores.volume_bias]).all()


def test_lesion_scores_of_an_empty_segmentation():
    assert metrics.lesion_scores(NOWHERE, BRAIN) == (0, 0, 0, -1)


def test_white_matter_is_the_largest_component_of_the_brightest_class():
    radius = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
    brain = radius < 15
    t1 = np.select([radius < 5, radius < 10, brain], [30.0, 100.0, 70.0], 400.0)
    t1 += np.random.default_rng(0).normal(0, 4, t1.shape)
    truth = (radius >= 5) & (radius < 10)
    t1[15, 15, 2:4] = 300  # a vessel
    found = white_matter(t1, brain)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.98
    assert np.asarray(label(found, connectivity=1)).max() == 1
    assert not found[15, 15, 2]
    assert not found[~brain].any()


def test_white_matter_without_three_classes_is_empty():
    assert not white_matter(BRAIN * 100.0, BRAIN).any()
