"""Measures of a session: each responds to the fault that it is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flaxflair.core.records import Subject, Volume
from flaxflair.evaluation.verdict import MEASURES, judge, split_name
from flaxflair.io.session_files import find_sessions
from flaxflair.preprocessing.dataset import load_subject
from flaxflair.preprocessing.quality import subject_quality
from flaxflair.preprocessing.similarity import Comparison, Sampling
from flaxflair.preprocessing.template_fit import template_quality
from flaxflair.simulation.phantom import write_phantom
from tests.samples import ball

NO_ANATOMY: dict[str, float] = {}


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A prepared T1 and T2 of a patient."""
    root = tmp_path_factory.mktemp("one") / "phantom"
    write_phantom(root, subjects=1, healthy=0, seed=7, scale=0.3)
    (files,) = find_sessions(root, ("T1", "T2"), flair="ignored")
    return load_subject(files, None)


def test_every_measure_of_a_session_is_known_to_the_verdict(subject: Subject):
    names = {split_name(name)[0] for name in subject.quality}
    assert names <= set(MEASURES)
    assert {"brain_volume", "mirror_ratio", "noise", "voxel_ratio", "anatomy_ratio"} <= names


def test_the_volume_of_a_brain_is_in_millilitres():
    radius = 36.0  # mm
    found = subject_quality(ball((1.0, 1.0, 2.0)), NO_ANATOMY)
    assert found["brain_volume"] == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.02)
    assert found["brain_length_to_width"] == pytest.approx(1, abs=0.05)


def test_a_mirrored_scan_fits_better_when_mirrored_back(subject: Subject):
    assert subject.quality["mirror_ratio_T1"] < 0.8
    images = subject.images.copy()
    images[..., 0] = images[::-1, ..., 0]
    found = subject_quality(replace(subject, images=images), NO_ANATOMY)
    assert found["mirror_ratio_T1"] > 1.1
    assert any("exchanges left and right" in reason for reason in judge(found).reasons)


def test_one_scan_alone_has_no_measure_of_two(subject: Subject):
    alone = replace(subject, sequences=("T1",), images=subject.images[..., :1])
    assert "mirror_ratio_T1" not in subject_quality(alone, NO_ANATOMY)


def test_images_without_contrast_have_measures_of_the_brain_only(subject: Subject):
    flat = replace(subject, images=np.ones_like(subject.images))
    found = subject_quality(flat, NO_ANATOMY)
    assert "brain_volume" in found
    assert "noise_T1" not in found


@pytest.fixture
def fitted() -> tuple[Comparison, np.ndarray, np.ndarray]:
    """A comparison of an image with itself, the image, and a symmetric brain."""
    sample = ball()
    brain, image = sample.masks.brain, sample.images[..., 0]
    scan = Volume(image, sample.geometry)
    return Comparison(scan, scan, brain, Sampling(4.0, 1.0, 2.0)), image, brain


def test_half_a_head_is_neither_symmetric_nor_like_the_template(
    fitted: tuple[Comparison, np.ndarray, np.ndarray],
):
    comparison, image, brain = fitted
    whole = template_quality(comparison, np.eye(4), image, brain, brain)
    left = np.arange(80)[:, None, None] < 40
    half = template_quality(comparison, np.eye(4), image * left, brain & left, brain)
    assert whole["template_overlap"] == 1
    assert min(whole["brain_symmetry"], whole["head_symmetry"]) > 0.97
    assert half["brain_symmetry"] < 0.2
    assert half["head_symmetry"] < 0.5
    assert half["template_overlap"] < 0.75


def test_a_template_that_is_off_is_less_similar(
    fitted: tuple[Comparison, np.ndarray, np.ndarray],
):
    comparison, image, brain = fitted
    off = np.eye(4)
    off[2, 3] = 15.0
    at, away = (template_quality(comparison, m, image, brain, brain) for m in (np.eye(4), off))
    assert away["template_similarity"] < 0.5 * at["template_similarity"]
    assert away["template_ratio"] < at["template_ratio"]
