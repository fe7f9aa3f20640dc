"""The command `flaxflair`: what it offers, and how it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flaxflair
from flaxflair.cli import main


def test_help_names_the_commands_and_imports_nothing_heavy() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flaxflair.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(command in told.stdout for command in ("phantom", "montage", "predict"))
    imported = {line.rsplit("|", 1)[-1].strip() for line in told.stderr.splitlines()}
    assert imported.isdisjoint({"jax", "flax", "nibabel", "scipy", "matplotlib", "rich"})


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
        for argument in (f"--{name.lower()}", str(phantom / source))
    ]
    out = tmp_path / "flair.nii.gz"
    assert main(["predict", "--model", str(finished), *files, "--out", str(out)]) == 0
    assert flaxflair.read_volume(out).geometry.matches(subject.geometry)


def test_a_prepared_data_set_is_predicted_as_a_bids_app(
    finished: Path, phantom: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    labels = ["--participant-label", "01", "sub-04"]
    command = ["predict", str(phantom), str(out), "participant", "--model", str(finished)]
    assert main([*command, *labels]) == 0
    assert sorted(p.name for p in out.glob("sub-*")) == ["sub-01", "sub-04"]
    written = out / "sub-04/anat/sub-04_desc-synth_FLAIR.nii.gz"
    subject = flaxflair.load_cohort(phantom, ("T1",))[3]
    assert flaxflair.read_volume(written).geometry.matches(subject.geometry)


def test_a_subject_that_fails_is_told_at_the_end_and_the_others_are_done(
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
    ("arguments", "said"),
    [
        ([], "give BIDS_DIR OUT_DIR participant to predict a data set, or"),
        (["in", "out"], "give BIDS_DIR OUT_DIR participant to predict a data set, or"),
        (["--t1", "a.nii.gz"], "or the sequences' files and --out to predict those"),
        (["in", "out", "participant", "--t1", "a.nii.gz"], "BIDS_DIR is of a data set and --t1 of"),
        (["--out", "a.nii.gz", "--session-label", "1"], "--session-label is of a data set and"),
    ],
)
def test_a_data_set_and_single_files_are_not_mixed_and_neither_is_half_given(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", "/none", *arguments]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_level_that_is_not_participant_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "in", "out", "group", "--model", "/none"])
    assert "invalid choice: 'group'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["montage", "/none", "out.png"], "/none: no such folder"),
        (["predict", "--model", "/none", "--out", "out.nii.gz"], "/none/fold-0/model.json"),
        (["phantom", "."], "is not empty"),
    ],
)
def test_what_cannot_be_used_ends_with_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
