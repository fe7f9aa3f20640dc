"""`predict --lesions --uncertainty`: files that are written, found again and refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import ndimage

from flaxflair.cli import main
from flaxflair.config.universal import ConditionalConfig
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.notice import NOTICE
from flaxflair.io import bound_files, lesion_files
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.models.error_scale import ErrorScale, scale_network
from flaxflair.models.saving import digest_model, export_model
from flaxflair.models.universal import UniversalModel, make_network
from flaxflair.pipelines.extras import Extras
from flaxflair.pipelines.predict import predict_cohort, predict_session
from tests.models.test_intervals import CALIBRATION
from tests.samples import ball

LESIONS = Extras(lesions=True)
CONFIG = ConditionalConfig(widths=(4,), convolutions=1, fine=2)


@pytest.fixture(scope="module")
def model() -> UniversalModel:
    """A network that calls whole parts of the ball lesion."""
    network = make_network(CONFIG)
    rng = np.random.default_rng(8)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.normal(0, 0.5, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    scale = ErrorScale(scale_network().init(jax.random.key(1)), CALIBRATION)
    return UniversalModel(CONFIG, network, jax.tree.map(draw, shapes), scale=scale)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    subject = ball((2.0, 2.0, 3.0))
    folder = tmp_path_factory.mktemp("scans")
    affine = subject.geometry.affine
    # Blurred, because intensities with a gap are refused as overflown.
    blurred = ndimage.gaussian_filter(subject.images, (1, 1, 1, 0))
    images = dict(zip(("T1", "T2"), np.moveaxis(blurred, -1, 0), strict=True))
    for name, array in {**images, "brain": subject.masks.brain.astype(np.float32)}.items():
        write_volume(folder / f"{name}.nii.gz", array, affine)
    return {name: folder / f"{name}.nii.gz" for name in (*images, "brain")}


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_files_of_a_session_lie_beside_its_flair(
    model: UniversalModel, scans: dict[str, Path], tmp_path: Path
):
    out = tmp_path / "F.nii"
    inputs = {name: scans[name] for name in ("T1", "T2")}
    page = tmp_path / "F.html"
    predict_session(model, inputs, out, None, brain=scans["brain"], page=page, wanted=LESIONS)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("F.nii", "F.json", "F.html", "F_desc-lesion_probseg.nii.gz"),
        *("F_desc-lesion_probseg.json", "F_desc-lesions_morph.tsv", "F_desc-lesions_morph.json"),
    }
    probability = read_volume(lesion_files.map_path(out))
    assert probability.geometry.matches(read_volume(out).geometry)
    sidecar = json.loads((tmp_path / "F_desc-lesion_probseg.json").read_text())
    assert sidecar["Notice"] == NOTICE
    assert sidecar["Sources"] == [str(path) for path in inputs.values()]
    assert sidecar["Model"]["Digest"] == digest_model(model)
    rows = read_rows(lesion_files.table_path(out))
    columns = json.loads((tmp_path / "F_desc-lesions_morph.json").read_text())
    assert rows
    assert [*rows[0], "Table"] == list(columns)
    assert {"without_T1", "without_T2"} <= set(rows[0])
    assert "outline of the lesions listed" in page.read_text()
    # The row's place is in the image, and in a lesion.
    x, y, z = (float(rows[0][axis]) for axis in ("x", "y", "z"))
    at = np.linalg.inv(probability.geometry.affine) @ (x, y, z, 1)
    assert probability.array[tuple(np.round(at[:3]).astype(int))] > 0.3


def test_a_data_set_is_resumed_by_whether_lesions_are_there(
    model: UniversalModel, scans: dict[str, Path], write_dataset, tmp_path: Path
):
    arrays = {f"sub-01_{name}w": read_volume(scans[name]).array for name in ("T1", "T2")}
    arrays["sub-01_desc-brain_mask"] = read_volume(scans["brain"]).array
    root = write_dataset(arrays, affine=read_volume(scans["T1"]).geometry.affine)
    out = tmp_path / "out"
    kept = []
    for lesions in (False, True, True, False):
        report = predict_cohort(model, root, out, wanted=Extras(lesions=lesions))
        assert report.failures == {}
        kept.append(report.kept)
    assert kept == [(), (), ("sub-01",), ("sub-01",)]
    anat = out / "sub-01/anat"
    assert {"sub-01_desc-lesion_probseg.nii.gz", "sub-01_desc-lesions_morph.tsv"} <= {
        path.name for path in anat.iterdir()
    }
    sidecar = json.loads((anat / "sub-01_desc-lesion_probseg.json").read_text())
    assert sidecar["Sources"][0] == "bids:source:sub-01/anat/sub-01_T1w.nii.gz"
    page = tmp_path / "page.html"
    export_model(model, tmp_path / "model.safetensors")
    assert main(["report", str(out / "sub-01"), "--out", str(page)]) == 0
    assert "outline of the lesions listed" in page.read_text()
    table = anat / "sub-01_desc-lesions_morph.tsv"
    table.write_text("index\tx\n1\tfar\n")
    assert main(["report", str(out / "sub-01"), "--out", str(page)]) == 1


def test_bounds_of_a_session_lie_beside_its_flair(
    model: UniversalModel, scans: dict[str, Path], tmp_path: Path
):
    export_model(model, tmp_path / "model.safetensors")
    out = tmp_path / "F.nii.gz"
    command = ["predict", "--model", str(tmp_path / "model.safetensors"), "--prepared"]
    command += ["--t1w", str(scans["T1"]), "--brain", str(scans["brain"]), "--out", str(out)]
    assert main([*command, "--uncertainty", "80"]) == 0
    flair = read_volume(out)
    lower, upper = map(read_volume, bound_files.bound_paths(out, 0.8))
    assert lower.geometry.matches(flair.geometry)
    assert (lower.array <= upper.array).all()
    inside = (flair.array > lower.array - 1) & (flair.array < upper.array + 1)
    assert inside[flair.array > 0].mean() > 0.99
    sidecar = json.loads((tmp_path / "F_desc-upper80_bound.json").read_text())
    assert sidecar["Coverage"] == 0.8
    assert sidecar["Notice"] == NOTICE
    assert "width of the 80 % interval" in out.with_name("F.html").read_text()


@pytest.mark.parametrize(
    ("flag", "message"), [("85", "no intervals of 85 %; choose from 50, 80, 90, 95")]
)
def test_a_coverage_that_was_not_calibrated_is_refused(
    model: UniversalModel, scans: dict[str, Path], tmp_path: Path, capsys, flag: str, message: str
):
    export_model(model, tmp_path / "model.safetensors")
    command = ["predict", "--model", str(tmp_path / "model.safetensors"), "--prepared"]
    command += ["--t1w", str(scans["T1"]), "--out", str(tmp_path / "F.nii.gz")]
    assert main([*command, "--uncertainty", flag]) == 1
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors"}


def test_other_models_are_refused_before_anything_is_written(
    raw_model: Path, scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["predict", "--model", str(raw_model), "--prepared", "--lesions"]
    command += ["--t1w", str(scans["T1"]), "--t2w", str(scans["T2"])]
    assert main([*command, "--out", str(tmp_path / "F.nii.gz")]) == 1
    error = capsys.readouterr().err
    assert "predicts a FLAIR and no lesions" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_map_does_not_replace_an_input(
    model: UniversalModel, scans: dict[str, Path], tmp_path: Path
):
    given = tmp_path / "F_desc-lesion_probseg.nii.gz"
    given.write_bytes(scans["T1"].read_bytes())
    with pytest.raises(WriteError, match="is one of the inputs"):
        predict_session(model, {"T1": given}, tmp_path / "F.nii.gz", None, wanted=LESIONS)
    assert list(tmp_path.iterdir()) == [given]
