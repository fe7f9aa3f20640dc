"""The command `flaxflair`: its subcommands and errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxflair
from flaxflair.cli import main
from flaxflair.commands import prediction
from flaxflair.core.records import Geometry, Volume
from flaxflair.core.sequences import SEQUENCES
from flaxflair.imaging.tiling import plan_tiles
from flaxflair.models.saving import load_model
from flaxflair.models.universal import VOXELS, UniversalModel

COMMANDS = (
    "phantom",
    "montage",
    "prepare",
    "check",
    "predict",
    "adapt",
    "evaluate",
    "saliency",
    "report",
)


def run_and_list_imports(*arguments: str | Path) -> tuple[str, set[str]]:
    """Returns the output of a command, and the modules that it imports."""
    output = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flaxflair.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = output.stderr.splitlines()
    return output.stdout, {line.rsplit("|", 1)[-1].strip() for line in lines}


def test_help_lists_the_commands_without_large_imports() -> None:
    output, imported = run_and_list_imports("--help")
    assert all(command in output for command in COMMANDS)
    assert imported.isdisjoint({"jax", "flax", "nibabel", "scipy", "matplotlib", "rich"})


def test_check_needs_no_network(phantom: Path) -> None:
    output, imported = run_and_list_imports("check", phantom)
    assert "sub-01" in output
    assert imported.isdisjoint({"jax", "flax", "sklearn", "matplotlib"})


def test_a_phantom_is_written_and_drawn(tmp_path: Path) -> None:
    root, picture = tmp_path / "phantom", tmp_path / "montage.png"
    assert main(["phantom", str(root), "--subjects", "2", "--healthy", "1", "--scale", "0.1"]) == 0
    assert main(["montage", str(root), str(picture), "--participant", "02"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_prepared_files_are_predicted_on_their_grid(
    finished: Path, phantom: Path, tmp_path: Path
) -> None:
    model = flaxflair.load_model(finished)
    subject = flaxflair.load_cohort(phantom, model.sequences)[0]
    files = [
        argument
        for name, source in zip(model.sequences, subject.sources, strict=False)
        for argument in (f"--{SEQUENCES[name].flag}", str(phantom / source))
    ]
    out = tmp_path / "flair.nii.gz"
    brain = phantom / "sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"
    command = ["predict", "--prepared", "--model", str(finished), *files, "--out", str(out)]
    assert main([*command, "--brain", str(brain)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"flair.nii.gz", "flair.json", "flair.html"}
    assert subject.native is not None
    assert flaxflair.read_volume(out).geometry.matches(subject.native)


def test_a_prepared_data_set_is_predicted_as_a_bids_app(
    finished: Path, phantom: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    labels = ["--participant-label", "01", "sub-04"]
    command = ["predict", str(phantom), str(out), "participant", "--model", str(finished)]
    assert main([*command, *labels]) == 0
    assert sorted(p.name for p in out.glob("sub-*/")) == ["sub-01", "sub-04"]
    assert sorted(p.name for p in out.glob("*.html")) == ["sub-01.html", "sub-04.html"]
    written = out / "sub-04/anat/sub-04_desc-synth_FLAIR.nii.gz"
    subject = flaxflair.load_cohort(phantom, ("T1",))[3]
    assert subject.native is not None
    assert flaxflair.read_volume(written).geometry.matches(subject.native)


def test_a_failed_subject_is_reported_at_the_end_and_the_others_are_predicted(
    finished: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(phantom, root)
    (path,) = root.glob("sub-02/anat/*acq-DIR*.nii.gz")
    path.write_bytes(path.read_bytes()[:-9])
    command = ["predict", "--model", str(finished), str(root), str(out), "participant"]
    assert main(command) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "flaxflair: 1 of 6 sessions could not be predicted"
    assert second.startswith(f"  sub-02: {path}: the gzip stream is corrupt or cut short")
    assert len(list(out.glob("sub-*/anat/*_desc-synth_FLAIR.nii.gz"))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give BIDS_DIR OUT_DIR participant to predict a data set, or"),
        (["in", "out"], "give BIDS_DIR OUT_DIR participant to predict a data set, or"),
        (["--t1w", "a.nii.gz"], "or files of sequences and --out to predict one"),
        (
            ["in", "out", "participant", "--t1w", "a.nii.gz"],
            "BIDS_DIR is for data sets and --t1w for",
        ),
        (["--out", "a.nii.gz", "--session-label", "1"], "--session-label is for data sets and"),
    ],
)
def test_arguments_of_data_sets_and_of_files_cannot_be_mixed_or_incomplete(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", "/none", *arguments]) == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


def test_an_option_of_earlier_versions_is_refused_by_its_present_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--out", "a.nii.gz", "--voxels", "900"])
    assert "--voxels is now --tile-voxels; use that name" in capsys.readouterr().err


def test_a_tile_of_the_shipped_model_holds_a_head_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def record(*_: object, tile_voxels: int, **__: object) -> tuple[Volume, tuple[str, ...]]:
        tile_sizes.append(tile_voxels)
        return Volume(np.zeros((2, 2, 2), np.float32), Geometry((2, 2, 2), np.eye(4))), ()

    tile_sizes: list[int] = []
    monkeypatch.setattr(prediction, "predict_session", record)
    (tmp_path / "t1.nii.gz").touch()
    assert main(["predict", "--t1w", f"{tmp_path}/t1.nii.gz", "--out", f"{tmp_path}/f.nii.gz"]) == 0
    model = load_model()
    assert isinstance(model, UniversalModel)
    network = model.network
    (size,) = tile_sizes
    tiles = plan_tiles((176, 208, 192), network.radius, size or VOXELS, network.stride)
    assert tiles == (1, 1, 1)


def test_a_level_that_is_not_participant_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "in", "out", "group", "--model", "/none"])
    assert "invalid choice: 'group'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["montage", "/none", "out.png"], "/none: no such folder"),
        (["predict", "--model", "/none", "--out", "out.nii.gz"], "/none/fold-0/model.json"),
        (["phantom", "."], "is not empty"),
        (["phantom", f"{__file__}/x"], f"{__file__}: File exists; check the name"),
        (["saliency", "--out", "out"], "saliency requires the true FLAIR; give --flair"),
        (
            ["predict", "--out", "a.nii.gz", "--tile-voxels", "-1"],
            "--tile-voxels is -1; it must be at",
        ),
        (["report", ".", "--out", "/none/x.html"], "/none: no such folder; create it"),
        (["montage", ".", "/none/x.png"], "/none: no such folder; create it"),
        (["evaluate", "a.nii", "b.nii", "--json", "/none/x.json"], "/none: no such folder"),
        (["montage", ".", f"{__file__}/x.png"], f"{__file__}: is a file, not a folder"),
        (
            [
                "simulate",
                "--labels",
                ".",
                "--lesions",
                ".",
                "--masks",
                ".",
                "--sheet",
                "s.png",
                "--seed",
                "-1",
            ],
            "--seed is -1; it must be at least 0",
        ),
    ],
)
def test_unusable_arguments_give_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "kept", "t2.nii.gz", "--json", "kept"],
        ["evaluate", "t1.nii.gz", "t2.nii.gz", "--brain", "kept", "--json", "kept"],
        ["evaluate", "t1.nii.gz", "t2.nii.gz", "--lesions", "kept", "--json", "kept"],
        ["montage", ".", "kept"],
        ["simulate", "--labels", ".", "--lesions", ".", "--masks", ".", "--sheet", "kept"],
        ["export", ".", "kept"],
        ["report", ".", "--out", "kept"],
        ["predict", "--t1w", "kept", "--out", "kept"],
        ["predict", "--t1w", "t1.nii.gz", "--brain", "kept", "--out", "kept"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kept", ["kept.nii.gz", "kept.txt", "kept.json"])
def test_no_output_replaces_an_input_or_a_file_of_another_format(
    command: list[str],
    kept: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t1.nii.gz", "t2.nii.gz", kept):
        Path(name).write_text("an image")
    assert main([kept if word == "kept" else word for word in command]) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"flaxflair: {kept}: is ")
    assert output.count("\n") == 1
    assert Path(kept).read_text() == "an image"


def test_saliency_maps_do_not_replace_an_input(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: tmp_path / f"{name}_p3s.nii.gz" for name in ("T1", "T2", "DIR", "FLAIR")}
    for path in paths.values():
        path.write_text("an image")
    named = (("t1w", "T1"), ("t2w", "T2"), ("dir", "DIR"), ("flair", "FLAIR"))
    flags = [f"--{flag}={paths[name]}" for flag, name in named]
    assert main(["saliency", f"--model={finished}", *flags, f"--out={tmp_path}"]) == 1
    assert "T1_p3s.nii.gz: is one of the inputs" in capsys.readouterr().err
    assert paths["T1"].read_text() == "an image"


def test_an_export_does_not_replace_the_model_of_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished / "fold-0/model.safetensors"
    before = path.read_bytes()
    assert main(["export", str(finished), str(path)]) == 1
    assert "model.safetensors: is a file of the run" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_raw_files_are_predicted_on_the_grid_of_the_t2_with_a_page(
    raw_model: Path, raw_phantom: Path, tmp_path: Path
) -> None:
    anat, out = raw_phantom / "sub-01/anat", tmp_path / "flair.nii.gz"
    files = ["--t1w", str(anat / "sub-01_T1w.nii.gz"), "--t2w", str(anat / "sub-01_T2w.nii.gz")]
    command = ["predict", "--model", str(raw_model), *files, "--out", str(out), "--dof", "6"]
    assert main([*command, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert main(command) == 0
    flair = flaxflair.read_volume(out)
    reference = flaxflair.read_volume(anat / "sub-01_T2w.nii.gz")
    np.testing.assert_allclose(flair.geometry.affine, reference.geometry.affine, atol=1e-4)
    assert flair.geometry.shape == reference.geometry.shape
    sidecar = json.loads((tmp_path / "flair.json").read_text())
    assert sidecar["Model"]["Sequences"] == ["T1", "T2"]
    assert (tmp_path / "flair.html").read_text().startswith("<!doctype html>")


def test_a_raw_data_set_is_predicted_and_its_prepared_images_are_written(
    raw_model: Path, raw_phantom: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(raw_phantom), str(out), "participant", "--model", str(raw_model)]
    assert main([*command, "--dof", "6"]) == 0
    anat = out / "sub-01/anat"
    for name in ("space-T2w_desc-synth_FLAIR", "desc-preproc_T2w", "space-T2w_desc-brain_mask"):
        assert (anat / f"sub-01_{name}.nii.gz").is_file()
    assert main(["report", str(out / "sub-01"), "--out", str(tmp_path / "page.html")]) == 0


def test_exchanged_files_are_refused_by_check_and_by_predict(
    raw_model: Path, raw_phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anat, out = raw_phantom / "sub-01/anat", tmp_path / "flair.nii.gz"
    files = ["--t1w", str(anat / "sub-01_T2w.nii.gz"), "--t2w", str(anat / "sub-01_T1w.nii.gz")]
    assert main(["check", *files]) == 1
    output = capsys.readouterr()
    assert "looks like a T2" in output.out
    assert "cannot be used as it is" in output.err
    assert main(["predict", "--model", str(raw_model), *files, "--out", str(out)]) == 1
    assert "looks like a T2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_good_data_set_passes_the_check(
    raw_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(raw_phantom)]) == 0
    assert capsys.readouterr().out.count("good") == 6
    one = raw_phantom / "sub-01/anat/sub-01_T2w.nii.gz"
    assert main(["check", str(one)]) == 0
    assert main(["check", str(raw_phantom), str(one)]) == 1
    assert main(["check", str(one), str(one)]) == 1
    assert main(["check"]) == 1


def test_a_flair_is_scored_against_the_true_one(phantom: Path, tmp_path: Path) -> None:
    anat, truth = phantom / "sub-01/anat", phantom / "derivatives/truth/sub-01/anat"
    true = anat / "sub-01_desc-preproc_FLAIR.nii.gz"
    masks = [
        "--brain",
        str(anat / "sub-01_space-FLAIR_desc-brain_mask.nii.gz"),
        "--lesions",
        str(truth / "sub-01_space-FLAIR_label-lesion_mask.nii.gz"),
        "--t1w",
        str(anat / "sub-01_space-FLAIR_desc-preproc_T1w.nii.gz"),
    ]
    out = tmp_path / "scores.json"
    assert main(["evaluate", str(true), str(true), *masks, "--json", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert scores["synthetic"]["mse"] == 0
    assert scores["synthetic"]["ratio1"] == scores["true"]["ratio1"]


def test_another_grid_is_not_scored(
    phantom: Path, raw_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anat = phantom / "sub-01/anat"
    files = [
        str(raw_phantom / "sub-01/anat/sub-01_FLAIR.nii.gz"),
        str(anat / "sub-01_desc-preproc_FLAIR.nii.gz"),
        *("--brain", str(anat / "sub-01_space-FLAIR_desc-brain_mask.nii.gz")),
    ]
    assert main(["evaluate", *files]) == 1
    error = capsys.readouterr().err
    assert "sub-01_FLAIR.nii.gz: its grid differs from the true FLAIR's" in error
    assert "--reference FLAIR" in error


def test_saliency_of_files_is_one_map_per_sequence(
    finished: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = flaxflair.load_model(finished)
    subject = flaxflair.load_cohort(phantom, model.sequences)[0]
    files = [
        argument
        for name, source in zip((*model.sequences, "FLAIR"), subject.sources, strict=True)
        for argument in (f"--{SEQUENCES[name].flag}", str(phantom / source))
    ]
    brain = phantom / "sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"
    command = ["saliency", "--model", str(finished), "--prepared", "--brain", str(brain)]
    command += ["--out", str(tmp_path / "maps")]
    assert main([*command, *files]) == 0
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        f"{name}_p3s.nii.gz" for name in sorted(model.sequences)
    ]
    assert main([*command, *files[:-2]]) == 1
    assert "give --flair" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "x.nii", "--pattern", "T1w"], "write SEQUENCE=PATTERN"),
        (["predict", "--model", "/none", "--threads", "1000"], "--threads is 1000; give 1 to"),
    ],
)
def test_an_invalid_flag_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [str(tmp_path) if a == "x.nii" else a for a in arguments]
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
