"""Repeated prediction of a data set: only finished and unchanged sessions are skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxflair.baselines.least_squares import LeastSquares
from flaxflair.cli import main
from flaxflair.core.atomic_files import WriteError, write_bytes
from flaxflair.imaging.normalization import Normalization, Stats
from flaxflair.io import bids, derivatives, receipts
from flaxflair.io.bids import RECEIPTS
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.io.receipts import Receipts, run_unfinished
from flaxflair.io.session_files import SessionFiles
from flaxflair.models.estimators import FittedBaseline
from flaxflair.models.model import Model
from flaxflair.models.saving import save_model
from flaxflair.pipelines.predict import predict_cohort, predict_session
from flaxflair.runtime.sessions import Finished, Report
from flaxflair.runtime.stages import Stage
from tests.samples import image_of

SESSIONS = ("sub-01", "sub-02")
FLAIR = "sub-01/anat/sub-01_desc-synth_FLAIR"


def make_model(slope: float = 1.0) -> Model:
    fitted = FittedBaseline("least_squares", LeastSquares(np.array([slope, 0.5, 0.0])))
    stats = Stats((200.0, 200.0), (100.0, 100.0)), Stats((200.0,), (100.0,))
    return Model(("T1", "T2"), fitted, Normalization(*stats))


@pytest.fixture
def place(write_dataset: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a data set of two participants, predicted into `out`."""
    names = [f"{s}_{x}" for s in SESSIONS for x in ("T1w", "T2w", "FLAIR")]
    root = write_dataset({name: image_of(name) for name in names})
    report = predict_cohort(make_model(), root, tmp_path / "out")
    assert (tuple(report.written), report.kept) == (SESSIONS, ())
    return tmp_path


def again(place: Path, model: Model | None = None, **options: Any) -> tuple[str, ...]:
    """Predicts again, and returns the skipped sessions."""
    report = predict_cohort(model or make_model(), place / "dataset", place / "out", **options)
    assert (tuple(report.written), report.failures) == (SESSIONS, {})
    return report.kept


def change_voxel(place: Path, name: str = "dataset/sub-01/anat/sub-01_T1w.nii.gz") -> None:
    volume = read_volume(place / name)
    array = np.array(volume.array)
    array[0, 0, 0] += 1
    write_volume(place / name, array, volume.geometry.affine)


def flip(place: Path) -> None:
    path = place / "out" / f"{FLAIR}.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(place: Path) -> None:
    path = place / "out" / f"{FLAIR}.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


def receipt(place: Path) -> Path:
    return place / "out" / RECEIPTS / "sub-01.json"


def test_finished_sessions_are_skipped(place: Path):
    before = {p: p.stat().st_mtime_ns for p in (place / "out").rglob("sub-*") if p.is_file()}
    assert again(place) == SESSIONS
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert again(place, about={"Run": "moved"}, workers=1, tile_voxels=100) == SESSIONS


@pytest.mark.parametrize(
    "change",
    [
        change_voxel,
        lambda place: (place / "dataset/sub-01/anat/sub-01_T1w.json").write_text("{}"),
        flip,
        cut,
        lambda place: (place / "out" / f"{FLAIR}.nii.gz").unlink(),
        lambda place: (place / "out" / f"{FLAIR}.json").unlink(),
        lambda place: (place / "out" / f"{FLAIR}.json").write_text("{}"),
        lambda place: receipt(place).unlink(),
        lambda place: receipt(place).write_text("{"),
        lambda place: receipt(place).write_text('{"request": 1}'),
        lambda place: receipt(place).write_bytes(b"\xff\xfe"),
    ],
    ids=[
        *("an input", "a sidecar of an input", "a flipped bit", "a cut file", "no image"),
        *("no sidecar", "another sidecar", "no receipt", "half a receipt", "an odd one", "noise"),
    ],
)
def test_a_session_with_changed_inputs_or_outputs_is_recomputed(
    change: Callable[[Path], Any], place: Path
):
    change(place)
    assert again(place) == ("sub-02",)
    assert again(place) == SESSIONS
    read_volume(place / "out" / f"{FLAIR}.nii.gz")
    json.loads((place / "out" / f"{FLAIR}.json").read_text())["Model"]


@pytest.mark.parametrize(
    "options",
    [{"model": make_model(1.1)}, {"model": replace(make_model(), region="brain")}, {"pages": True}],
    ids=["weights", "region", "pages"],
)
def test_another_model_or_more_outputs_recompute_all_sessions(options: dict[str, Any], place: Path):
    assert again(place, **options) == ()
    assert again(place, **options) == SESSIONS


def test_another_version_recomputes_all_sessions(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flaxflair.pipelines.predict.version", lambda _: "99")
    assert again(place) == ()


def test_unused_files_may_change(place: Path):
    change_voxel(place, "dataset/sub-01/anat/sub-01_FLAIR.nii.gz")
    assert again(place) == SESSIONS


def test_overwriting_recomputes_all_sessions(place: Path):
    assert again(place, overwrite=True) == ()


def test_a_session_that_was_cut_off_is_recomputed_and_its_partial_files_are_removed(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    partial = [
        place / "out/sub-01/anat/.sub-01_desc-synth_FLAIR.nii.gz.0123.part",
        place / "out/.sub-01.html.0123.part",
        receipt(place).with_name(f".{receipt(place).name}.0123.part"),
    ]
    for left in partial:
        left.write_bytes(b"half")
    change_voxel(place)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flaxflair.io.derivatives.write_flair", die)
        with pytest.raises(KeyboardInterrupt):
            again(place)
    assert not receipt(place).exists()
    assert again(place) == ("sub-02",)
    assert not any(left.exists() for left in partial)


OUTPUTS = ("sub-01_a.nii.gz", "sub-01_b.nii.gz", "sub-01_b.json")


def write_outputs(out: Path, names: Sequence[str], text: str, *, die: bool = False) -> Report:
    """Runs a session that writes files of these names, and dies before its end if wanted."""
    files = SessionFiles(out, "sub-01", None, "", (), "ignored", (), ())

    def work(_: SessionFiles) -> Finished:
        for name in names:
            write_bytes(bids.subject_folder(out, "sub-01", None) / name, text.encode())
        if die:
            raise KeyboardInterrupt
        return Finished(out, ())

    found = Receipts(out, lambda _: {"names": [*names], "text": text})
    return run_unfinished([files], [Stage("work", work)], found)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("text", ["the same", "another"])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_what_an_earlier_run_wrote_and_this_one_does_not_is_removed(
    tmp_path: Path, number: int, text: str, killed: bool
):
    write_outputs(tmp_path, OUTPUTS, "the same")
    own = tmp_path / "sub-01/anat/sub-01_own.txt"
    own.write_text("of the user")
    wanted = [*OUTPUTS[:number], "sub-01_new.nii.gz"]
    if killed:
        with pytest.raises(KeyboardInterrupt):
            write_outputs(tmp_path, wanted, text, die=True)
    report = write_outputs(tmp_path, wanted, text)
    assert {path.name for path in own.parent.iterdir()} == {*wanted, own.name}
    (note,) = report.warnings["sub-01"]
    assert note.startswith(f"{own}: is not of this run, and is left")
    assert write_outputs(tmp_path, wanted, text).kept == ("sub-01",)


def test_a_file_of_an_earlier_run_that_was_changed_is_left_and_said(tmp_path: Path):
    write_outputs(tmp_path, OUTPUTS, "the same")
    changed = tmp_path / "sub-01/anat" / OUTPUTS[-1]
    changed.write_text("changed")
    report = write_outputs(tmp_path, OUTPUTS[:1], "the same")
    assert {path.name for path in changed.parent.iterdir()} == {OUTPUTS[0], changed.name}
    assert report.warnings["sub-01"][0].startswith(f"{changed}: is not of this run")


def test_a_page_of_an_earlier_run_is_removed_with_its_flair(place: Path):
    again(place, pages=True)
    assert (place / "out/sub-01.html").is_file()
    assert again(place, model=make_model(1.1)) == ()
    assert not list((place / "out").glob("*.html"))


def test_a_receipt_that_cannot_be_written_is_the_sessions_failure(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path, _: object) -> None:
        raise WriteError(f"{path}: cannot be written")

    monkeypatch.setattr(receipts, "write_json", refuse)
    report = predict_cohort(make_model(), place / "dataset", place / "out", overwrite=True)
    assert list(report.failures) == list(SESSIONS)
    assert "cannot be written" in report.failures["sub-01"]


ODD = os.fsdecode(b"caf\xe9")  # of Latin-1: not UTF-8


@pytest.mark.parametrize("odd", ["an input", "the data set", "the output"])
def test_names_that_are_not_utf8_are_written_and_found_again(place: Path, odd: str):
    root, out = place / "dataset", place / "new"
    if odd == "an input":
        for scan in root.glob("sub-*/anat/*_T1w.nii.gz"):
            scan.rename(scan.with_name(scan.name.replace("_T1w", f"_acq-{ODD}_T1w")))
    elif odd == "the data set":
        root = root.rename(place / ODD)
    else:
        out = place / ODD
    for kept in ((), SESSIONS):
        report = predict_cohort(make_model(), root, out, pages=True)
        assert (tuple(report.written), report.kept, report.failures) == (SESSIONS, kept, {})
    page = (out / "sub-01.html").read_text(encoding="utf-8")
    assert ("acq-caf\\udce9_T1w" in page) == (odd == "an input")
    (name, *_) = json.loads((out / f"{FLAIR}.json").read_text(encoding="utf-8"))["Sources"]
    assert (root / name.removeprefix("bids:source:")).is_file()


def test_a_single_file_may_have_names_that_are_not_utf8(place: Path):
    anat = place / "dataset/sub-01/anat"
    scans = {name: anat / f"sub-01_{name}w.nii.gz" for name in ("T1", "T2")}
    scans["T1"] = scans["T1"].rename(anat / f"{ODD}.nii.gz")
    out = place / f"{ODD}.nii.gz"
    page = derivatives.at_file(out).page
    predict_session(make_model(), scans, out, None, page=page)
    assert json.loads(bids.sidecar(out).read_text())["Sources"] == [*map(str, scans.values())]
    assert "caf\\udce9.nii.gz</title>" in page.read_text(encoding="utf-8")


def test_the_command_reports_finished_sessions(place: Path, capsys: pytest.CaptureFixture[str]):
    save_model(place / "run/fold-0", make_model())
    command = ["predict", str(place / "dataset"), str(place / "out"), "participant"]
    command += ["--model", str(place / "run"), "--no-page"]
    assert main(command) == 0
    assert "2 of 2 sessions were predicted already" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--overwrite"]) == 0
    assert "already" not in capsys.readouterr().out
