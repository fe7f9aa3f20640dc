"""Training of a universal model: it goes on where it was cut off, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console

from flaxflair.config.universal import UniversalConfig, validate
from flaxflair.configs.universal import get_config
from flaxflair.core.records import InputError
from flaxflair.io.bids import write_json
from flaxflair.models.saving import UNIVERSAL_FILE, load_model
from flaxflair.models.universal import UniversalModel
from flaxflair.pipelines import universal, universal_sources
from flaxflair.pipelines.universal_sources import expect_window, open_or_make_sources
from flaxflair.simulation.generator.anatomies import Library
from flaxflair.simulation.generator.storage import open_library, save_library
from flaxflair.training.real_windows import RealSession, make_session
from flaxflair.training.universal_batches import Source, make_batch, simulate_ahead
from tests.samples import ball
from tests.simulation.test_generator import library  # noqa: F401  (a fixture)
from tests.simulation.test_library import MASK, PRIOR, SHAPES, whole  # noqa: F401  (a fixture)

CONSOLE = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def files(
    whole: Path,  # noqa: F811
    library: Library,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with label maps and lesions, for one test, read in no time as a small library."""
    shutil.copytree(whole, tmp_path / "files")
    monkeypatch.setattr(universal_sources, "load_library", lambda *_: library)
    return tmp_path / "files"


@pytest.fixture(scope="module")
def session() -> RealSession:
    return make_session(ball((2.0, 2.0, 2.0)))


@pytest.fixture
def unread(session: RealSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sessions of any content: a session of a ball is stored in place of each."""
    monkeypatch.setattr(universal_sources, "load_session", lambda _: None)
    monkeypatch.setattr(universal_sources, "make_session", lambda _: session)


def tiny(steps: int, files: Path) -> UniversalConfig:
    config = get_config("tiny")
    config.train.steps = steps
    for name in ("labels", "shapes", "masks"):
        setattr(config.library, name, str(files / name))
    return validate(config)


def write_real(root: Path, participants: Sequence[str] = ("sub-01", "sub-02")) -> Path:
    for name in participants:
        (root / name / "anat").mkdir(parents=True)
        for suffix in ("T1w", "T2w", "FLAIR"):
            (root / name / "anat" / f"{name}_{suffix}.nii.gz").write_text(name + suffix)
    description = {"Name": "unread", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    write_json(root / "dataset_description.json", description)
    return root


def with_real(files: Path, *roots: Path, without: tuple[str, ...] = ()) -> UniversalConfig:
    config = tiny(1, files)
    config.real.roots, config.real.without = tuple(map(str, roots)), without
    config.train.real = 1
    return validate(config)


def sources_of(config: UniversalConfig, workdir: Path, *, begun: bool = False) -> list[str]:
    """Returns the names of the real sessions that a training reads."""
    workdir.mkdir(exist_ok=True)
    _, sessions = open_or_make_sources(config, workdir, CONSOLE, begun=begun)
    return [folder.name for folder in sessions]


def test_a_training_cut_off_and_resumed_ends_with_the_same_weights(tmp_path, files, capsys):
    undisturbed = universal.train(tiny(4, files), tmp_path / "whole", CONSOLE)
    parts = tmp_path / "parts"
    universal.train(tiny(2, files), parts, CONSOLE)
    resumed = universal.train(tiny(4, files), parts, CONSOLE)
    assert int(resumed.step) == 4
    (parts / UNIVERSAL_FILE).unlink()  # as if killed before it was written
    for steps in (4, 3):
        again = universal.train(tiny(steps, files), parts, Console(width=500))
        message = f"{parts / UNIVERSAL_FILE}: is finished, with 4 steps done of {steps}"
        assert message in capsys.readouterr().out
        assert int(again.step) == 4
        load_model(parts)
    for a, b in zip(jax.tree.leaves(undisturbed), jax.tree.leaves(resumed), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_processes(workers, tmp_path, library):  # noqa: F811
    save_library(tmp_path / "library", library)
    source = Source(tmp_path / "library", 3, 16, 2, 2)
    with simulate_ahead(source, 5, workers) as batches:
        ahead = [next(batches) for _ in range(3)]
    for step, batch in enumerate(ahead, start=5):
        expected = make_batch(open_library(tmp_path / "library"), [], source, step)
        for a, b in zip(batch, expected, strict=True):
            assert_allclose(np.asarray(a), np.asarray(b))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("without", "left"),
    [
        (("sub-01",), ["a_sub-02", "b_sub-02", "b_sub-03"]),
        (("01",), ["a_sub-02", "b_sub-02", "b_sub-03"]),
        (("b/sub-02", "a/01"), ["a_sub-02", "b_sub-01", "b_sub-03"]),
        (("03",), ["a_sub-01", "a_sub-02", "b_sub-01", "b_sub-02"]),
    ],
)
def test_a_participant_is_left_out_by_any_form_of_its_name(without, left, tmp_path, files):
    a = write_real(tmp_path / "a")
    b = write_real(tmp_path / "b", ("sub-01", "sub-02", "sub-03"))
    config = with_real(files, a, b, without=without)
    assert sources_of(config, tmp_path / "run") == left


@pytest.mark.parametrize("label", ["04", "sub-04", "c/sub-01", "a/03", "", "sub-1", "01,02"])
def test_a_label_of_no_participant_is_refused(label, tmp_path, files):
    config = with_real(files, write_real(tmp_path / "a"), without=("01", label))
    with pytest.raises(InputError, match=rf"names '{label}', .* there are a/sub-01, a/sub-02"):
        sources_of(config, tmp_path / "run")


def test_data_sets_of_one_name_are_refused(tmp_path, files):
    roots = [write_real(tmp_path / place / "data") for place in ("one", "two")]
    with pytest.raises(InputError, match=r"two/data: is named as .*one/data"):
        sources_of(with_real(files, *roots), tmp_path / "run")


def _touch(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: _touch(at / "files/labels/seg.nii.gz"), r"seg\.nii\.gz has changed"),
        (lambda at: _touch(at / "files" / SHAPES), "lesion_shapes.npz has changed"),
        (lambda at: _touch(at / "files" / PRIOR), "prior_space-MNI152.nii.gz has changed"),
        (
            lambda at: shutil.copy(at / "files" / MASK, at / "files/masks/new_lesion_mask.nii.gz"),
            "new_lesion_mask.nii.gz was added",
        ),
        (
            lambda at: _touch(at / "data/sub-01/anat/sub-01_FLAIR.nii.gz"),
            "FLAIR.nii.gz has changed",
        ),
        (lambda at: (at / "data/sub-01/anat/sub-01_T1w.json").write_text("{}"), "json was added"),
        (lambda at: write_real(at / "data", ("sub-03",)), "real/data_sub-03 was added"),
        (lambda at: shutil.rmtree(at / "data/sub-02"), "real/data_sub-02 was removed"),
    ],
)
def test_a_training_whose_sources_have_changed_is_refused(change, message, tmp_path, files):
    config = with_real(files, write_real(tmp_path / "data"))
    assert sources_of(config, tmp_path / "run") == ["data_sub-01", "data_sub-02"]
    before = (tmp_path / "run/library/lesions/masks.npy").stat().st_mtime_ns
    assert len(sources_of(config, tmp_path / "run", begun=True)) == 2
    assert (tmp_path / "run/library/lesions/masks.npy").stat().st_mtime_ns == before
    change(tmp_path)
    with pytest.raises(InputError, match=f"run: what the training reads has changed .*{message}"):
        sources_of(config, tmp_path / "run", begun=True)
    # Nothing was learned yet: what has changed is read again.
    sources_of(config, tmp_path / "run")
    sources_of(config, tmp_path / "run", begun=True)


@pytest.mark.usefixtures("unread")
def test_a_training_without_digests_is_resumed_with_a_warning(tmp_path, files, capsys):
    config = with_real(files, write_real(tmp_path / "data"))
    sources_of(config, tmp_path / "run")
    (tmp_path / "run/sources.json").unlink()
    open_or_make_sources(config, tmp_path / "run", Console(width=500), begun=True)
    assert "sources.json: is missing, so changes" in capsys.readouterr().out


def test_another_configuration_of_the_same_folder_is_refused(tmp_path, files):
    workdir = tmp_path / "run"
    universal.train(tiny(1, files), workdir, CONSOLE)
    other = tiny(1, files)
    other.train.learning_rate = 0.5
    with pytest.raises(InputError, match=r"train\.learning_rate 0\.0015 and 0\.5"):
        universal.train(other, workdir, CONSOLE)


def test_the_folder_of_a_cross_validation_is_refused(tmp_path, files):
    write_json(tmp_path / "folds.json", {})
    with pytest.raises(InputError, match="holds a cross-validation, and the training of a univ"):
        universal.train(tiny(1, files), tmp_path, CONSOLE)


@pytest.mark.usefixtures("unread")
def test_a_window_larger_than_a_session_or_head_is_refused(session, tmp_path, files):
    config = with_real(files, write_real(tmp_path / "data"))
    size = min(session.brain.shape)
    folder, sessions = open_or_make_sources(config, tmp_path, CONSOLE, begun=False)
    expect_window(min(size, 96), folder, sessions)
    with pytest.raises(InputError, match=rf"window is 400, and .* has {min(size, 96)} voxels"):
        expect_window(400, folder, sessions)
    with pytest.raises(InputError, match=r"window is 97, and a head of .*library has 96 voxels"):
        expect_window(97, folder, [])
    config.train.window = 400
    with pytest.raises(InputError, match=r"config\.train\.window is 400"):
        universal.train(config, tmp_path / "run", CONSOLE)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", ["data", "data/run", "data/sub-01"])
def test_a_folder_in_a_data_set_that_is_read_is_refused(name, tmp_path, files):
    config = with_real(files, write_real(tmp_path / "data"))
    before = sorted((tmp_path / "data").rglob("*"))
    with pytest.raises(InputError, match=r"is the data set .* or lies in it; name another"):
        universal.train(config, tmp_path / name, CONSOLE)
    assert sorted((tmp_path / "data").rglob("*")) == before


@pytest.mark.parametrize("saving", [0.0, 1e9])  # after each step, and only at the end
def test_weights_that_diverge_are_not_saved(saving, tmp_path, files):
    config = tiny(6, files)
    config.train.learning_rate, config.train.optimizer = 1e30, "adamw"
    config.save_every_seconds = saving
    with pytest.raises(InputError, match=r"run: step \d: loss or weights are not finite"):
        universal.train(config, tmp_path / "run", CONSOLE)
    if (path := tmp_path / "run" / UNIVERSAL_FILE).exists():
        load_model(path)  # refuses weights that are not finite
    assert path.exists() == (saving == 0)
    assert "NaN" not in (tmp_path / "run/log.jsonl").read_text()


def test_a_command_that_could_not_read_its_folders_binds_no_later_one(tmp_path, files):
    mistyped = tiny(1, files)
    mistyped.library.masks = str(files / "labels")
    with pytest.raises(InputError, match="holds no lesion mask"):
        universal.train(mistyped, tmp_path / "run", CONSOLE)
    assert int(universal.train(tiny(1, files), tmp_path / "run", CONSOLE).step) == 1


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("library.labels", "", "name the folder"),
        ("train.steps", 0, "at least 1"),
        ("train.window", 20, "a multiple of 8"),
        ("train.learning_rate", 0.0, "above 0"),
        ("train.learning_rate", float("inf"), "finite"),
        ("train.seed", -1, "from 0 to"),
        ("train.seed", 2**32, "from 0 to"),
        ("train.cooldown", 10**9, "from 0 to"),
        ("network.widths", (), "filters of each level"),
        ("network.reduction", 3, "choose 1 or 2"),
        ("network.convolutions", 0, "at least 1"),
        ("network.dtype", "float8", "choose from"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(path, value, sentence):
    config = dataclasses.replace(get_config())
    for name in ("labels", "shapes", "masks"):
        setattr(config.library, name, "somewhere")
    record, _, name = path.partition(".")
    setattr(getattr(config, record), name, value)
    with pytest.raises(InputError, match=sentence) as raised:
        validate(config)
    assert f"config.{path}" in str(raised.value)


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="no variant"):
        get_config("large")


def test_a_scale_is_trained_and_the_flair_of_its_model_stays(tmp_path, files):
    universal.train(tiny(1, files), tmp_path / "flair", CONSOLE)
    start = tmp_path / "flair" / UNIVERSAL_FILE
    config = tiny(2, files)
    config.train.target, config.train.start = "scale", str(start)
    universal.train(validate(config), tmp_path / "scale", CONSOLE)
    before, after = load_model(start), load_model(tmp_path / "scale")
    assert isinstance(before, UniversalModel)
    assert isinstance(after, UniversalModel)
    assert before.scale is None
    assert after.scale is not None
    assert after.scale.calibration is None
    assert after.about == before.about
    jax.tree.map(assert_array_equal, after.params, before.params)
    again = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=3))
    again.train.start = str(tmp_path / "scale" / UNIVERSAL_FILE)  # goes on from its scale
    universal.train(validate(again), tmp_path / "again", CONSOLE)


@pytest.mark.parametrize(
    ("target", "start", "message"),
    [("flare", "", "config.train.target is 'flare'"), ("scale", "", "config.train.start")],
)
def test_a_scale_without_a_model_is_refused(files, target: str, start: str, message: str):
    config = tiny(1, files)
    config.train.target, config.train.start = target, start
    with pytest.raises(InputError, match=message):
        validate(config)
