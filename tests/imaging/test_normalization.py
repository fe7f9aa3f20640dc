"""Normalisation: z-scores that can be undone, and statistics that say what they are of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flaxflair.core.records import InputError
from flaxflair.imaging import normalization as norm
from flaxflair.imaging.landmarks import ANCHORS, bend
from flaxflair.imaging.tissue_levels import fit_tissue_levels, to_standard

OF_SESSIONS = tuple(method for method in norm.METHODS if method != "dataset")

intensities = hnp.arrays(
    np.float32,
    st.tuples(*[st.integers(1, 4)] * 3, st.just(2)),
    elements=st.floats(-1e4, 1e4, width=32),
)
statistics = st.builds(
    norm.Stats,
    mean=st.tuples(*[st.floats(-1e4, 1e4)] * 2),
    std=st.tuples(*[st.floats(1, 1e3)] * 2),
)


@given(intensities, statistics)
def test_denormalize_undoes_normalize(image, stats):
    restored = norm.denormalize(norm.normalize(image, stats), stats)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, image, rtol=1e-6, atol=0.01)


@pytest.mark.parametrize("offset", [0, 1e3, 1e7])
def test_pooled_statistics_are_those_of_all_voxels_together(offset: float):
    rng = np.random.default_rng(0)
    images = [
        rng.normal(offset, 3, (*shape, 2)) * [1, -2] for shape in ((5, 4, 3), (2, 9, 7), (1, 1, 1))
    ]
    stats = norm.pool(iter(images))
    voxels = np.concatenate([image.reshape(-1, 2) for image in images])
    np.testing.assert_allclose(stats.mean, voxels.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(stats.std, voxels.std(axis=0), rtol=1e-7)


def test_statistics_that_cannot_scale_are_refused():
    for images in ([], [np.ones((2, 2, 2, 1))], [np.full((2, 2, 2, 1), np.nan)]):
        with pytest.raises(ValueError, match="statistics"):
            norm.pool(images)


def test_z_scores_over_the_data_set_have_one_scale_for_all_subjects(make_subject):
    subjects = [make_subject("sub-01"), make_subject("sub-02", (6, 5, 9))]
    learnt = norm.fit(subjects, "dataset")
    codes = [norm.encode_images(learnt, s.images, s.masks.brain).reshape(-1, 2) for s in subjects]
    np.testing.assert_allclose(np.concatenate(codes).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(codes).std(axis=0), 1, atol=1e-5)
    flairs = [norm.encode_flair(learnt, s.flair, s.masks.brain).ravel() for s in subjects]
    assert np.concatenate(flairs).mean() == pytest.approx(0, abs=1e-6)
    assert np.concatenate(flairs).std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", OF_SESSIONS)
def test_in_line_a_receivers_gain_changes_no_z_score(make_subject, method: str):
    learnt = norm.fit([make_subject("sub-01"), make_subject("sub-02")], method)
    stranger = make_subject("sub-03")
    brain = stranger.masks.brain
    gains = np.array([40, 0.1], np.float32)
    np.testing.assert_allclose(
        norm.encode_images(learnt, stranger.images * gains, brain, stranger.sequences),
        norm.encode_images(learnt, stranger.images, brain, stranger.sequences),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        norm.encode_flair(learnt, stranger.flair * 40, brain),
        norm.encode_flair(learnt, stranger.flair, brain),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("method", ["dataset", *OF_SESSIONS])
def test_a_decoded_flair_is_the_one_that_was_encoded(make_subject, method: str):
    subject = make_subject()
    learnt = norm.fit([subject], method)
    code = norm.encode_flair(learnt, subject.flair, subject.masks.brain)
    decoded = norm.decode_flair(learnt, code, subject.images, subject.masks.brain)
    np.testing.assert_allclose(decoded, subject.flair, atol=1e-3)


@pytest.mark.parametrize("method", OF_SESSIONS)
def test_in_line_a_receivers_gain_carries_over_to_the_prediction(make_subject, method: str):
    subject = make_subject()
    learnt = norm.fit([subject], method)
    code = norm.encode_flair(learnt, subject.flair, subject.masks.brain)
    decoded = norm.decode_flair(learnt, code, subject.images * 7, subject.masks.brain)
    np.testing.assert_allclose(decoded, subject.flair * 7, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("method", ["dataset", "brain"])
def test_a_subject_without_a_flair_cannot_be_learnt_from_and_is_named(make_subject, method: str):
    with pytest.raises(InputError, match="sub-07: has no FLAIR to learn from"):
        norm.fit([make_subject(), make_subject("sub-07", flair=False)], method)


def test_in_line_by_tissue_every_session_has_the_standard_levels(make_subject):
    subject = make_subject()
    learnt = norm.fit([make_subject("sub-02"), make_subject("sub-03")], "tissue")
    brain = subject.masks.brain
    codes = norm.encode_images(learnt, subject.images, brain, subject.sequences)
    in_line = norm.denormalize(codes, learnt.images)
    found = fit_tissue_levels(subject.images, subject.sequences, brain)
    for channel, name in enumerate(subject.sequences):
        expected = to_standard(subject.images[..., channel], found[name], name)
        np.testing.assert_allclose(in_line[..., channel], expected, rtol=1e-4, atol=1e-4)


def test_levels_are_not_looked_for_in_sequences_without_names(make_subject):
    subject = make_subject()
    learnt = norm.fit([subject], "tissue")
    with pytest.raises(ValueError, match="2 channels and 0 names"):
        norm.encode_images(learnt, subject.images, subject.masks.brain)


def test_offsets_that_a_method_can_take_out_change_no_z_score(make_subject):
    subject = make_subject()
    brain = subject.masks.brain
    for method in ("robust", "quantile"):
        learnt = norm.fit([subject], method)
        np.testing.assert_allclose(
            norm.encode_images(learnt, subject.images + 300, brain),
            norm.encode_images(learnt, subject.images, brain),
            rtol=1e-3,
            atol=1e-3,
        )


def test_the_white_matter_peak_is_the_tallest():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(400, 20, 60_000), rng.normal(300, 40, 50_000)])
    assert ANCHORS["white"](values) == pytest.approx([0, 400], abs=6)


def test_anchors_come_to_their_places_and_lines_go_on_beyond():
    own, places = np.array([1.0, 2.0, 4.0]), np.array([10.0, 30.0, 40.0])
    bent = bend(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]), own, places)
    np.testing.assert_allclose(bent, [-10, 10, 20, 30, 35, 40, 50])
    np.testing.assert_allclose(bend(np.array([0.0, 3.0]), own[:2], places[:2]), [-10, 50])


def test_an_image_too_flat_for_a_method_is_refused(make_subject):
    subject = make_subject()
    flat = np.where(subject.images > 400, 2, 1).astype(np.float32)
    with pytest.raises(InputError, match="cannot be normalised by 'quantile'"):
        norm.find_anchors("quantile", flat, subject.masks.brain)


def test_images_that_are_no_longer_intensities_have_no_level(make_subject):
    subject = make_subject()
    with pytest.raises(InputError, match="not positive; give intensities as scanned"):
        norm.level(subject.images - 1000, subject.masks.brain)


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
def test_the_level_of_a_session_is_known_where_a_model_does_not_even_it_out(
    make_subject, gain: float
):
    subjects = [make_subject(f"sub-{n}") for n in range(3)]
    image, brain = gain * subjects[0].images, subjects[0].masks.brain
    by_set, by_session = (norm.fit(subjects, name) for name in ("dataset", "brain"))
    levels = norm.relative_levels(by_set, norm.encode_images(by_set, image, brain))
    np.testing.assert_allclose(levels, gain, rtol=0.1)
    levels = norm.relative_levels(by_session, norm.encode_images(by_session, image, brain))
    np.testing.assert_array_equal(levels, 1)
