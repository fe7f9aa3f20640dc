"""From raw files to a FLAIR by the shipped model: whatever was scanned, nothing to train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.records import Volume
from flaxflair.evaluation import metrics
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.models.saving import SHIPPED, digest_model, load_model

BRAIN = "derivatives/truth/sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"


@pytest.fixture(scope="module")
def files(
    raw_scans: dict[str, Volume], raw_phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Raw files of one session, and roughly where the brain is."""
    folder = tmp_path_factory.mktemp("scans")
    for name, scan in raw_scans.items():
        write_volume(folder / f"{name}.nii.gz", scan.array, scan.geometry.affine)
    brain = read_volume(raw_phantom / BRAIN)
    write_volume(folder / "brain.nii.gz", brain.array, raw_scans["T2"].geometry.affine)
    return {path.name.removesuffix(".nii.gz"): path for path in folder.glob("*.nii.gz")}


@pytest.mark.parametrize("sequences", [("T1", "T2"), ("T2",), ("T1",), ("T1SE", "PD", "DIR")])
def test_a_flair_comes_from_whatever_was_scanned(
    files: dict[str, Path], tmp_path: Path, sequences: tuple[str, ...]
):
    out = tmp_path / "flair.nii.gz"
    flags = {"T1": "--t1w", "T2": "--t2w", "PD": "--pdw", "T1SE": "--t1se", "DIR": "--dir"}
    given = [text for name in sequences for text in (flags[name], str(files[name]))]
    brain = ["--brain", str(files["brain"])] if "T2" in sequences else []
    assert main(["predict", *given, *brain, "--dof", "6", "--out", str(out)]) == 0
    flair = read_volume(out).array
    assert np.isfinite(flair).all()
    assert 500 < np.median(flair[flair > 0]) < 1500  # white matter is at 1000
    sidecar = json.loads((tmp_path / "flair.json").read_text())
    assert sidecar["Model"]["Digest"] == digest_model(load_model())
    assert sidecar["Model"]["Method"] == "universal"
    assert sidecar["Description"] == f"Synthetic FLAIR, predicted from {', '.join(sequences)}"
    assert any("do not look for lesions" in sentence for sentence in sidecar["Warnings"])
    assert (tmp_path / "flair.html").is_file()


def test_the_phantoms_flair_is_met_better_than_by_its_mean(
    files: dict[str, Path], raw_scans: dict[str, Volume], tmp_path: Path
):
    out = tmp_path / "flair.nii.gz"
    given = ["--t1w", str(files["T1"]), "--t2w", str(files["T2"]), "--brain", str(files["brain"])]
    onto = ["--flair", str(files["FLAIR"]), "--reference", "FLAIR"]
    assert main(["predict", *given, *onto, "--out", str(out)]) == 0
    flair, truth = read_volume(out), raw_scans["FLAIR"]
    brain = read_volume(files["brain"]).array > 0.5
    assert metrics.nmse_fit(flair.array, truth.array, brain & (flair.array > 0)) < 0.8


def test_a_session_without_any_input_is_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "flair.nii.gz"
    assert main(["predict", "--flair", str(files["FLAIR"]), "--out", str(out)]) == 1
    assert "has none of T1, T1SE, T2, PD, DIR" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_raw_data_set_is_predicted_without_naming_a_model(raw_phantom: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert main(["predict", str(raw_phantom), str(out), "participant", "--dof", "6"]) == 0
    flair = next(out.rglob("*_desc-synth_FLAIR.nii.gz"))
    sidecar = json.loads(flair.with_name(flair.name[:-7] + ".json").read_text())
    assert sidecar["Description"].endswith("T1, T1SE, T2, PD, DIR")


def test_the_shipped_weights_are_part_of_the_package():
    assert SHIPPED.is_file()
    assert SHIPPED.parent.parent.name == "models"
