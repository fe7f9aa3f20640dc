"""The reproduction of the paper: what is run for which part, and what the report makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxflair.config import Config
from flaxflair.core.sequences import INPUTS
from flaxflair.paper import reproduce, studies
from flaxflair.paper.outcomes import Curve, flatness, read_curve, read_flair, read_outcome
from flaxflair.paper.published import MSE, Published
from flaxflair.paper.reproduce import reproduce as run_reproduction
from flaxflair.paper.segmentation import choose_examples
from flaxflair.paper.studies import PARTS, SCALES, Scale, load_config, plan_studies
from flaxflair.paper.tables import TableComparison, summarize
from tests.browser import open_page
from tests.samples import tiny_config

ROOT = Path(__file__).parents[2]


def test_quick_scale_has_24_studies():
    planned = plan_studies(SCALES["quick"], sequences=INPUTS, parts=tuple(PARTS))
    assert len({study.name for study in planned}) == len(planned) == 24
    assert {study.name for study in planned if not study.few} == set(studies.CONFIGS)


def test_part_needs_only_its_studies():
    planned = plan_studies(SCALES["quick"], sequences=INPUTS, parts=["table4a"])
    removed = {study.name: study.config.data.inputs for study in planned}
    assert removed.pop("fcn") == INPUTS
    assert sorted(set(INPUTS) - set(left) for left in removed.values()) == sorted(
        {name} for name in INPUTS
    )
    assert all(study.few for study in planned)


def test_baselines_differ_from_the_fcn_in_method_only():
    fcn = load_config("fcn", "small")
    for method in studies.CONFIGS:
        config = load_config(method, "small")
        assert (config.data, config.normalization, config.train, config.folds) == (
            fcn.data,
            fcn.normalization,
            fcn.train,
            fcn.folds,
        )


def test_two_sequences_allow_no_removal():
    names = {s.name for s in plan_studies(SCALES["real"], sequences=("T1", "T2"), parts=PARTS)}
    assert not [name for name in names if "-from-" in name]


def test_configurations_are_found_from_any_folder(tmp_path: Path):
    code = (
        "from flaxflair.paper import studies as s; [s.load_config(m, 'quick') for m in s.CONFIGS]"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


def test_summary_averages_folds_and_ignores_undefined_scores():
    result = summarize({0: np.array([1.0, 3.0]), 1: np.array([5.0, np.nan]), 2: np.array([np.nan])})
    assert result.mean == 3.5
    assert result.folds[:2] == (2.0, 5.0)
    assert np.isnan(result.folds[2])
    assert result.sd == pytest.approx(np.sqrt(2))


@pytest.fixture
def comparison() -> TableComparison:
    """Eight subjects; the forest is always worse than the FCN, and better than was published."""
    fcn = np.arange(8.0) + 100
    forest = fcn + np.arange(8) + 1
    return TableComparison(
        "MSE",
        {"forest": "random forest", "fcn": "FCN", "least_squares": "least squares"},
        {
            "forest": summarize({0: forest}),
            "fcn": summarize({0: fcn}),
            "least_squares": Published(207.0, 1.0),
        },
        {"forest": Published(150.0, 1.0, (150.0,)), "fcn": Published(100.0, 1.0, (100.0,))},
        reference="fcn",
        tested={"forest": forest, "fcn": fcn},
        best="lowest",
    )


def test_ratios_are_relative_to_the_reference(comparison: TableComparison):
    numbers = comparison.numbers()
    assert numbers["least_squares"]["ours"]["ratio"] == 2.0
    assert numbers["forest"]["published"]["ratio"] == 1.5
    assert "published" not in numbers["least_squares"]


def test_uniformly_worse_method_has_effect_one_and_exact_p(
    comparison: TableComparison,
):
    test = comparison.numbers()["forest"]["test"]
    assert (test["pairs"], test["effect"]) == (8, 1.0)
    assert test["p"] == test["p_adjusted"] == 2 / 2**8


def test_only_contradicting_ratios_are_differences(comparison: TableComparison):
    assert [key for key, _, _ in comparison.differences()] == ["forest"]
    assert TableComparison("MSE", {"fcn": "FCN"}, MSE, MSE, "fcn").differences() == []


def test_best_is_marked_and_common_folds_are_shown(
    comparison: TableComparison,
):
    rows = {row[0]: row[1] for row in comparison.table("caption", "FCN").rows}
    assert rows["FCN"].kind == "best"  # pyright: ignore[reportAttributeAccessIssue]
    table = comparison.folds("caption")
    assert table.columns == ("", "random forest", "FCN", "random forest", "FCN")
    assert [row[0] for row in table.rows] == ["Fold 1", "Average"]


def test_flatness_of_flat_and_falling_curves():
    epochs = np.arange(1, 101)
    flat = Curve(epochs, np.ones(100), np.full(100, np.nan))
    assert flatness(flat) == 0
    falling = Curve(epochs, np.ones(100), np.linspace(2, 1, 100))
    assert flatness(falling) == pytest.approx(0.167, abs=0.01)
    assert np.isnan(flatness(Curve(np.array([1]), np.ones(1), np.ones(1))))


def test_outcomes_equal_the_scores_of_the_run(finished: Path):
    outcome = read_outcome(finished, "fcn")
    summary = json.loads((finished / "summary.json").read_text())["methods"]["fcn"]["mse"]
    assert summarize(outcome.by_fold("mse")).mean == pytest.approx(summary["mean"])
    assert len(outcome.names()) == len(outcome.values("ssim")) == 6
    assert set(outcome.shares) == set(outcome.names())
    curve = read_curve(finished, 0)
    assert curve.epochs.tolist() == [1, 2]
    assert np.isfinite(curve.error).all()


def test_examples_are_best_and_worst_patients():
    rows = {"a": {"agreement": 0.5}, "b": {"agreement": 0.9}, "c": {"agreement": float("nan")}}
    assert choose_examples(rows) == ("b", "a")


def load_tiny(method: str, variant: str) -> Config:
    config = tiny_config()
    config.folds.count = 2
    config.train.epochs = 1
    config.train.window = (8, 8, 8)
    if method in ("mlp", "unet"):
        config.network.name = method
        config.network.filters = 4
    elif method != "fcn":
        config.method = method
        config.forest.n_estimators = 3
        config.propagation.search_radius = (1, 1, 0)
    return config


@pytest.fixture(scope="module")
def reproduced(
    phantom: Path, tmp_path_factory: pytest.TempPathFactory, quick_compile: None
) -> Path:
    """A reproduction of the comparison of methods, tiny."""
    workdir = tmp_path_factory.mktemp("paper")
    scale = Scale("", {32: 4, 64: 6, 96: 8}, few=1, jobs=1, parts=studies.MAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "load_config", load_tiny)
        patch.setattr(reproduce, "load_config", load_tiny)
        run_reproduction(
            "quick", scale, workdir, phantom, command=["python", "-m", "flaxflair.paper"]
        )
        first = {
            path: path.stat().st_mtime_ns for path in workdir.glob("runs/*/fold-*/scores.json")
        }
        run_reproduction("quick", scale, workdir, phantom, parts=["table3"])
        again = {
            path: path.stat().st_mtime_ns for path in workdir.glob("runs/*/fold-*/scores.json")
        }
    assert first == again, "what was done was run again"
    return workdir


def test_reproduction_has_every_method_on_every_fold(reproduced: Path):
    content = json.loads((reproduced / "paper.json").read_text())
    assert set(content["parts"]) >= set(studies.MAIN)
    for method in studies.CONFIGS:
        assert content["studies"][method]["folds"] == [0, 1]
        entry = content["parts"]["table2"]["mse"][method]
        assert len(entry["ours"]["folds"]) == 2
        assert entry["ours"]["ratio"] > 0
    assert content["parts"]["table2"]["mse"]["fcn"]["published"]["mean"] == 918.07


def test_only_the_saliency_study_writes_maps(reproduced: Path):
    drawn = {path.parents[1].name for path in reproduced.glob("runs/*/fold-*/*_p3s.png")}
    assert drawn == {"fcn"}
    unet = json.loads((reproduced / "runs/unet/summary.json").read_text())
    assert unet["saliency"] == {}


def test_report_formats_show_the_numbers(reproduced: Path):
    content = json.loads((reproduced / "paper.json").read_text())
    page = (reproduced / "report.html").read_text()
    text = (reproduced / "report.md").read_text()
    mean = content["parts"]["table2"]["mse"]["forest"]["ours"]["mean"]
    for report in (page, text):
        assert f"{mean:.1f}" in report
        assert "918.07" in report
        assert "Not run yet" not in report
    drawn = sorted((reproduced / "pictures").glob("fig[45]*.png"))
    assert len(drawn) == 3, "Figure 4 of two subjects, and Figure 5"
    assert all(picture.stat().st_size > 10_000 for picture in drawn)


def test_browser_opens_the_report_with_every_picture(reproduced: Path):
    page = open_page(reproduced / "report.html", width=1200)
    assert page.console == []
    assert len(page.images) == 4
    assert all(page.images)


def test_synthetic_flair_of_a_study_is_read(reproduced: Path, phantom: Path):
    from flaxflair.io.datasets import load_cohort

    subject = load_cohort(phantom, INPUTS)[0]
    flair = read_flair(reproduced / "runs" / "forest", subject)
    assert flair.shape == subject.geometry.shape


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only=table9"], "'table9' is no part; choose from table1"),
        (["--scale=real"], "name a prepared data set with --root"),
        (["--root=/nowhere"], "/nowhere"),
    ],
)
def test_invalid_flag_is_one_sentence(flags: list[str], message: str, tmp_path: Path):
    command = [sys.executable, "-m", "flaxflair.paper", f"--workdir={tmp_path / 'paper'}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "paper").exists()
