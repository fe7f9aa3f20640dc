"""The published numbers: consistent among themselves, and as the paper prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flaxflair.core import sequences
from flaxflair.evaluation.scoring import METRICS
from flaxflair.paper import published
from flaxflair.paper.published import Published

# Table -> results by fold, and the digits printed.
BY_FOLD: dict[str, tuple[Mapping[Any, Published], int]] = {
    "MSE": (published.MSE, 2),
    "SSIM": (published.SSIM, 3),
    "WITHOUT": (published.WITHOUT, 2),
    "WITHOUT_DIR": (published.WITHOUT_DIR, 2),
    "INPUTS": (published.INPUTS, 2),
}

# Printed averages that the printed folds do not round to: by up to 0.014, so slips of rounding.
SLIPS = {
    ("MSE", "unet", "mean"): (919.26, 919.266),
    ("WITHOUT", "T1", "mean"): (975.16, 975.166),
    ("WITHOUT", "T1SE", "mean"): (936.67, 936.664),
    ("WITHOUT", "T1SE", "sd"): (72.00, 72.014),
    ("INPUTS", ("T1", "DIR"), "sd"): (74.60, 74.594),
}


def test_published_averages_match_published_folds_except_five():
    found = {}
    for table, (results, digits) in BY_FOLD.items():
        for key, result in results.items():
            assert len(result.folds) == len(result.folds_sd) == 5
            for name, printed, folds in (
                ("mean", result.mean, result.folds),
                ("sd", result.sd, result.folds_sd),
            ):
                average = sum(folds) / 5
                if abs(printed - average) > 0.5 * 10**-digits + 1e-9:
                    found[table, key, name] = (printed, pytest.approx(average))
    assert found == SLIPS


@pytest.mark.parametrize("table", published.SCORES)
def test_every_method_has_every_score(table: str):
    methods = published.SCORES[table]
    assert table in METRICS
    assert [name for name in methods if name != "truth"] == list(published.METHODS)


def test_repeated_results_are_equal():
    assert published.WIDTHS[64].mse == (*published.MSE["fcn"][:2], (), ())
    assert published.WITHOUT["DIR"] == published.WITHOUT_DIR["fcn"]


def test_sequences_have_our_names_and_order():
    assert tuple(published.WITHOUT) == sequences.INPUTS
    for names in published.INPUTS:
        assert sequences.parse_inputs(names) == names


def test_spot_values_match_the_paper():
    assert published.MSE["forest"].folds[1] == 1056.76
    assert published.MSE["propagation"].folds_sd[3] == 217.85
    assert published.SSIM["fcn"] == Published(
        0.860, 0.031, (0.868, 0.854, 0.880, 0.846, 0.850), (0.036, 0.028, 0.031, 0.035, 0.027)
    )
    assert published.RATIO1["truth"][:2] == (1.66, 0.12)
    assert published.RATIO2["fcn"][:2] == (1.22, 0.07)
    assert published.WITHOUT["T1"].folds_sd[3] == 100.57
    assert published.WITHOUT_DIR["unet"].folds[4] == 1003.54
    assert published.INPUTS["T1", "T2", "PD"].folds[0] == 1281.06
    assert published.WIDTHS[96] == ((909.84, 38.68, (), ()), 513_500, 2.58)
    assert published.LESION_DICE[:2] == (0.73, 0.12)
    assert (published.TRAINING_DAYS, published.LAYERS) == (1.5, (2, 3, 4, 6))


def test_fcn_is_best_except_without_dir():
    assert min(published.MSE, key=lambda name: published.MSE[name].mean) == "fcn"
    assert max(published.SSIM, key=lambda name: published.SSIM[name].mean) == "fcn"
    without = published.WITHOUT_DIR
    assert min(without, key=lambda name: without[name].mean) == "unet"
