"""Preparation of raw data sets: as a derivative that `load_cohort` reads, or as subjects."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.records import InputError
from flaxflair.io.datasets import load_cohort
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.io.session_files import SessionFiles, find_sessions
from flaxflair.preprocessing.dataset import load_subject, prepare_dataset
from flaxflair.preprocessing.options import Preparation
from tests.validator import errors_of

RIGID = Preparation(dof=6)


@pytest.fixture(scope="module")
def raw(raw_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a raw data set of a patient with T1, T2 and FLAIR, and one with a corrupt file."""
    root = tmp_path_factory.mktemp("intake") / "raw"
    anat = root / "sub-01/anat"
    anat.mkdir(parents=True)
    shutil.copy(raw_phantom / "dataset_description.json", root)
    for suffix in ("T1w", "T2w", "FLAIR"):
        for extension in (".nii.gz", ".json"):
            shutil.copy(raw_phantom / f"sub-01/anat/sub-01_{suffix}{extension}", anat)
    mask = "sub-01_space-FLAIR_label-lesion_mask.nii.gz"
    truth = root / "derivatives/truth"
    (truth / "sub-01/anat").mkdir(parents=True)
    shutil.copy(raw_phantom / "derivatives/truth/dataset_description.json", truth)
    shutil.copy(raw_phantom / "derivatives/truth/sub-01/anat" / mask, truth / "sub-01/anat")
    (root / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tMS\nsub-02\tHC\n")
    shutil.copy(raw_phantom / "participants.json", root)
    bad = root / "sub-02/anat"
    bad.mkdir(parents=True)
    (bad / "sub-02_T2w.nii.gz").write_bytes(b"\x1f\x8b nothing")
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path) -> Path:
    out = raw.parent / "prepared"
    report = prepare_dataset(raw, out, RIGID)
    assert set(report.written) == {"sub-01"}
    assert set(report.failures) == {"sub-02"}
    assert "sub-02_T2w.nii.gz: the gzip stream is corrupt" in report.failures["sub-02"]
    return out


def test_the_cohort_loads_a_prepared_data_set(raw: Path, prepared: Path):
    (subject,) = load_cohort(prepared, ("T1", "T2"))
    assert subject.space is None
    flair = read_volume(raw / "sub-01/anat/sub-01_FLAIR.nii.gz")
    assert subject.native is not None
    assert subject.native.matches(flair.geometry)
    assert subject.masks.lesion is not None
    assert subject.masks.lesion.any()


def test_a_prepared_data_set_is_valid_bids_and_lists_its_participants(prepared: Path):
    assert errors_of(prepared) == []
    table = (prepared / "participants.tsv").read_text().splitlines()
    assert table == ["participant_id\tgroup", "sub-01\tMS"]
    assert (prepared / "participants.json").is_file()
    (subject,) = load_cohort(prepared, ("T1", "T2"))
    assert subject.group == "MS"


def test_a_second_run_and_parallel_sessions_write_the_same_bytes(
    raw: Path, prepared: Path, tmp_path: Path
):
    root = tmp_path / "raw"
    shutil.copytree(raw, root)
    for path in sorted((raw / "sub-01/anat").iterdir()):
        other = root / "sub-03/anat" / path.name.replace("sub-01", "sub-03")
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other)
    report = prepare_dataset(root, tmp_path / "again", RIGID, participants=["01", "03"], workers=2)
    assert set(report.written) == {"sub-01", "sub-03"}
    for path in sorted((tmp_path / "again/sub-01").rglob("*")):
        if path.is_file():
            other = prepared / path.relative_to(tmp_path / "again")
            assert path.read_bytes() == other.read_bytes(), path.name


def test_a_prepared_session_is_skipped_until_its_files_or_options_change(
    raw: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
):
    begun: list[str] = []

    def begin(files: SessionFiles, *_: object) -> None:
        begun.append(files.name)
        raise InputError("prepared anew")

    monkeypatch.setattr("flaxflair.preprocessing.dataset._prepare_files", begin)
    report = prepare_dataset(raw, prepared, RIGID)
    assert (report.kept, begun) == (("sub-01",), ["sub-02"])  # sub-02 never succeeded
    assert report.written == {"sub-01": prepared / "sub-01/anat"}
    for change in (Preparation(dof=12), Preparation(dof=6, reference="T1")):
        copied = prepared.parent / "copied"
        shutil.copytree(prepared, copied)
        assert prepare_dataset(raw, copied, change, participants=["01"]).kept == ()
        assert prepare_dataset(raw, copied, RIGID, participants=["01"]).kept == ()  # withdrawn
        shutil.rmtree(copied)


@pytest.mark.parametrize("change", ["reference", "sequence"])
def test_a_prepared_session_keeps_no_files_of_an_earlier_preparation(
    raw: Path, tmp_path: Path, change: str
):
    root, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, root)
    prepare_dataset(root, out, RIGID, participants=["01"])
    options = RIGID
    if change == "reference":
        options = replace(RIGID, reference="T1")
    else:
        (root / "sub-01/anat/sub-01_T2w.nii.gz").unlink()
    report = prepare_dataset(root, out, options, participants=["01"])
    assert (report.kept, set(report.written)) == ((), {"sub-01"})
    prepare_dataset(root, tmp_path / "new", options, participants=["01"])
    old, new = (
        sorted(p.name for p in (o / "sub-01/anat").iterdir()) for o in (out, tmp_path / "new")
    )
    assert old == new


def test_a_sidecar_describes_the_preparation(prepared: Path):
    anat = prepared / "sub-01/anat"
    sidecar = json.loads((anat / "sub-01_space-FLAIR_desc-preproc_T1w.json").read_text())
    assert sidecar["Sources"] == ["bids:source:sub-01/anat/sub-01_T1w.nii.gz"]
    assert sidecar["SpatialReference"] == "bids::sub-01/anat/sub-01_desc-preproc_FLAIR.nii.gz"
    assert sidecar["DegreesOfFreedom"] == 6
    assert sidecar["EchoTime"] > 0
    assert set(sidecar["WeightsOfBiasFields"]) == {"T1", "T2", "FLAIR"}
    matrix = np.array(sidecar["WorldOfReferenceToWorldOfSource"])
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
    text = (anat / "sub-01_from-T1_to-FLAIR_mode-image_xfm.txt").read_text()
    assert text.startswith("#Insight Transform File V1.0")


def test_a_raw_session_becomes_a_subject_without_reading_its_flair(raw: Path):
    files = find_sessions(raw, ("T1", "T2"), flair="ignored", participants=["01"])[0]
    subject = load_subject(files, RIGID)
    assert subject.flair is None
    assert subject.space == "T2w"
    t2 = read_volume(raw / "sub-01/anat/sub-01_T2w.nii.gz")
    assert subject.native is not None
    assert subject.native.matches(t2.geometry)
    assert subject.images.shape == (*subject.geometry.shape, 2)


def test_a_pattern_finds_a_sequence_without_a_bids_name(raw: Path, tmp_path: Path):
    root = tmp_path / "odd"
    shutil.copytree(raw, root)
    anat = root / "sub-01/anat"
    (anat / "sub-01_T2w.nii.gz").rename(anat / "sub-01_acq-tse_run-2_PDT2.nii.gz")
    (session,) = find_sessions(
        root, ("T2",), flair="ignored", patterns={"T2": "*_PDT2.nii.gz"}, participants=["01"]
    )
    assert [image.sequence for image in session.images if image.sequence == "T2"] == ["T2"]


def test_the_command_reports_failed_sessions(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["prepare", str(raw), str(tmp_path / "out"), "participant", "--dof", "6"]
    assert main([*command, "--dry-run"]) == 1
    assert "1 of 2 sessions cannot be used as they are" in capsys.readouterr().err
    assert main([*command, "--dry-run", "--participant-label", "01"]) == 0
    assert not (tmp_path / "out").exists()
    assert main([*command, "--participant-label", "02"]) == 1
    output = capsys.readouterr().err
    assert "flaxflair: 1 of 1 sessions could not be prepared" in output
    assert main([*command, "--workers", "0"]) == 1
    assert "--workers is 0; it must be at least 1" in capsys.readouterr().err


def test_a_data_set_cannot_be_its_own_output(raw: Path):
    with pytest.raises(InputError, match="is the data set itself"):
        prepare_dataset(raw, raw)


def test_a_sequence_present_twice_is_an_error(raw: Path, tmp_path: Path):
    root = tmp_path / "twice"
    shutil.copytree(raw, root)
    anat = root / "sub-01/anat"
    scan = read_volume(anat / "sub-01_T2w.nii.gz")
    write_volume(anat / "sub-01_run-2_T2w.nii.gz", scan.array, scan.geometry.affine)
    report = prepare_dataset(root, tmp_path / "out", RIGID, participants=["01"])
    assert "sub-01 has T2 twice" in report.failures["sub-01"]
