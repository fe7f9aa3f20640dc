"""The table of verdicts of a derivative, from its sidecars."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flaxflair.core.atomic_files import write_json
from flaxflair.pipelines.quality_table import NAME, count_verdicts, write_quality_table
from flaxflair.runtime.sessions import Report


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_json(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    return tmp_path


def add(root: Path, name: str, grade: str = "good", *reasons: str, **quality: float) -> None:
    """Writes an empty FLAIR and its sidecar."""
    folder = root.joinpath(*name.split("_"), "anat")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_desc-synth_FLAIR.nii.gz").touch()
    content = {"Verdict": {"Grade": grade, "Reasons": reasons}, "Quality": quality}
    write_json(folder / f"{name}_desc-synth_FLAIR.json", content)


def report(*written: str, **failures: str) -> Report:
    failed = {name.replace("__", "-"): sentence for name, sentence in failures.items()}
    return Report({name: Path(name) for name in written}, failed, {}, {}, 0.0)


def read(root: Path) -> list[dict[str, str]]:
    """Returns the rows of the table."""
    header, *lines = [line.split("\t") for line in (root / NAME).read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_every_session_of_the_derivative_is_a_row_with_its_measures(root: Path):
    add(root, "sub-01_ses-1", brain_volume=1200.0, noise_T1=0.02)
    add(root, "sub-02", "look", "the T2 is\tclipped", "a b", brain_volume=800.0, later=3.0)
    write_quality_table(root, report("sub-02"))
    first, second = read(root)
    assert first == {
        "participant_id": "sub-01",
        "session_id": "ses-1",
        "verdict": "good",
        "reasons": "n/a",
        "brain_volume": "1200",
        "noise_T1": "0.02",
    }
    assert (second["session_id"], second["noise_T1"]) == ("n/a", "n/a")
    assert second["reasons"] == "the T2 is clipped | a b"
    columns = json.loads((root / "quality.json").read_text())
    assert list(columns) == list(first)
    assert columns["brain_volume"]["Units"] == "mL"
    assert set(columns["verdict"]["Levels"]) == {"good", "look", "unusable", "failed"}


def test_failures_stay_until_the_session_is_written(root: Path):
    add(root, "sub-01")
    write_quality_table(root, report("sub-01", sub__02="a.nii: no such file; give it"))
    write_quality_table(root, report("sub-01"))  # of another job
    assert [row["verdict"] for row in read(root)] == ["good", "failed"]
    assert read(root)[1]["reasons"] == "a.nii: no such file; give it"
    assert count_verdicts(root) == {"good": 1, "failed": 1}
    add(root, "sub-02", "unusable", "no brain")
    write_quality_table(root, report("sub-02"))
    assert [row["verdict"] for row in read(root)] == ["good", "unusable"]


def test_a_sidecar_without_a_verdict_is_a_row_without_values(root: Path):
    add(root, "sub-01", brain_volume=1000.0)
    add(root, "sub-02")
    path = root / "sub-02/anat/sub-02_desc-synth_FLAIR.json"
    path.write_text("{}")
    write_quality_table(root, report())
    assert read(root)[1]["verdict"] == "n/a"
    assert read(root)[1]["brain_volume"] == "n/a"


def test_a_session_that_fails_after_it_was_written_is_failed(root: Path):
    add(root, "sub-01")
    write_quality_table(root, report(sub__01="a.nii: is damaged; replace it"))
    (row,) = read(root)
    assert row["verdict"] == "failed"
