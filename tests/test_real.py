"""Real patients, where they lie beside the checkout: what is read is what is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from flaxflair.baselines import least_squares
from flaxflair.core.records import GeometryError, InputError, Subject
from flaxflair.evaluation import lesion_segmentation, metrics, scoring
from flaxflair.imaging import normalization
from flaxflair.io.datasets import extract_brain, load_cohort, load_session
from flaxflair.io.nifti import read_volume
from flaxflair.io.session_files import find_sessions
from flaxflair.training.batches import make_example

DATA = Path(os.environ.get("FLAXFLAIR_DATA", Path(__file__).parents[2] / "shared" / "data"))


def folder(name: str) -> Path:
    """Returns a folder of real data, or skips the test and says what is missing."""
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"{path} is not here; set FLAXFLAIR_DATA to the folder that holds {name}")
    return path


@pytest.fixture(scope="module")
def patients() -> list[Subject]:
    return [extract_brain(s) for s in load_cohort(folder("open-ms-brain"), ("T1", "T2"))]


def test_two_patients_load_with_brain_white_matter_and_lesions(patients: list[Subject]) -> None:
    assert [(s.name, s.space) for s in patients] == [("sub-07", "MNI152"), ("sub-19", "MNI152")]
    for subject in patients:
        litres = subject.masks.brain.sum() * np.prod(subject.geometry.voxel_size) / 1e6
        assert 0.9 < litres < 1.5
        assert subject.masks.white_matter is not None
        assert 0.3 < subject.masks.white_matter.sum() / subject.masks.brain.sum() < 0.6


def test_lesions_are_brighter_than_white_matter_on_a_true_flair(patients: list[Subject]) -> None:
    for subject in patients:
        assert 1.2 < scoring.score_truth(subject)["ratio1"] < 1.6


def test_least_squares_learnt_from_one_patient_explains_something_of_the_other(
    patients: list[Subject],
) -> None:
    for known, other in (patients, patients[::-1]):
        learnt = normalization.fit([known], "brain")
        rival = least_squares.fit([make_example(known, learnt, "brain")])
        brain = other.masks.brain
        code = least_squares.predict(
            rival, normalization.encode_images(learnt, other.images, brain)
        )
        flair = normalization.decode_flair(learnt, code, other.images, brain)
        assert scoring.score(other, np.where(brain, flair, 0))["nmse_brain"] < 1


def test_the_lesions_of_a_patient_who_was_not_tuned_on_are_found(
    patients: list[Subject],
) -> None:
    subject = patients[1]
    assert subject.flair is not None
    assert subject.masks.lesion is not None
    t1 = subject.images[..., subject.sequences.index("T1")]
    found = lesion_segmentation.segment(
        subject.flair, t1, subject.masks.brain, subject.geometry.voxel_size
    )
    scores = metrics.lesion_scores(found, subject.masks.lesion)
    assert scores.dice >= 0.55
    assert abs(scores.volume_bias) < 0.6
    assert scores.false_positives <= 5


def test_raw_sessions_are_refused_because_their_grids_differ() -> None:
    sessions = find_sessions(folder("open-ms-raw"), ("T1", "T2"), participants=("01",))
    with pytest.raises(GeometryError, match=r"sub-01_ses-1_T\dw.nii.gz: its .* differs .* grid"):
        load_session(sessions[0])


def test_a_session_without_one_of_the_sequences_is_named() -> None:
    with pytest.raises(InputError, match="sub-03_ses-1 has no T1"):
        load_cohort(folder("open-ms-raw"), ("T1", "T2"))


def test_every_consensus_mask_is_read_whole() -> None:
    paths = sorted(folder("open-ms-lesions").glob("*.nii.gz"))
    assert len(paths) == 29
    millilitres = []
    for path in paths:
        volume = read_volume(path)
        assert set(np.unique(volume.array)) == {0, 1}
        millilitres.append(volume.array.sum() * np.prod(volume.geometry.voxel_size) / 1000)
    assert 0.2 < min(millilitres) < 0.5
    assert 40 < max(millilitres) < 60
