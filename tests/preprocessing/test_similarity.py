"""Similarity: mutual information from a joint histogram, also of images without contrast."""

from __future__ import annotations

import numpy as np
import pytest

from flaxflair.core.records import Geometry, Volume
from flaxflair.preprocessing.similarity import Comparison, Sampling, translation
from tests.samples import image_of

SHAPE = (12, 13, 11)
GEOMETRY = Geometry(SHAPE, np.eye(4))
SAMPLING = Sampling(spacing=1.0, smoothing=0.0, voxel=1.0)
EVERYWHERE = np.ones(SHAPE, bool)


def volume(name: str, gain: float = 1.0) -> Volume:
    return Volume(np.float32(gain) * image_of(name, SHAPE), GEOMETRY)


@pytest.mark.parametrize("gain", [1.0, 1e-30, 1e30])
def test_mutual_information_is_that_of_the_joint_histogram(gain: float):
    moving, fixed = volume("moving", gain), volume("fixed")
    shift = translation(np.array([2.0, 0.0, 0.0]))
    moved = np.zeros(SHAPE)
    moved[:-2] = moving.array[2:] / gain
    joint = np.histogram2d(fixed.array.ravel(), moved.ravel(), bins=24)[0] / moved.size
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    expected = (joint[some] * np.log(joint[some] / independent[some])).sum()
    found = Comparison(moving, fixed, EVERYWHERE, SAMPLING).mutual_information(shift)
    assert found == pytest.approx(expected, rel=1e-3)


def test_an_image_is_most_similar_to_itself():
    comparison = Comparison(volume("fixed"), volume("fixed"), EVERYWHERE, SAMPLING)
    assert comparison.uncertainty_coefficient(np.eye(4)) == pytest.approx(1)
    assert comparison.uncertainty_coefficient(translation(np.array([1.0, 0, 0]))) < 0.8


@pytest.mark.parametrize("where", [EVERYWHERE, ~EVERYWHERE], ids=["no contrast", "no points"])
def test_nothing_to_compare_is_no_similarity(where: np.ndarray):
    flat = Volume(np.full(SHAPE, 3, np.float32), GEOMETRY)
    comparison = Comparison(flat, flat, where, SAMPLING)
    assert comparison.mutual_information(np.eye(4)) == 0
    assert comparison.uncertainty_coefficient(np.eye(4)) == 0
