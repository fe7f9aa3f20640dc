"""Scores per subject, and their summary over folds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from flaxflair.core.records import InputError
from flaxflair.evaluation import metrics
from flaxflair.evaluation.scoring import METRICS, regions, score, score_truth, summarize
from tests.samples import SHAPE, brain_of, image_of

LESION = np.zeros(SHAPE, bool)
LESION[3:5, 4, 3] = True
NAN = float("nan")


def test_truth_has_perfect_scores(make_subject):
    subject = make_subject(lesion=LESION, white_matter=brain_of(SHAPE))
    row = score(subject, subject.flair)
    assert tuple(row) == METRICS
    assert (row["mse"], row["nmse_brain"], row["psnr"]) == (0, 0, math.inf)
    assert row["ssim"] == pytest.approx(1)
    assert row["nmse_fit"] == pytest.approx(0, abs=1e-9)
    assert row["ssim_fit"] == pytest.approx(1)
    assert row["lesion_rest"] == metrics.lesion_rest(subject.flair, LESION, subject.masks.brain)
    assert (row["ratio1"], row["ratio2"]) == metrics.lesion_ratios(
        subject.flair, LESION, brain_of(SHAPE) & ~LESION
    )
    assert {**score_truth(subject), "noise_mse": 0} == {
        "ratio1": row["ratio1"],
        "ratio2": row["ratio2"],
        "lesion_rest": row["lesion_rest"],
        "noise_mse": 0,
    }


def test_noise_mse_is_the_error_of_the_true_flair(make_subject):
    subject = make_subject()
    assert math.isnan(score_truth(subject)["noise_mse"])
    subject = dataclasses.replace(subject, noisefree=subject.flair + 3)
    assert score_truth(subject)["noise_mse"] == pytest.approx(9, rel=1e-5)


@pytest.mark.parametrize(
    "masks", [{}, {"lesion": LESION}, {"lesion": ~(LESION | True), "white_matter": LESION}]
)
def test_contrast_without_masks_is_nan(make_subject, masks):
    subject = make_subject(**masks)
    row = score(subject, image_of("prediction"))
    assert math.isnan(row["ratio1"])
    assert math.isnan(row["ratio2"])
    assert row["mse"] > 0


def test_subject_without_flair_is_refused_by_name(make_subject):
    with pytest.raises(InputError, match="sub-07: has no FLAIR to compare with"):
        score(make_subject("sub-07", flair=False), image_of("prediction"))


def test_summary_averages_subjects_then_folds():
    folds = [[{"mse": 1.0}, {"mse": 3.0}], [{"mse": 10.0}, {"mse": 20.0}, {"mse": 30.0}]]
    row = summarize(folds)["mse"]
    assert row["folds"] == [2, 20]
    assert row["mean"] == 11
    assert row["folds_sd"] == pytest.approx([math.sqrt(2), 10])
    assert row["sd"] == pytest.approx((math.sqrt(2) + 10) / 2)


def test_summary_ignores_undefined_scores():
    folds = [
        [{"ratio1": NAN}, {"ratio1": 1.5}],
        [{"ratio1": NAN}],
        [{"ratio1": 2.5}, {"ratio1": 1.5}],
    ]
    row = summarize(folds)["ratio1"]
    np.testing.assert_equal(row["folds"], [1.5, NAN, 2])
    np.testing.assert_equal(row["folds_sd"], [NAN, NAN, math.sqrt(0.5)])
    assert row["mean"] == 1.75
    assert row["sd"] == pytest.approx(math.sqrt(0.5))


def test_summary_of_undefined_scores_is_nan():
    row = summarize([[{"ratio1": NAN}], [{"ratio1": NAN}]])["ratio1"]
    np.testing.assert_equal([row["mean"], row["sd"]], [NAN, NAN])


def test_saliency_regions_are_the_volume_and_available_masks(make_subject):
    table = regions(make_subject(lesion=LESION))
    assert list(table) == ["volume", "white matter", "ventricles", "lesions"]
    assert table["white matter"] is None
    assert table["ventricles"] is None
    np.testing.assert_array_equal(table["lesions"], LESION)
    np.testing.assert_array_equal(table["volume"], np.ones(SHAPE, bool))
