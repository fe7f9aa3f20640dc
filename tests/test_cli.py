"""The command `flaxflair`: what it offers, and how it refuses."""

from __future__ import annotations

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
