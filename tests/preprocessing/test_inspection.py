"""Quality checks of the files of a session: findings name the file, before any computation."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from flaxflair.core.records import InputError, Volume
from flaxflair.io.nifti import read_forms, read_volume, write_volume
from flaxflair.preprocessing.inspection import COLUMNS, inspect_files, tabulate


@pytest.fixture
def files(raw_scans: dict[str, Volume], tmp_path: Path) -> dict[str, Path]:
    """Returns sequence -> file, of a good session."""
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("T1", "T2")}
    for name, path in paths.items():
        write_volume(path, raw_scans[name].array, raw_scans[name].geometry.affine)
    return paths


def test_a_good_session_has_no_findings(files: dict[str, Path]):
    inspection = inspect_files(files)
    assert inspection.findings == ()
    assert not inspection.stops
    assert set(inspection.volumes()) == {"T1", "T2"}
    rows = tabulate(inspection)
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert [row[-1] for row in rows] == ["good", "good"]


def write_forms(path: Path, array: np.ndarray, qform: np.ndarray | None, sform: np.ndarray | None):
    image = nib.Nifti1Image(array, None)
    image.set_qform(qform, 0 if qform is None else 1)
    image.set_sform(sform, 0 if sform is None else 1)
    nib.save(image, path)


def test_contradictory_forms_give_a_warning(files: dict[str, Path], raw_scans: dict[str, Volume]):
    scan = raw_scans["T2"]
    other = scan.geometry.affine.copy()
    other[0, 3] += 4
    write_forms(files["T2"], scan.array, other, scan.geometry.affine)
    assert read_forms(files["T2"]).gap == pytest.approx(4, abs=1e-3)
    inspection = inspect_files(files)
    assert not inspection.stops
    assert inspection.warnings() == (
        f"{files['T2']}: its qform and sform put it 4.0 mm apart; the sform is used",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"quatern_b": 2}, "its qform cannot be read (quaternion or voxel size)"),
        ({"quatern_c": np.nan}, "its qform cannot be read (quaternion or voxel size)"),
        ({"pixdim": [1, -1, 1, 1, 1, 1, 1, 1]}, "its qform cannot be read"),
        ({"qform_code": 0, "pixdim": [1, 9, 9, 9, 1, 1, 1, 1]}, "its pixdim and its sform differ"),
    ],
    ids=["quaternion longer than 1", "quaternion of NaN", "negative voxel size", "pixdim"],
)
def test_fields_that_contradict_the_sform_give_a_warning(
    files: dict[str, Path], raw_scans: dict[str, Volume], fields: dict[str, Any], expected: str
):
    content = nib.Nifti1Image(raw_scans["T2"].array, raw_scans["T2"].geometry.affine).to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in {"qform_code": 1, "sform_code": 1, **fields}.items():
        header[name] = value
    files["T2"].write_bytes(gzip.compress(header.binaryblock + content[348:]))
    inspection = inspect_files(files)
    assert not inspection.stops
    (warning,) = inspection.warnings()
    assert warning.startswith(f"{files['T2']}: {expected}")
    assert warning.endswith("; the sform is used")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_forms_of_opposite_handedness_stop_the_session(
    files: dict[str, Path], raw_scans: dict[str, Volume], axis: int
):
    scan = raw_scans["T2"]
    mirror = np.eye(4)
    mirror[axis, axis] = -1
    write_forms(files["T2"], scan.array, scan.geometry.affine @ mirror, scan.geometry.affine)
    message = r"T2.nii.gz: .* so left and right are unknown; write"
    with pytest.raises(InputError, match=message):
        inspect_files(files).volumes()
    with pytest.raises(InputError, match=message):
        read_volume(files["T2"])  # as every other command reads it


def test_an_unreadable_file_stops_the_session_and_the_others_are_still_checked(
    files: dict[str, Path],
):
    content = bytearray(files["T2"].read_bytes())
    content[len(content) // 2] ^= 1
    files["T2"].write_bytes(content)
    inspection = inspect_files(files)
    assert inspection.stops
    assert [row[-1] for row in tabulate(inspection)] == ["good", "stop"]
    with pytest.raises(InputError, match=r"T2.nii.gz: the gzip stream is corrupt"):
        inspection.volumes()


def test_both_codes_zero_stop_the_session(files: dict[str, Path], raw_scans: dict[str, Volume]):
    write_forms(files["T2"], raw_scans["T2"].array, None, None)
    assert "both qform_code and sform_code are 0" in inspect_files(files).findings[0].what


def test_a_header_of_too_many_voxels_is_refused_before_allocation(
    files: dict[str, Path],
):
    header = nib.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 30_000))
    header["sform_code"] = 1
    files["T2"].write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    assert "claims 30000×30000×30000 voxels" in inspect_files(files).findings[0].what
