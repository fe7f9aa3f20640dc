"""State of a run: changes of its configuration, data set, folds or folder are detected."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from flaxflair.config import Config
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.models.saving import load_model
from flaxflair.pipelines.cross_validation import run
from flaxflair.pipelines.run_state import occupied
from flaxflair.visualization.session_page import write_run_page
from tests.disks import unprivileged


def config() -> Config:
    config = Config(method="least_squares")
    config.data.inputs, config.folds.count = ("T1", "T2"), 2
    return config


@pytest.fixture(scope="module")
def begun(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, and a run on it whose first fold is done."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(phantom, folder / "data")
    run(config(), folder / "run", folder / "data", folds=[0])
    return folder


@pytest.fixture
def place(begun: Path, tmp_path: Path) -> Path:
    """A copy of that folder, for one test."""
    for name in ("data", "run"):
        shutil.copytree(begun / name, tmp_path / name)
    for name in ("config.json", "derivative/dataset_description.json"):
        path = tmp_path / "run" / name
        path.write_text(path.read_text().replace(str(begun), str(tmp_path)))
    return tmp_path


def image(data: Path, name: str) -> Path:
    return next(
        path for folder in ("sub-*", "derivatives") for path in data.glob(f"{folder}/**/{name}")
    )


def add_participant(data: Path) -> None:
    shutil.copytree(data / "sub-01", data / "sub-99")
    for path in list((data / "sub-99").rglob("sub-01*")):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-99")))
    with open(data / "participants.tsv", "a", encoding="utf-8") as table:
        table.write("sub-99\tMS\n")


def change_voxel(name: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = image(data, name)
        volume = read_volume(path)
        array = np.array(volume.array)
        array[0, 0, 0] += 1
        write_volume(path, array, volume.geometry.affine)

    return change


def move(data: Path) -> None:
    path = image(data, "sub-02_*T1w.nii.gz")
    volume = read_volume(path)
    write_volume(path, volume.array, volume.geometry.affine + 1e-4)


def regroup(data: Path) -> None:
    path = data / "participants.tsv"
    path.write_text(path.read_text().replace("sub-01\tMS", "sub-01\tHC"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_participant, "sub-99 was added"),
        (lambda data: shutil.rmtree(data / "sub-03"), "sub-03 was removed"),
        (change_voxel("sub-02_*T1w.nii.gz"), "sub-02_.*T1w.nii.gz has changed"),
        (change_voxel("sub-02_*preproc_FLAIR.nii.gz"), "preproc_FLAIR.nii.gz has changed"),
        (change_voxel("sub-02_*brain_mask.nii.gz"), "brain_mask.nii.gz has changed"),
        (change_voxel("sub-02_*lesion_mask.nii.gz"), "truth.*lesion_mask.nii.gz has changed"),
        (
            lambda data: image(data, "sub-02_*lesion_mask.nii.gz").unlink(),
            "mask.nii.gz was removed",
        ),
        (move, "T1w.nii.gz has changed"),
        (regroup, "sub-01 is of group 'HC' instead of 'MS'"),
    ],
)
def test_a_run_with_changed_data_is_refused_with_the_changes(
    change: Callable[[Path], None], message: str, place: Path
):
    change(place / "data")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (place / "run").rglob("*"))
    with pytest.raises(
        InputError, match=rf"run: the data set has changed .*{message}.*; restore it"
    ):
        run(config(), place / "run", place / "data")
    assert before == sorted((p.name, p.stat().st_mtime_ns) for p in (place / "run").rglob("*"))


def test_the_page_of_a_run_with_changed_data_is_refused(place: Path):
    write_run_page(place / "run", place / "page.html")
    for path in (place / "data").glob("sub-*/anat/*preproc_FLAIR.nii.gz"):
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"data: has changed since .*run read it \(sub-.*FLAIR"):
        write_run_page(place / "run", place / "other.html")
    assert not (place / "other.html").exists()


def test_a_folder_without_write_permission_gives_one_sentence():
    with tempfile.TemporaryDirectory() as name:  # reachable by other users, unlike `tmp_path`
        Path(name).chmod(0o555)
        taken = pytest.raises(WriteError, match=f"{name}: cannot be written to .*; name another")
        with unprivileged(), taken, occupied(Path(name)):
            pass


def test_unused_files_may_change(place: Path):
    for name in ("sub-01_*PDw.nii.gz", "sub-02_*T1w.json"):
        image(place / "data", name).unlink()
    assert run(config(), place / "run", place / "data")["folds"] == [0, 1]


def test_folds_are_not_drawn_again(place: Path, monkeypatch: pytest.MonkeyPatch):
    before = (place / "run/folds.json").read_text()

    def draw(*_: object) -> None:
        raise AssertionError("folds were drawn anew")

    monkeypatch.setattr("flaxflair.pipelines.run_state.make_folds", draw)
    run(config(), place / "run", place / "data")
    assert (place / "run/folds.json").read_text() == before


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("folds.json", lambda stored: None, "folds.json: is missing, so the held-out participants"),
        ("folds.json", lambda stored: "[", "folds.json: is not JSON"),
        ("folds.json", lambda stored: [], "folds.json: holds no JSON object"),
        ("folds.json", lambda stored: {**stored, "read": None}, "lacks held-out participants"),
        (
            "folds.json",
            lambda stored: {**stored, "heldout": [["sub-01"]]},
            "lacks held-out participants",
        ),
        (
            "folds.json",
            lambda stored: {"heldout": stored["heldout"]},
            "lacks held-out participants",
        ),
        ("config.json", lambda stored: "{", "config.json: is not JSON"),
        ("config.json", lambda stored: {"config": 3}, "config.json: is not a configuration"),
        ("config.json", lambda stored: {**stored, "source": None}, "holds a run of another"),
    ],
)
def test_damaged_state_gives_one_sentence(
    name: str, spoil: Callable[[Any], Any], message: str, place: Path
):
    path = place / "run" / name
    spoilt = spoil(json.loads(path.read_text()))
    if spoilt is None:
        path.unlink()
    else:
        path.write_text(spoilt if isinstance(spoilt, str) else json.dumps(spoilt))
    with pytest.raises(InputError, match=message):
        run(config(), place / "run", place / "data")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "scores.json"])
def test_a_fold_without_model_or_scores_is_repeated(name: str, place: Path):
    fold = place / "run/fold-0"
    whole = (fold / "model.safetensors").read_bytes()
    (fold / name).unlink()
    run(config(), place / "run", place / "data", folds=[0])
    load_model(place / "run", 0)
    assert (fold / "model.safetensors").read_bytes() == whole
    assert (fold / "scores.json").is_file()


def test_a_fold_whose_model_is_damaged_is_refused(place: Path):
    path = place / "run/fold-0/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"model\.safetensors: is damaged"):
        run(config(), place / "run", place / "data")


def _occupy(workdir: Path, inside: Any, leave: Any) -> None:
    with occupied(workdir):
        inside.set()
        leave.wait(60)


def test_a_second_process_in_a_workdir_is_refused_with_the_first(place: Path):
    context = multiprocessing.get_context("spawn")
    inside, leave = context.Event(), context.Event()
    first = context.Process(target=_occupy, args=(place / "run", inside, leave))
    first.start()
    assert inside.wait(60)
    with pytest.raises(InputError, match=rf"run: in use by process {first.pid} on .* since"):
        run(config(), place / "run", place / "data")
    first.kill()  # a killed process leaves no lock
    first.join()
    assert run(config(), place / "run", place / "data")["folds"] == [0, 1]
    assert not (place / "run/.lock").exists()


@pytest.mark.parametrize("name", ["data", "data/run", "data/sub-01/x", "data/derivatives"])
def test_a_run_in_its_data_set_is_refused(name: str, place: Path):
    before = sorted((place / "data").rglob("*"))
    with pytest.raises(InputError, match=r"is the data set .*data or lies in it; name another"):
        run(config(), place / name, place / "data")
    assert sorted((place / "data").rglob("*")) == before


def test_a_data_set_that_a_run_would_write_is_refused(place: Path):
    (place / "data").rename(place / "derivative")
    with pytest.raises(InputError, match="is the data set"):
        run(config(), place, place / "derivative")


def test_a_run_may_be_a_derivative_of_its_data_set(place: Path):
    assert run(config(), place / "data/derivatives/run", place / "data", folds=[0])["folds"] == [0]
    run(config(), place / "data/derivatives/run", place / "data")


def test_the_folder_of_a_universal_model_is_refused(place: Path):
    (place / "run/config.json").write_text('{"library": {"labels": ""}}')
    with pytest.raises(InputError, match="run: holds the training of a universal model, and"):
        run(config(), place / "run", place / "data")


READ = ("space-FLAIR_desc-preproc_T1w", "space-FLAIR_desc-preproc_T2w", "desc-preproc_FLAIR")


@pytest.mark.parametrize("same", [*READ, "PDw", "every", "none"])
def test_one_image_of_two_participants_is_told_once(
    same: str, place: Path, capsys: pytest.CaptureFixture[str]
):
    data = place / "data"
    for path in [p for p in data.rglob("*sub-01*") if p.is_file()]:
        copy = Path(str(path).replace("sub-01", "sub-99"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    with open(data / "participants.tsv", "a", encoding="utf-8") as table:
        table.write("sub-99\tMS\n")
    for name in READ:
        if same not in (name, "every"):
            change_voxel(f"sub-99_{name}.nii.gz")(data)
    run(config(), place / "new", data, folds=[0], console=Console(width=500))
    lines = [line for line in capsys.readouterr().out.splitlines() if "is also an image of" in line]
    assert len(lines) == (same not in ("PDw", "none"))  # the PD is not read
    assert all("sub-99" in line and "of sub-01, so one head" in line for line in lines)


def test_a_run_that_never_began_leaves_no_folder(place: Path):
    image(place / "data", "sub-02_*T1w.nii.gz").write_bytes(b"damaged")
    with pytest.raises(InputError, match="T1w"):
        run(config(), place / "new/run", place / "data")
    assert not (place / "new/run").exists()
