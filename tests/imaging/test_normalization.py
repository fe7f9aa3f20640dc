"""Normalisation to z-scores and back, by data set, landmarks and tissue levels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flaxflair.core.records import InputError
from flaxflair.imaging import normalization as norm
from flaxflair.imaging.landmarks import LANDMARKS, match_landmarks
from flaxflair.imaging.moments import measure, pool
from flaxflair.imaging.tissue_levels import fit_tissue_levels, to_standard


# A check of each subject's part: nothing but numbers may pass between processes.
def through_text(parts):
    return json.loads(json.dumps(list(parts.values())))


PER_SESSION = tuple(method for method in norm.METHODS if method != "dataset")

intensities = hnp.arrays(
    np.float32,
    st.tuples(*[st.integers(1, 4)] * 3, st.just(2)),
    elements=st.floats(-1e4, 1e4, width=32),
)
means = st.tuples(*[st.floats(-1e4, 1e4)] * 2)
deviations = st.tuples(*[st.floats(1, 1e3)] * 2)


@given(intensities, means, deviations)
def test_denormalize_undoes_normalize(image, mean, std):
    stats = norm.Stats(mean, std)
    restored = norm.denormalize(norm.normalize(image, stats), stats)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, image, rtol=1e-6, atol=0.01)


@pytest.mark.parametrize("offset", [0, 1e3, 1e7])
def test_pooled_stats_are_those_of_all_voxels(offset: float):
    rng = np.random.default_rng(0)
    images = [
        rng.normal(offset, 3, (*shape, 2)) * [1, -2] for shape in ((5, 4, 3), (2, 9, 7), (1, 1, 1))
    ]
    mean, std = pool(map(measure, images))
    voxels = np.concatenate([image.reshape(-1, 2) for image in images])
    np.testing.assert_allclose(mean, voxels.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std, voxels.std(axis=0), rtol=1e-7)


def test_unusable_statistics_are_refused(make_subject):
    with pytest.raises(ValueError, match="statistics"):
        norm.fit([], "dataset")
    for value in (1.0, np.nan):
        subject = make_subject()
        subject.flair[:] = value
        with pytest.raises(ValueError, match="statistics"):
            norm.fit([subject], "dataset")


@pytest.mark.parametrize("method", norm.METHODS)
def test_a_normalisation_is_fitted_to_numbers_of_each_subject(make_subject, method: str):
    subjects = [make_subject(f"sub-0{number}") for number in range(1, 4)]
    assert norm.fit(subjects, method, through_text) == norm.fit(subjects, method)


def test_dataset_z_scores_have_zero_mean_and_unit_variance(make_subject):
    subjects = [make_subject("sub-01"), make_subject("sub-02", (6, 5, 9))]
    fitted = norm.fit(subjects, "dataset")
    codes = [norm.encode_images(fitted, s.images, s.masks.brain).reshape(-1, 2) for s in subjects]
    np.testing.assert_allclose(np.concatenate(codes).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(codes).std(axis=0), 1, atol=1e-5)
    flairs = [norm.encode_flair(fitted, s.flair, s.masks.brain).ravel() for s in subjects]
    assert np.concatenate(flairs).mean() == pytest.approx(0, abs=1e-6)
    assert np.concatenate(flairs).std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", PER_SESSION)
def test_session_z_scores_are_independent_of_gain(make_subject, method: str):
    fitted = norm.fit([make_subject("sub-01"), make_subject("sub-02")], method)
    stranger = make_subject("sub-03")
    brain = stranger.masks.brain
    gains = np.array([40, 0.1], np.float32)
    np.testing.assert_allclose(
        norm.encode_images(fitted, stranger.images * gains, brain, stranger.sequences),
        norm.encode_images(fitted, stranger.images, brain, stranger.sequences),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        norm.encode_flair(fitted, stranger.flair * 40, brain),
        norm.encode_flair(fitted, stranger.flair, brain),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("method", ["dataset", *PER_SESSION])
def test_decode_undoes_encode(make_subject, method: str):
    subject = make_subject()
    fitted = norm.fit([subject], method)
    code = norm.encode_flair(fitted, subject.flair, subject.masks.brain)
    decoded = norm.decode_flair(fitted, code, subject.images, subject.masks.brain)
    np.testing.assert_allclose(decoded, subject.flair, atol=1e-3)


@pytest.mark.parametrize("method", PER_SESSION)
def test_decoded_flair_has_the_gain_of_the_inputs(make_subject, method: str):
    subject = make_subject()
    fitted = norm.fit([subject], method)
    code = norm.encode_flair(fitted, subject.flair, subject.masks.brain)
    decoded = norm.decode_flair(fitted, code, subject.images * 7, subject.masks.brain)
    np.testing.assert_allclose(decoded, subject.flair * 7, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("method", ["dataset", "brain"])
def test_subject_without_flair_is_refused_by_name(make_subject, method: str):
    with pytest.raises(InputError, match="sub-07: has no FLAIR to learn from"):
        norm.fit([make_subject(), make_subject("sub-07", flair=False)], method)


def test_tissue_normalisation_has_standard_levels(make_subject):
    subject = make_subject()
    fitted = norm.fit([make_subject("sub-02"), make_subject("sub-03")], "tissue")
    brain = subject.masks.brain
    codes = norm.encode_images(fitted, subject.images, brain, subject.sequences)
    matched = norm.denormalize(codes, fitted.images)
    found = fit_tissue_levels(subject.images, subject.sequences, brain)
    for channel, name in enumerate(subject.sequences):
        expected = to_standard(subject.images[..., channel], found[name], name)
        np.testing.assert_allclose(matched[..., channel], expected, rtol=1e-4, atol=1e-4)


def test_tissue_normalisation_needs_sequence_names(make_subject):
    subject = make_subject()
    fitted = norm.fit([subject], "tissue")
    with pytest.raises(ValueError, match="2 channels and 0 names"):
        norm.encode_images(fitted, subject.images, subject.masks.brain)


def test_robust_and_quantile_z_scores_are_independent_of_offset(make_subject):
    subject = make_subject()
    brain = subject.masks.brain
    for method in ("robust", "quantile"):
        fitted = norm.fit([subject], method)
        np.testing.assert_allclose(
            norm.encode_images(fitted, subject.images + 300, brain),
            norm.encode_images(fitted, subject.images, brain),
            rtol=1e-3,
            atol=1e-3,
        )


def test_white_landmark_is_the_highest_mode():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(400, 20, 60_000), rng.normal(300, 40, 50_000)])
    assert LANDMARKS["white"](values) == pytest.approx([0, 400], abs=6)


def test_matching_interpolates_and_extrapolates_linearly():
    source, target = np.array([1.0, 2.0, 4.0]), np.array([10.0, 30.0, 40.0])
    matched = match_landmarks(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]), source, target)
    np.testing.assert_allclose(matched, [-10, 10, 20, 30, 35, 40, 50])
    outside = match_landmarks(np.array([0.0, 3.0]), source[:2], target[:2])
    np.testing.assert_allclose(outside, [-10, 50])


def test_image_with_coinciding_landmarks_is_refused(make_subject):
    subject = make_subject()
    flat = np.where(subject.images > 400, 2, 1).astype(np.float32)
    with pytest.raises(InputError, match="cannot be normalised by 'quantile'"):
        norm.find_landmarks("quantile", flat, subject.masks.brain)


def test_session_level_of_z_scores_is_refused(make_subject):
    subject = make_subject()
    with pytest.raises(InputError, match="not positive; give unprocessed"):
        norm.session_level(subject.images - 1000, subject.masks.brain)


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
def test_relative_levels_measure_gain_for_dataset_normalisation_only(make_subject, gain: float):
    subjects = [make_subject(f"sub-{n}") for n in range(3)]
    image, brain = gain * subjects[0].images, subjects[0].masks.brain
    by_set, by_session = (norm.fit(subjects, name) for name in ("dataset", "brain"))
    levels = norm.relative_levels(by_set, norm.encode_images(by_set, image, brain))
    np.testing.assert_allclose(levels, gain, rtol=0.1)
    levels = norm.relative_levels(by_session, norm.encode_images(by_session, image, brain))
    np.testing.assert_array_equal(levels, 1)
