"""Words that travel with a synthetic FLAIR, and what is said where it is given as a scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.atomic_files import write_json
from flaxflair.core.notice import NOTICE, NOTICE_KEY, is_notice
from flaxflair.core.records import InputError, Subject, Volume
from flaxflair.imaging.orientation import to_ras
from flaxflair.io import derivatives
from flaxflair.io.bids import sidecar
from flaxflair.io.datasets import load_cohort, load_session
from flaxflair.io.nifti import read_description, read_volume, write_volume
from flaxflair.io.provenance import check_provenance, is_synthetic
from flaxflair.io.session_files import find_sessions
from flaxflair.preprocessing import dataset
from flaxflair.preprocessing.inspection import inspect_files
from flaxflair.preprocessing.session import Prepared
from tests.samples import AFFINE, image_of


@pytest.mark.parametrize("name", ["f.nii", "f.nii.gz"])
def test_description_is_read_back_by_nibabel_and_here(tmp_path: Path, name: str):
    path = tmp_path / name
    write_volume(path, image_of("T1"), AFFINE, NOTICE)
    image = nib.Nifti1Image.from_filename(path)
    assert bytes(image.header["descrip"].tobytes()).rstrip(b"\0").decode() == NOTICE
    assert read_description(path) == NOTICE
    np.testing.assert_array_equal(image.get_fdata(), read_volume(path).array)


def test_volume_is_without_description_unless_given(tmp_path: Path):
    write_volume(tmp_path / "a.nii", image_of("T1"), AFFINE)
    assert read_description(tmp_path / "a.nii") == ""


@pytest.mark.parametrize("text", ["x" * 80, "é"])
def test_description_that_the_header_cannot_hold_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ValueError, match=r"80 bytes|ascii"):
        write_volume(tmp_path / "a.nii", image_of("T1"), AFFINE, text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"\xff" * 80, b"a" * 80, b"FreeSurfer\0\xe9"])
def test_any_description_is_read(tmp_path: Path, content: bytes):
    path = tmp_path / "a.nii"
    write_volume(path, image_of("T1"), AFFINE)
    held = bytearray(path.read_bytes())
    held[148 : 148 + len(content)] = content
    path.write_bytes(held)
    assert len(read_description(path)) <= 80
    assert not is_synthetic(path)


def test_notice_fits_a_header_and_is_recognised():
    assert len(NOTICE.encode("ascii")) < 80
    assert is_notice(NOTICE)
    assert not is_notice("FSL5.0")
    assert not is_notice(None)


def test_flair_and_sidecar_carry_the_notice(
    make_subject: Callable[..., Subject], tmp_path: Path
) -> None:
    subject = make_subject()
    path = tmp_path / "flair.nii.gz"
    volume = Volume(image_of("x"), subject.geometry)
    derivatives.write_flair(
        derivatives.at_file(path), subject, volume, extracted=True, model={"Digest": "0"}
    )
    assert read_description(path) == NOTICE
    beside = json.loads(sidecar(path).read_text())
    assert beside[NOTICE_KEY] == NOTICE
    assert beside["SequencesUsed"] == ["T1", "T2"]
    assert beside["Model"] == {"Digest": "0"}


def test_predicted_data_set_and_single_file_carry_the_notice(
    raw_model: Path, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_dataset(["sub-01_T1w", "sub-01_T2w"])
    out, single, model = tmp_path / "out", tmp_path / "f.nii.gz", ["--model", str(raw_model)]
    assert main(["predict", str(root), str(out), "participant", *model, "--no-page"]) == 0
    (made,) = out.rglob("*_desc-synth_FLAIR.nii.gz")
    anat = root / "sub-01/anat/sub-01"
    images = ["--t1w", f"{anat}_T1w.nii.gz", "--t2w", f"{anat}_T2w.nii.gz"]
    assert main(["predict", "--prepared", *model, *images, "--out", str(single), "--no-page"]) == 0
    assert [read_description(path) for path in (made, single)] == [NOTICE, NOTICE]


@pytest.mark.parametrize("where", ["header", "sidecar"])
def test_synthetic_input_is_noticed(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "t2.nii.gz"
    write_volume(path, image_of("T2"), AFFINE, NOTICE if where == "header" else "")
    if where == "sidecar":
        write_json(sidecar(path), {NOTICE_KEY: NOTICE})
    told = "is a synthetic FLAIR, not a scanned T2"
    assert told in " ".join(inspect_files({"T2": path}).warnings())
    main(["check", "--t2w", str(path)])
    assert told in " ".join(capsys.readouterr().out.split())


def mark(path: Path) -> None:
    volume = read_volume(path)
    write_volume(path, volume.array, volume.geometry.affine, NOTICE)


def test_prepared_session_with_a_synthetic_input_is_warned_of(write_dataset: Callable[..., Path]):
    root = write_dataset(["sub-01_T1w", "sub-01_T2w"])
    mark(root / "sub-01/anat/sub-01_T2w.nii.gz")
    (files,) = find_sessions(root, ("T1", "T2"), flair="ignored")
    assert any("not a scanned T2" in sentence for sentence in load_session(files).warnings)


def test_training_on_a_synthetic_truth_is_refused_by_name(write_dataset: Callable[..., Path]):
    root = write_dataset(["sub-01_T1w", "sub-01_FLAIR"])
    path = root / "sub-01/anat/sub-01_FLAIR.nii.gz"
    mark(path)
    with pytest.raises(InputError, match=r"FLAIR\.nii\.gz: is a synthetic FLAIR and no truth"):
        load_cohort(root, ("T1",))
    (subject,) = load_cohort(root, ("T1",), need_flair=False)
    assert any("not a scanned FLAIR" in sentence for sentence in subject.warnings)


def test_severity_depends_on_use(tmp_path: Path):
    path = tmp_path / "a.nii"
    write_volume(path, image_of("T1"), AFFINE, NOTICE)
    kinds = {
        (name, truth): [f.severity for f in check_provenance({name: path}, truth=truth)]
        for name in ("T1", "FLAIR")
        for truth in (True, False)
    }
    assert kinds.pop(("FLAIR", True)) == ["stop"]
    assert set(map(tuple, kinds.values())) == {("warn",)}


def test_notice_is_kept_by_preparation(
    write_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = write_dataset(["sub-01_T2w", "sub-01_FLAIR"])
    mark(root / "sub-01/anat/sub-01_FLAIR.nii.gz")
    monkeypatch.setattr(dataset, "prepare_session", unprepared)
    monkeypatch.setattr(dataset, "check_sequences", lambda prepared: [])
    monkeypatch.setattr(dataset, "preparation_warnings", lambda prepared: ())
    report = dataset.prepare_dataset(root, tmp_path / "out")
    assert report.failures == {}
    assert any("not a scanned FLAIR" in s for each in report.warnings.values() for s in each)
    kinds = {path.name.split("_")[-1]: path for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert is_synthetic(kinds["FLAIR.nii.gz"])
    assert not is_synthetic(kinds["T2w.nii.gz"])


def unprepared(volumes: dict[str, Volume], options: object, *, brain: object) -> Prepared:
    """Returns scans that already lie on one grid as a prepared session."""
    names = tuple(volumes)
    native = volumes["FLAIR"].geometry
    return Prepared(
        reference="FLAIR",
        native=native,
        sequences=names,
        stacked=np.stack([to_ras(volume).array for volume in volumes.values()]),
        brain=to_ras(volumes["FLAIR"]).array > 0,
        transforms={name: np.eye(4) for name in names},
        covered=dict.fromkeys(names, 1.0),
        scanned=dict.fromkeys(names, (1.0, 1.0, 1.0)),
        bias_weights={name: {name: 1.0} for name in names},
        bias_spread=dict.fromkeys(names, 0.0),
        template={},
    )
