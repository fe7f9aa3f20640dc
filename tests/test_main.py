"""The main job from end to end, on a tiny cohort: outputs, resuming, refusing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flaxflair
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError
from flaxflair.evaluation.scoring import METRICS
from flaxflair.imaging.orientation import to_native, to_ras
from flaxflair.models.estimators import FittedNetwork
from flaxflair.pipelines.cross_validation import run
from tests.closeness import assert_near
from tests.samples import load_fold, tiny_config

ROOT = Path(__file__).parent.parent
FLAGS = [
    "--config.network.filters=6",
    "--config.network.layers=2",
    "--config.train.optimizer=adam",
    "--config.train.epochs=2",
    "--config.folds.count=3",
    "--inputs=T1,T2,DIR",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One compilation for all the processes that a test starts and kills."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _start(
    phantom: Path, workdir: Path, environment: dict[str, str], *flags: str
) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "flaxflair.main", "--config=configs/fcn64.py"),
        *FLAGS,
        *(f"--config.data.root={phantom}", f"--workdir={workdir}", "--folds=1", *flags),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _events(workdir: Path) -> list[dict]:
    path = workdir / "log.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _wait_for_saves(workdir: Path, process: subprocess.Popen[str], count: int) -> None:
    while process.poll() is None:
        if sum(event["event"] == "saved" for event in _events(workdir)) >= count:
            return
        time.sleep(0.01)


def _parameters(workdir: Path) -> Iterator[np.ndarray]:
    import jax

    fitted = load_fold(workdir, 1).fitted
    assert isinstance(fitted, FittedNetwork)
    yield from map(np.asarray, jax.tree.leaves(fitted.params))


def test_a_run_killed_at_three_random_moments_ends_with_the_same_bits(
    phantom: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = _start(phantom, undisturbed, environment, "--config.save_every_seconds=0")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    moments = random.Random()
    saves = 0
    for _ in range(3):
        process = _start(phantom, killed, environment, "--config.save_every_seconds=0")
        # Somewhere in the next two of the eight steps, mostly in the middle of a save.
        saves += moments.randint(1, 2)
        _wait_for_saves(killed, process, saves)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.communicate()
        saves = sum(event["event"] == "saved" for event in _events(killed))
    assert not (killed / "fold-1" / "scores.json").exists()
    process = _start(phantom, killed, environment, "--config.save_every_seconds=0")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert any(event["event"] == "resumed" for event in _events(killed))
    pairs = zip(_parameters(killed), _parameters(undisturbed), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)
    ours, theirs = (
        json.loads((workdir / "summary.json").read_text())["methods"]
        for workdir in (killed, undisturbed)
    )
    assert ours == theirs


def test_sigterm_saves_and_the_same_command_resumes(
    phantom: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    flags = (
        "--config.train.epochs=1000",
        "--config.stop.patience=0",
        "--config.save_every_seconds=0",
    )
    process = _start(phantom, tmp_path, environment, *flags)
    _wait_for_saves(tmp_path, process, 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "saved after step" in output
    assert "Traceback" not in output
    last = [event for event in _events(tmp_path) if event["event"] == "saved"][-1]
    process = _start(phantom, tmp_path, environment, *flags)
    _wait_for_saves(tmp_path, process, sum(e["event"] == "saved" for e in _events(tmp_path)) + 1)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    resumed = [event for event in _events(tmp_path) if event["event"] == "resumed"]
    assert resumed[0]["step"] == last["step"]


def test_a_run_writes_summary_folds_models_images_and_a_log(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["methods"]) == {"fcn", "least_squares"}
    for scores in summary["methods"].values():
        assert set(METRICS) == set(scores)
        for metric in scores.values():
            assert {"mean", "sd", "folds"} <= set(metric)
            assert len(metric["folds"]) == 3
    assert summary["truth"]["ratio1"]["mean"] > 1
    assert summary["truth"]["noise_mse"]["mean"] > 0
    assert summary["seconds"] > 0
    assert summary["machine"]["versions"]["jax"]
    folds = json.loads((finished / "folds.json").read_text())
    assert sorted(name for fold in folds["heldout"] for name in fold) == [
        f"sub-{number:02d}" for number in range(1, 7)
    ]
    for region in ("volume", "white matter", "ventricles", "lesions"):
        assert sum(summary["saliency"][region].values()) == pytest.approx(1)
    events = [event["event"] for event in _events(finished)]
    assert events.count("epoch") == 6
    assert events.count("scored") == 3


def test_synthetic_flairs_are_on_the_subjects_grid_with_a_sidecar(
    finished: Path, phantom: Path
) -> None:
    for number in range(1, 7):
        name = f"sub-{number:02d}"
        synthetic = finished / "derivative" / name / "anat" / f"{name}_desc-synth_FLAIR.nii.gz"
        truth = phantom / name / "anat" / f"{name}_desc-preproc_FLAIR.nii.gz"
        ours, theirs = flaxflair.read_volume(synthetic), flaxflair.read_volume(truth)
        assert ours.geometry.matches(theirs.geometry)
        sidecar = json.loads(synthetic.with_name(f"{name}_desc-synth_FLAIR.json").read_text())
        assert len(sidecar["Sources"]) == 3
        assert name not in sidecar["Model"]["Training"]


def test_a_finished_run_is_loaded_and_predicts_what_it_wrote(finished: Path, phantom: Path) -> None:
    folds = json.loads((finished / "folds.json").read_text())["heldout"]
    model = load_fold(finished, fold=2)
    subject = next(
        s for s in flaxflair.load_cohort(phantom, model.sequences) if s.participant in folds[2]
    )
    name = subject.name
    path = finished / "derivative" / name / "anat" / f"{name}_desc-synth_FLAIR.nii.gz"
    written = to_ras(flaxflair.read_volume(path))
    whole = flaxflair.predict_array(model, subject.images)
    streamed = flaxflair.predict_array(model, subject.images, tile_voxels=900)
    assert_near(whole, written.array)
    assert_near(streamed, whole)


def test_files_are_predicted_on_their_grid(finished: Path, phantom: Path, tmp_path: Path) -> None:
    model = load_fold(finished, fold=0)
    subject = flaxflair.load_cohort(phantom, model.sequences)[0]
    files = {
        name: phantom / source
        for name, source in zip(model.sequences, subject.sources, strict=False)
    }
    out = tmp_path / "flair.nii.gz"
    brain = phantom / "sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"

    def predict(files: dict[str, Path], out: Path, brain: Path | None) -> flaxflair.Volume:
        return flaxflair.predict_session(model, files, out, None, brain=brain)[0]

    volume = predict(files, out, brain)
    assert subject.native is not None
    assert volume.geometry.matches(subject.native)
    np.testing.assert_array_equal(flaxflair.read_volume(out).array, volume.array)
    expected = to_native(flaxflair.predict(model, subject).array, subject)
    np.testing.assert_array_equal(volume.array, expected.array)
    sidecar = json.loads((tmp_path / "flair.json").read_text())
    assert sidecar["Sources"] == [str(files[name]) for name in model.sequences]
    with pytest.raises(WriteError, match="is one of the inputs"):
        predict(files, files["T1"], brain)
    with pytest.raises(InputError, match="no file for DIR"):
        predict({k: v for k, v in files.items() if k != "DIR"}, out, brain)
    with pytest.raises(InputError, match="has no brain mask and its images are not brain-extr"):
        predict(files, tmp_path / "none.nii.gz", None)
    assert not (tmp_path / "none.nii.gz").exists()


def test_a_second_run_computes_nothing(finished: Path, phantom: Path) -> None:
    before = (finished / "fold-0" / "scores.json").stat().st_mtime_ns
    again = run(tiny_config(), finished, phantom)
    assert (finished / "fold-0" / "scores.json").stat().st_mtime_ns == before
    assert again == json.loads((finished / "summary.json").read_text())


def test_another_configuration_is_refused_in_the_same_folder(finished: Path, phantom: Path) -> None:
    config = tiny_config()
    config.train.learning_rate = 0.1
    with pytest.raises(InputError, match=r"train.learning_rate: 0\.1 instead of 0\.0005"):
        run(config, finished, phantom)


def test_a_fold_that_does_not_exist_is_refused(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fold 7 asked for; there are folds 0 to 2"):
        run(tiny_config(), tmp_path, phantom, folds=[7])


def test_a_network_too_narrow_to_start_linear_is_refused(phantom: Path, tmp_path: Path) -> None:
    config = tiny_config()
    config.network.init, config.network.filters = "least_squares", 5
    with pytest.raises(InputError, match="5 filters cannot start as a linear map of 3 sequences"):
        run(config, tmp_path, phantom)


def test_a_fold_is_independent_of_the_other_folds_run(
    finished: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny_config(), Path("relative/run"), phantom, folds=[2])
    ours, theirs = (
        json.loads((workdir / "fold-2" / "scores.json").read_text())["methods"]
        for workdir in (tmp_path / "relative/run", finished)
    )
    assert ours == theirs


@pytest.mark.parametrize("field", ["network.name", "train.optimizer"])
def test_an_unknown_name_is_refused(phantom: Path, tmp_path: Path, field: str) -> None:
    config = tiny_config()
    section, name = field.split(".")
    setattr(getattr(config, section), name, "none")
    with pytest.raises(InputError, match=f"config.{field} is 'none'; choose from"):
        run(config, tmp_path, phantom)


def test_the_honest_variant_monitors_a_participant_outside_its_training_set(
    phantom: Path, tmp_path: Path
) -> None:
    config = tiny_config()
    config.stop.monitor = "training"
    run(config, tmp_path, phantom, folds=[0])
    fold = next(event for event in _events(tmp_path) if event["event"] == "fold")
    assert len(fold["training"]) == 3
    assert not set(fold["training"]) & set(fold["heldout"])


UNUSABLE = [
    (["--config.data.root=/none"], "/none: no such folder"),
    (["--inputs=T1,FLAIR"], "unknown input sequence 'FLAIR'"),
    (["--folds=a"], "'a' is not the number of a fold"),
    (["--folds=0,²"], "'²' is not the number of a fold"),
    (["--folds=0,,1"], "'' is not the number of a fold"),
    (["--folds=-1"], "'-1' is not the number of a fold"),
    (["--folds="], "--folds is empty"),
    (["--config.folds.seed=-1"], "config.folds.seed is -1; it must be from 0 to"),
    (["--config.network.dtype=float64"], "config.network.dtype is 'float64'"),
    (["--config.stop.watch=none"], "config.stop.watch is now config.stop.monitor"),
    (["--config.train.epoch=3"], "no field config.train.epoch; the nearest is config.train.epochs"),
    (["--config.train=3"], "there is no field config.train; the nearest is config."),
    (["--config.train.epochs=three"], "--config.train.epochs=three: invalid literal"),
    (["--no-such-flag"], "Unknown command line flag 'no-such-flag'"),
    (["--config=none.py"], "No such file or directory: 'none.py'"),
    (["--config=configs/fcn64.py:fast"], "no variant 'fast'"),
    (
        ["--config=former.py"],
        "--config: StopConfig has no field 'watch'; it is now config.stop.monitor",
    ),
    (["--config=raises.py"], "--config: division by zero"),
    (["--config=empty.py"], "has no attribute 'get_config'"),
    (["--config.data.inputs=(3,)"], "unknown input sequence '3'"),
]


@pytest.mark.parametrize(("flags", "sentence"), UNUSABLE, ids=[" ".join(f) for f, _ in UNUSABLE])
def test_unusable_flags_give_one_sentence(flags: list[str], sentence: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    head = "from flaxflair.config import Config\n"
    (tmp_path / "former.py").write_text(
        f"{head}def get_config(_=''):\n    config = Config()\n    config.stop.watch = 'none'\n"
    )
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "empty.py").write_text("")
    if not flags[0].startswith("--config="):
        flags = ["--config=configs/fcn64.py", f"--config.data.root={tmp_path}", *flags]
    result = subprocess.run(
        [sys.executable, "-m", "flaxflair.main", f"--workdir={tmp_path / 'run'}", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert sentence in result.stderr
    assert result.stderr.startswith("flaxflair: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_second_start_compiles_nothing(phantom: Path, tmp_path: Path):
    cache = tmp_path / "compiled"
    kept = []
    for name in ("first", "second"):
        process = _start(
            phantom, tmp_path / name, os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        )
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        kept.append({path.name for path in cache.glob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]


@pytest.mark.parametrize("way", ["folds.at_once=2", "mesh.space=2", "train.call=epoch"])
def test_two_devices_or_whole_epochs_end_with_the_same_scores(
    way: str, phantom: Path, finished: Path, tmp_path: Path, environment: dict[str, str]
):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [
        *(sys.executable, "-W", "error::DeprecationWarning:jax"),
        *("-m", "flaxflair.main", "--config=configs/fcn64.py", *FLAGS, f"--config.{way}"),
        *(f"--config.data.root={phantom}", f"--workdir={tmp_path}", "--folds=0,1"),
        "--config.normalization.statistics=training",
    ]
    subprocess.run(command, cwd=ROOT, env=environment | devices, check=True, timeout=300)
    for fold in (0, 1):
        ours, theirs = (
            json.loads((folder / f"fold-{fold}" / "scores.json").read_text())["methods"]["fcn"]
            for folder in (tmp_path, finished)
        )
        for one, other in zip(ours, theirs, strict=True):
            assert one["mse"] == pytest.approx(other["mse"], rel=1e-3)
