"""The benchmark of lesions: what counts as found, as false, and as covered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import bench_lesions
from tests.benchmarks.bench_lesions import count_covered, match, mean_sweep, plot, to_markdown

SHAPE = (30, 30, 30)


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Two true lesions of 125 and 8 mm³; found: half of the first, and a false one of 27 mm³."""
    truth, labels = np.zeros(SHAPE, bool), np.zeros(SHAPE, np.int32)
    truth[5:10, 5:10, 5:10] = truth[20:22, 20:22, 20:22] = True
    labels[5:10, 5:10, 5:8] = 1
    labels[5:8, 20:23, 20:23] = 2
    return labels, truth


def test_lesions_are_counted_by_size():
    found = match(*masks(), voxel=1.0)
    assert (found.true, found.hit) == ([1, 0, 1, 0], [0, 0, 1, 0])
    assert (found.found, found.false) == ([0, 2, 0, 0], [0, 1, 0, 0])
    assert (found.volume, found.true_volume) == (102, 133)
    assert found.pairs == [(125.0, 75.0)]
    assert found.dice == pytest.approx(2 * 75 / (102 + 133))
    assert found.f1 == pytest.approx(0.5)


def test_sizes_are_in_mm3():
    assert match(*masks(), voxel=8.0).true == [0, 1, 0, 1]


@pytest.mark.parametrize("nothing", ["found", "true"])
def test_nothing_found_or_nothing_true_is_counted_as_such(nothing: str):
    labels, truth = masks()
    found = match(0 * labels, truth, 1.0) if nothing == "found" else match(labels, truth & False, 1)
    assert found.f1 == 0
    assert found.pairs == []
    assert sum(found.false) == (0 if nothing == "found" else 2)


@pytest.mark.parametrize(("around", "within"), [(0.0, 0), (0.5, 1)])
def test_an_interval_covers_the_true_volume_or_not(around: float, within: int):
    labels, truth = masks()
    probability = np.where(labels > 0, 0.8, 0).astype(np.float32)
    probability[(labels == 0) & truth] = around
    assert count_covered(labels, probability, truth, (1, 1, 1)) == {"within": within, "of": 1}


def test_tables_and_plot_are_made_of_the_results(tmp_path: Path):
    row = match(*masks(), voxel=1.0)._asdict()
    methods = dict.fromkeys(("probability", "rule, synthetic", "rule, scanned"), row)
    sweep = {"0.7, 10 mm³": {"f1": 0.5, "dice": 0.25}}
    rows = {"19": {"T1": {"methods": methods, "sweep": sweep}}}
    text = to_markdown(rows)
    assert "| 19 | T1 | probability | 0/1 | 0/0 | 1/1 | 0/0 | 1 of 2 | 0.64 | 0.10 | 0.13 |" in text
    assert "| 0.7, 10 mm³ | 0.500 | 0.250 |" in text
    assert mean_sweep({}) == {}
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert len(bench_lesions.CLASSES) == len(bench_lesions.EDGES) + 1
