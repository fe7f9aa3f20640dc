"""Windows of real sessions in standard form, with simulated errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import BRIGHTEST
from flaxflair.imaging.tissue_levels import STANDARD
from flaxflair.simulation.generator.ranges import ScannerRanges
from flaxflair.training.real_windows import (
    RealSession,
    draw_window,
    make_session,
    open_session,
    save_session,
)
from tests.samples import ball

EXACT = ScannerRanges(level_sd=(0.0, 0.0, 0.0), gamma_sd=0.0)


@pytest.fixture(scope="module")
def session() -> RealSession:
    return make_session(ball())


def test_session_has_standard_levels(session: RealSession):
    subject = ball()
    white = np.zeros(session.brain.shape, bool)
    inside = session.brain & (session.images[..., 0] > 0.9)
    white[inside] = True
    for channel, name in enumerate(("T1", "T2")):
        assert np.median(session.images[white][:, channel]) == pytest.approx(
            STANDARD[name].white, rel=0.05
        )
    assert np.median(session.flair[white]) == pytest.approx(1, rel=0.05)
    assert session.brain.sum() == subject.masks.brain.sum()
    assert not session.images[~session.brain].any()


def test_open_session_undoes_save_session(session: RealSession, tmp_path: Path):
    save_session(tmp_path / "one", session)
    opened = open_session(tmp_path / "one")
    for name, value in vars(session).items():
        assert_allclose(np.asarray(getattr(opened, name), float), np.asarray(value, float))


def test_window_depends_only_on_its_seed(session: RealSession):
    first, second, other = (
        draw_window(np.random.default_rng(seed), session, ScannerRanges(), 24) for seed in (3, 3, 4)
    )
    for a, b in zip(first[0], second[0], strict=True):
        assert_allclose(a, b)
    assert not np.array_equal(first[0].images, other[0].images)


def test_condition_matches_the_sequences_of_a_window(session: RealSession):
    seen = set()
    for seed in range(20):
        example, observe = draw_window(np.random.default_rng(seed), session, ScannerRanges(), 16)
        shown = example.images.any(axis=(0, 1, 2))
        flagged = example.condition.reshape(len(INPUTS), 4)[:, 0] > 0
        assert not (shown & ~flagged).any()
        seen.add(tuple(np.flatnonzero(flagged)))
        assert example.images.max() <= BRIGHTEST
        assert_allclose(observe, np.stack([np.eye(16)] * 3))
    t1, t2 = INPUTS.index("T1"), INPUTS.index("T2")
    assert seen == {(t1,), (t2,), (t1, t2)}


def test_window_without_errors_is_a_crop_of_the_session(session: RealSession):
    drawn = (draw_window(np.random.default_rng(seed), session, EXACT, 24)[0] for seed in range(30))
    example = next(e for e in drawn if not e.condition.reshape(-1, 4)[:, 1:].any())  # not degraded
    t1 = example.images[..., INPUTS.index("T1")]
    pieces = np.lib.stride_tricks.sliding_window_view(session.flair, (24, 24, 24))
    places = [
        place
        for flair in (example.flair, example.flair[::-1])
        for place in np.argwhere(pieces[..., 0, 0, 0] == flair[0, 0, 0])
        if np.array_equal(pieces[tuple(place)], flair)
    ]
    assert places
    x, y, z = places[0]
    own = session.images[x : x + 24, y : y + 24, z : z + 24, 0]
    if t1.any():
        assert min(np.abs(t1 - own).max(), np.abs(t1[::-1] - own).max()) < 0.01


def test_observation_of_thick_slices_averages_them():
    session = make_session(ball((1.0, 1.0, 4.0)))
    _, observe = draw_window(np.random.default_rng(0), session, ScannerRanges(), 16)
    assert_allclose(observe[:2], np.stack([np.eye(16)] * 2))
    assert_allclose(observe[2].sum(axis=1), 1, atol=1e-5)
    assert 0.1 < np.diag(observe[2]).mean() < 0.4  # about a quarter of a slice of four voxels


def test_session_without_flair_is_refused():
    with pytest.raises(InputError, match="sub-01: has no FLAIR"):
        make_session(replace(ball(), flair=None))
