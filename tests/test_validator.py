"""The BIDS validator accepts what this package writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import flaxflair
from flaxflair.cli import main
from flaxflair.simulation.phantom import write_phantom
from tests.validator import errors_of


def test_the_prepared_phantom_and_its_truth_are_valid(phantom: Path) -> None:
    assert errors_of(phantom) == []
    assert errors_of(phantom / "derivatives" / "truth") == []


def test_the_raw_phantom_is_valid(tmp_path: Path) -> None:
    write_phantom(tmp_path / "raw", subjects=2, healthy=1, layout="raw", scale=0.1)
    assert errors_of(tmp_path / "raw") == []
    assert errors_of(tmp_path / "raw" / "derivatives" / "truth") == []


def test_predictions_and_saliency_maps_are_valid(finished: Path) -> None:
    assert errors_of(finished / "derivative") == []


def test_a_predicted_data_set_is_valid_wherever_it_is_written(
    finished: Path, phantom: Path, tmp_path: Path
) -> None:
    model, root = flaxflair.load_model(finished), tmp_path / "phantom"
    shutil.copytree(phantom, root)
    for out in (tmp_path / "out", root / "derivatives" / "flaxflair"):
        assert not flaxflair.predict_cohort(model, root, out, participants=["01", "02"]).failures
        assert errors_of(out) == []
    assert errors_of(root) == []


def test_raw_sessions_that_were_predicted_are_valid(raw_phantom: Path, tmp_path: Path) -> None:
    options = ["--dof", "6", "--lesions", "--uncertainty", "90", "--no-page"]
    assert main(["predict", str(raw_phantom), str(tmp_path / "out"), "participant", *options]) == 0
    (flair,) = tmp_path.glob("out/sub-01/anat/*_space-T2w_desc-synth_FLAIR.json")
    reference = json.loads(flair.read_text())["SpatialReference"]
    assert reference == "bids:source:sub-01/anat/sub-01_T2w.nii.gz"
    assert errors_of(tmp_path / "out") == []


def test_the_validator_does_find_errors(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    assert errors_of(tmp_path) != []
