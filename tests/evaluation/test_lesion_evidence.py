"""Lesions from a probability map: which are found, how they are measured, and what they rest on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from flaxflair.core.records import Array, Geometry
from flaxflair.evaluation.lesion_evidence import (
    DETECTION,
    DetectionConfig,
    find_lesions,
    measure_lesions,
    volume_intervals,
)
from flaxflair.evaluation.lesion_table import describe_columns, lesion_rows
from tests.samples import AFFINE

SHAPE = (60, 72, 60)
MM = (1.0, 1.0, 1.0)


def cube(at: tuple[int, int, int], edge: int, value: float, into: Array) -> None:
    """Sets a cube, its centre at a voxel."""
    x, y, z = (slice(i - edge // 2, i - edge // 2 + edge) for i in at)
    into[x, y, z] = value


@pytest.fixture
def probability() -> Array:
    """A large lesion on the left within a faint rim, a small one on the right, and noise."""
    array = np.zeros(SHAPE, np.float32)
    cube((15, 36, 30), 7, 0.4, array)
    cube((15, 36, 30), 5, 0.8, array)
    cube((15, 36, 30), 3, 0.95, array)
    cube((45, 40, 35), 3, 0.75, array)
    cube((30, 60, 40), 1, 0.99, array)
    cube((30, 20, 20), 5, 0.6, array)
    return array


def test_lesions_are_numbered_by_volume_and_small_or_improbable_ones_are_none(probability: Array):
    labels = find_lesions(probability, MM)
    assert labels[15, 36, 30] == 1
    assert labels[45, 40, 35] == 2
    assert np.bincount(labels.ravel())[1:].tolist() == [125, 27]


@pytest.mark.parametrize(
    ("config", "volumes"),
    [
        (DetectionConfig(volume=0), [125, 27, 1]),
        (DetectionConfig(threshold=0.5), [125, 125, 27]),
        (DetectionConfig(threshold=0.9), [27]),
        (DetectionConfig(volume=30), [125]),
        (DetectionConfig(volume=1000), []),
    ],
)
def test_parameters_decide_what_a_lesion_is(
    probability: Array, config: DetectionConfig, volumes: list[int]
):
    labels = find_lesions(probability, MM, config)
    assert np.bincount(labels.ravel())[1:].tolist() == volumes


def test_the_minimum_volume_is_in_mm3(probability: Array):
    assert find_lesions(probability, (0.5, 0.5, 0.5)).max() == 1
    assert find_lesions(probability, (2.0, 2.0, 2.0), DetectionConfig(volume=8)).max() == 3


def test_voxels_that_touch_by_a_corner_are_one_lesion():
    array = np.zeros(SHAPE, np.float32)
    array[10:13, 10:13, 10:13] = array[13:16, 13:16, 13:16] = 1
    assert find_lesions(array, MM).max() == 1


def test_volume_interval_is_that_of_the_thresholds(probability: Array):
    labels = find_lesions(probability, MM)
    assert_allclose(volume_intervals(labels, probability, MM), [[27, 343], [0, 27]])


def test_a_voxel_between_two_lesions_counts_for_the_nearest():
    array = np.zeros(SHAPE, np.float32)
    array[10:20, 20:23, 20:23] = 0.5
    array[10:13, 20:23, 20:23] = array[17:20, 20:23, 20:23] = 0.95
    labels = find_lesions(array, MM)
    intervals = volume_intervals(labels, array, MM)
    assert intervals.shape == (2, 2)
    assert intervals[:, 1].sum() == 90
    assert_allclose(intervals[:, 1], 45, atol=9)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.95},
        {"threshold": 0.2},
        {"threshold": 0.0, "interval": (0.0, 0.9)},
        {"volume": -1},
    ],
)
def test_impossible_parameters_are_refused(settings: dict):
    with pytest.raises(ValueError, match="give"):
        DetectionConfig(**settings)


def test_lesions_are_measured_where_they_are(probability: Array):
    geometry = Geometry(SHAPE, AFFINE)
    config = DetectionConfig(volume=0)
    labels = find_lesions(probability, geometry.voxel_size, config)
    flair = np.ones(SHAPE, np.float32)
    flair[labels == 1] = 1.5
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    without = {"T1": np.full(SHAPE, 0.25, np.float32), "T2": probability}
    first, second, third = measure_lesions(
        labels, probability, flair, brain, geometry, without, config
    )
    assert_allclose(first.position, (AFFINE @ (15, 36, 30, 1))[:3])
    assert [lesion.side for lesion in (first, second, third)] == ["left", "right", "midline"]
    x = geometry.voxel_size[0]
    assert first.depth == pytest.approx(14 * x)
    assert first.to_fluid == np.inf
    edge = float(np.prod(geometry.voxel_size))
    assert first.volume == pytest.approx(125 * edge)
    assert first.volume_interval == pytest.approx((27 * edge, 343 * edge))
    assert first.contrast == pytest.approx(1.5)
    assert second.contrast == pytest.approx(1.0)
    assert first.peak == pytest.approx(0.95)
    assert first.mean == pytest.approx((27 * 0.95 + 98 * 0.8) / 125)
    assert first.without == pytest.approx({"T1": 0.25, "T2": first.mean})


def test_a_curved_lesion_is_placed_in_one_of_its_voxels():
    array = np.zeros(SHAPE, np.float32)
    array[10:30, 30:33, 30:33] = array[10:13, 30:50, 30:33] = array[27:30, 30:50, 30:33] = 1
    labels = find_lesions(array, MM)
    geometry = Geometry(SHAPE, np.eye(4))
    (lesion,) = measure_lesions(labels, array, array, np.ones(SHAPE, bool), geometry)
    x, y, z = (round(mm) for mm in lesion.position)
    assert labels[x, y, z] == 1


def test_nothing_is_measured_where_nothing_was_found():
    empty = np.zeros(SHAPE, np.float32)
    labels = find_lesions(empty, MM)
    assert measure_lesions(labels, empty, empty, empty > 0, Geometry(SHAPE, np.eye(4))) == ()


@pytest.mark.parametrize("sequences", [("T1",), ("T1", "T2"), ("T1", "T2", "PD")])
def test_every_cell_of_the_table_has_a_described_column(
    probability: Array, sequences: tuple[str, ...]
):
    labels = find_lesions(probability, MM)
    brain = np.ones(SHAPE, bool)
    without = dict.fromkeys(sequences, probability) if len(sequences) > 1 else {}
    geometry = Geometry(SHAPE, np.eye(4))
    lesions = measure_lesions(labels, probability, probability, brain, geometry, without)
    columns = describe_columns(sequences)
    rows = [dict(zip(columns, row, strict=True)) for row in lesion_rows(lesions, sequences)]
    assert [row["index"] for row in rows] == ["1", "2"]
    assert all(column["Description"] for column in columns.values())
    assert ("without_T1" in columns) == (len(sequences) > 1)
    assert float(rows[0]["volume"]) == 125
    assert all(row["side"] in columns["side"]["Levels"] for row in rows)


def test_the_defaults_are_those_of_the_documentation():
    assert (DETECTION.threshold, DETECTION.volume, DETECTION.interval) == (0.7, 10.0, (0.3, 0.9))
