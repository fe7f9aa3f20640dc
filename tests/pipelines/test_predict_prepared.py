"""Prediction of prepared files: unusable files are refused, doubtful files give warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.records import Array, Volume
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.io.nifti import read_volume, write_volume

BRAIN = "derivatives/truth/sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"


@pytest.fixture(scope="module")
def session(raw_phantom: Path, raw_scans: dict[str, Volume]) -> dict[str, Volume]:
    """Scans of a head on one grid, and where its brain is."""
    brain = to_ras(read_volume(raw_phantom / BRAIN))
    session = {"brain": brain}
    for name in ("T1", "T2", "PD", "FLAIR"):
        scan = to_ras(raw_scans[name])
        laid = resample(scan.array, scan.geometry.affine, brain.geometry, np.eye(4))
        session[name] = Volume(laid, brain.geometry)
    return session


Change = Callable[[Mapping[str, Volume]], Mapping[str, Array]]


def predict(session: Mapping[str, Volume], change: Change, model: Path, folder: Path) -> int:
    """Writes a session with what is changed of it, predicts its FLAIR, and returns the status."""
    arrays = {name: session[name].array for name in ("T1", "T2", "brain")} | dict(change(session))
    affine = session["brain"].geometry.affine
    for name, array in arrays.items():
        write_volume(folder / f"{name}.nii.gz", array, affine)
    files = ["--t1w", "T1", "--t2w", "T2", "--brain", "brain"]
    files = [f if f.startswith("--") else str(folder / f"{f}.nii.gz") for f in files]
    out = ["--out", str(folder / "out.nii.gz"), "--no-page", "--model", str(model)]
    return main(["predict", "--prepared", *files, *out])


def with_nan(array: Array) -> Array:
    changed = np.array(array)
    changed[3, 3, 3] = np.nan
    return changed


@pytest.mark.parametrize(
    ("change", "file", "message"),
    [
        (lambda s: {"T1": s["T1"].array[:-1]}, "T2", "its grid differs from the T1's"),
        (lambda s: {"brain": s["brain"].array[:-1]}, "brain", "its grid differs from the T1's"),
        (lambda s: {"T1": with_nan(s["T1"].array)}, "T1", "voxels are NaN or infinite"),
        (lambda s: {"T1": np.stack([s["T1"].array] * 2, -1)}, "T1", "2 volumes in one file"),
        (lambda s: {"T2": 2 * s["T1"].array}, "T2", "is a copy of the image given as T1"),
        (lambda s: {"T1": s["T2"].array, "T2": s["T1"].array}, "T1", "exchange the two files"),
        (lambda s: {"T1": s["FLAIR"].array}, "T1", "does not look like a T1"),
        (lambda s: {"T1": s["PD"].array}, "T1", "does not look like a T1"),
        (lambda s: {"T2": s["FLAIR"].array}, "T2", "does not look like a T2"),
        (lambda s: {"T1": s["T1"].array - s["T1"].array.mean()}, "T1", "below zero"),
        (lambda s: {"brain": 0 * s["brain"].array}, "brain", "the mask is empty"),
    ],
    ids=[
        *("another grid", "a mask of another grid", "NaN", "4-D", "one file twice", "exchanged"),
        *("FLAIR as T1", "PD as T1", "FLAIR as T2", "z-scores", "an empty mask"),
    ],
)
def test_an_unusable_file_is_refused_with_its_name(
    session: dict[str, Volume],
    change: Change,
    file: str,
    message: str,
    raw_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert predict(session, change, raw_model, tmp_path) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"flaxflair: {tmp_path / file}.nii.gz: ")
    assert message in output
    assert output.count("\n") == 1
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"brain": 255 * s["brain"].array}, ""),
        (lambda s: {"brain": np.ones_like(s["brain"].array)}, "inspect its outline"),
        (lambda s: {"brain": np.roll(s["brain"].array, 20, 2)}, "extends beyond the head"),
        (lambda s: {"T1": np.roll(s["T1"].array, 4, 1)}, "differ in their anatomy"),
    ],
    ids=["a mask of 0 and 255", "a mask of all", "a mask aside", "a T1 aside"],
)
def test_a_doubtful_file_gives_a_warning(
    session: dict[str, Volume],
    change: Change,
    message: str,
    raw_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert predict(session, change, raw_model, tmp_path) == 0
    output = [line for line in capsys.readouterr().err.splitlines() if "brighter" not in line]
    assert any(message in line for line in output) == bool(message)
