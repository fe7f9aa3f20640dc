"""Adaptation of a universal model: resumed exactly, never worse, each refusal in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from rich.console import Console
from scipy.ndimage import gaussian_filter

from flaxflair.cli import main
from flaxflair.config.adaptation import Adaptation
from flaxflair.config.universal import ConditionalConfig
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError, Subject
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation.metrics import nmse_fit
from flaxflair.imaging.standard import standardize
from flaxflair.models.saving import digest_model, export_model, load_model
from flaxflair.models.universal import UniversalModel, make_network
from flaxflair.networks.network import ConditionalNetwork
from flaxflair.pipelines import adapt as adaptation
from flaxflair.pipelines import adapt_scoring, adapt_sessions
from flaxflair.pipelines.adapt import Outcome, adapt
from flaxflair.pipelines.adapt_scoring import fit_linear, from_json, mean_errors, to_json
from flaxflair.pipelines.adapt_sessions import Selection, choose_preparation
from flaxflair.pipelines.universal_fit import run_steps
from flaxflair.preprocessing.options import DEFAULTS, Preparation
from flaxflair.runtime.sessions import Report
from flaxflair.runtime.signals import Interrupted
from flaxflair.training.averaging import SHARES, Errors
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.real_windows import make_session
from flaxflair.training.universal_step import SynthesisState
from tests.samples import ball, draw_params

pytestmark = pytest.mark.usefixtures("quick_compile")
TINY = ConditionalConfig(widths=(4, 6), convolutions=1, fine=3)
QUICK = Adaptation(steps=4, windows=1, window=16)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in a file, untrained."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    network = make_network(TINY)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = draw_params(network._replace(init=lambda _: shapes))  # type: ignore[arg-type]
    about = {"Steps": 7, "Licence": "none", "Warning": "untrained"}
    export_model(UniversalModel(TINY, network, params, about), path)
    return path


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step that is compiled in no time, and depends on state, batch and step."""

    def make(network: ConditionalNetwork, optimizer: optax.GradientTransformation):
        def step(state: SynthesisState, batch: SynthesisBatch):
            change = 0.1 * float(np.mean(batch.images)) + 0.01 * float(state.step)
            params = jax.tree.map(lambda leaf: leaf * np.float32(1 + change), state.params)
            return state._replace(params=params, average=params, step=state.step + 1), {}

        return step

    monkeypatch.setattr(adaptation, "make_synthesis_step", make)


@pytest.fixture
def data(write_dataset: Callable[..., Path]) -> Path:
    """A prepared data set of three participants, of whom the last has no T2."""
    return write(write_dataset, "sub-01", "sub-02", "sub-03")


def write(write_dataset: Callable[..., Path], *names: str, flair: bool = True) -> Path:
    subject = smooth_ball()
    assert subject.flair is not None
    root = Path()
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).normal(1, 0.03, subject.images.shape)
        scans = {"T1w": 0, "T2w": 1} if name != "sub-03" else {"T1w": 0}
        images = {
            f"{name}_{suffix}": (subject.images * noise)[..., channel].astype(np.float32)
            for suffix, channel in scans.items()
        }
        images[f"{name}_desc-brain_mask"] = subject.masks.brain.astype(np.float32)
        if flair:
            images[f"{name}_FLAIR"] = subject.flair * noise[..., 0].astype(np.float32)
        root = write_dataset(images, affine=subject.geometry.affine)
    return root


def smooth_ball() -> Subject:
    """Returns a ball with partial volumes, since images of few levels are refused."""
    subject = ball((2.0, 2.0, 2.0))
    assert subject.flair is not None
    images = gaussian_filter(subject.images, (0.6, 0.6, 0.6, 0))
    return replace(subject, images=images, flair=gaussian_filter(subject.flair, 0.6))


@pytest.fixture
def improving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of which half of the fine-tuned weights have the least, without predictions."""
    fake(monkeypatch, 0.5, {0.25: 0.45, 0.5: 0.3, 1.0: 0.6})


def fake(monkeypatch: pytest.MonkeyPatch, of_before: float, tuned: dict[float, float]) -> None:
    errors = Errors(of_before, tuned, 0.4)
    monkeypatch.setattr(adapt_scoring, "score_session", lambda *_: errors)


def adapt_quickly(data: Path, out: Path, before: Path, console: Console = QUIET) -> Outcome:
    return adapt(Selection(data), out, console, source=before, config=QUICK)


def test_errors_are_those_of_models_that_did_not_see_the_participant(
    data: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def record(state, step, source, plan, event_log):
        seen.append([folder.name for folder in source.sessions])
        return run_steps(state, step, source, plan, event_log)

    monkeypatch.setattr(adaptation, "run_steps", record)
    config = replace(QUICK, steps=20, learning_rate=0.02, optimizer="adamw")
    out = tmp_path / "mine.safetensors"
    outcome = adapt(Selection(data), out, QUIET, source=before, config=config)
    everyone = ["sub-01", "sub-02", "sub-03"]
    assert seen == [everyone[1:], ["sub-01", "sub-03"], everyone[:2], everyone]
    assert outcome.written
    assert outcome.means.after < outcome.means.before
    for errors in outcome.left_out.values():
        assert set(errors.tuned) == set(SHARES)
        assert 0 < errors.least_squares < 1
    adapted, model = load_model(out), load_model(before)
    assert isinstance(adapted, UniversalModel)
    assert isinstance(model, UniversalModel)
    assert adapted.config == model.config
    assert adapted.about.items() >= model.about.items()
    assert adapted.about["AdaptedFrom"] == digest_model(model)
    assert adapted.about["AdaptedShare"] == outcome.share
    assert adapted.about["AdaptedOn"] == "3 sessions of 3 participants"
    assert f"{outcome.means.after:.4f}, before" in adapted.about["AdaptedError"]
    assert not any("sub-0" in str(fact) for fact in adapted.about.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "mine.safetensors"]


@pytest.mark.usefixtures("improving", "uncompiled")
def test_an_adaptation_cut_off_and_resumed_writes_the_same_bytes(
    write_dataset: Callable[..., Path],
    before: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    data = write(write_dataset, "sub-01", "sub-02")
    whole = tmp_path / "whole.safetensors"
    assert adapt_quickly(data, whole, before).share == 0.5
    for cut in range(3):
        resumed = tmp_path / f"resumed-{cut}.safetensors"
        with monkeypatch.context() as patched:
            patched.setattr(adaptation, "run_steps", stop_after(cut))
            with pytest.raises(Interrupted):
                adapt_quickly(data, resumed, before)
        assert not resumed.exists()
        workdir = tmp_path / f"resumed-{cut}.safetensors.work"
        assert len(list(workdir.glob("left-out/*/scores.json"))) == cut
        adapt_quickly(data, resumed, before)
        assert resumed.read_bytes() == whole.read_bytes()
        assert not workdir.exists()


def stop_after(fits: int) -> Callable[..., SynthesisState]:
    """Returns `run_steps`, interrupted in the middle after some whole calls."""
    calls = iter(range(fits + 1))

    def run(state, step, source, plan, event_log):
        if next(calls) < fits:
            return run_steps(state, step, source, plan, event_log)
        run_steps(state, step, source, replace(plan, steps=3), event_log)
        raise Interrupted("saved", 15)

    return run


@pytest.mark.usefixtures("uncompiled")
def test_a_model_that_is_not_better_is_not_written(
    data: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    fake(monkeypatch, 0.2, dict.fromkeys(SHARES, 0.2))
    monkeypatch.setattr("flaxflair.commands.training.Adaptation", lambda **_: QUICK)
    out = tmp_path / "mine.safetensors"
    command = ["adapt", str(data), "--out", str(out), "--model", str(before)]
    assert main(command) == 1
    output = capsys.readouterr()
    assert (
        "is not written, since the adapted model is not better than the initial model" in output.err
    )
    assert "sub-02" in output.out
    assert not out.exists()
    assert not (tmp_path / "mine.safetensors.work/all").exists()  # no step is spent on it


@pytest.mark.usefixtures("uncompiled")
def test_the_command_shows_the_errors_of_each_participant(
    data: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    fake(monkeypatch, 0.5, {0.25: 0.45, 0.5: 0.375, 1.0: 0.6})
    monkeypatch.setattr("flaxflair.commands.training.Adaptation", lambda **_: QUICK)
    out, workdir = tmp_path / "mine.safetensors", tmp_path / "work"
    command = ["adapt", str(data), "--out", str(out), "--model", str(before)]
    command += ["--workdir", str(workdir), "--participant-label", "01", "03"]
    for _ in range(2):  # a finished one is shown again
        assert main(command) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "2 sessions of 2 participants: 3 fine-tunings of 4 steps" in shown
        assert "sub-03 │ 0.5 │ 0.375 │ 0.4" in shown
        assert "adapted model is 25.0% below that of the initial model" in shown
        assert "is 6.2% below that of least squares" in shown
        assert "written, with 50% of the fine-tuned weights" in shown


@pytest.mark.usefixtures("uncompiled")
def test_one_participant_gives_a_cautious_model_that_says_so(
    write_dataset: Callable[..., Path], before: Path, tmp_path: Path, capsys
):
    data, out = write(write_dataset, "sub-01"), tmp_path / "mine.safetensors"
    outcome = adapt_quickly(data, out, before, Console(width=500))
    assert "whether the model improves is not measured" in capsys.readouterr().out
    assert (outcome.share, outcome.written, outcome.left_out) == (0.25, True, {})
    adapted = load_model(out)
    assert isinstance(adapted, UniversalModel)
    assert adapted.about["AdaptedError"].startswith("not measured, since there was one")
    assert digest_model(adapted) != digest_model(load_model(before))


@pytest.mark.usefixtures("improving", "uncompiled")
def test_a_session_that_cannot_be_used_is_reported_and_the_others_continue(
    data: Path, before: Path, tmp_path: Path, capsys
):
    path = data / "sub-02/anat/sub-02_T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    (data / "sub-03/anat/sub-03_FLAIR.nii.gz").unlink()
    outcome = adapt_quickly(data, tmp_path / "mine.safetensors", before, Console(width=500))
    shown = capsys.readouterr().out
    assert f"sub-02 is not used: {path}: the gzip stream is corrupt or cut short" in shown
    assert "1 of 3 sessions are not used: they have no FLAIR" in shown
    assert outcome.left_out == {}  # one participant remains


def test_a_data_set_without_flairs_is_refused(
    write_dataset: Callable[..., Path], before: Path, tmp_path: Path
):
    data = write(write_dataset, "sub-01", flair=False)
    with pytest.raises(InputError, match=r"no session \(1 found\) has a FLAIR and one of T1, T1SE"):
        adapt_quickly(data, tmp_path / "mine.safetensors", before)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.bin", "is written as .safetensors"),
        ("old.safetensors", "old.safetensors: exists; remove it"),
        ("dataset/mine.safetensors", "lies in it; name another --out"),
        ("none/mine.safetensors", "no such folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(
    name: str, message: str, data: Path, before: Path, tmp_path: Path
):
    (tmp_path / "old.safetensors").write_text("of another command")
    with pytest.raises((InputError, WriteError), match=message):
        adapt_quickly(data, tmp_path / name, before)
    assert (tmp_path / "old.safetensors").read_text() == "of another command"


def test_a_model_of_a_cohort_is_refused(data: Path, raw_model: Path, tmp_path: Path):
    with pytest.raises(InputError, match="is not a universal model; omit --model"):
        adapt_quickly(data, tmp_path / "mine.safetensors", raw_model)


@pytest.mark.usefixtures("improving", "uncompiled")
def test_the_folder_of_another_adaptation_is_refused(data: Path, before: Path, tmp_path: Path):
    def run(**changed) -> Outcome:
        config = replace(QUICK, **changed)
        out, workdir = tmp_path / "mine.safetensors", tmp_path / "work"
        return adapt(Selection(data), out, QUIET, source=before, config=config, workdir=workdir)

    run()
    with pytest.raises(InputError, match="work: holds an adaptation that began with steps 4, and "):
        run(steps=5)
    (tmp_path / "work/config.json").write_text("{}")  # as of the training of a universal model
    with pytest.raises(InputError, match="work: holds a training of another kind; name another"):
        run()
    (tmp_path / "work/config.json").unlink()
    path = data / "sub-01/anat/sub-01_T1w.nii.gz"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"what the training reads has changed .*T1w\.nii\.gz"):
        run()


@pytest.mark.parametrize("sessions", [20, 21])
def test_how_the_time_grows_is_pointed_out_for_many_sessions(sessions: int, capsys):
    adaptation._announce(sessions, ["sub-01", "sub-02"], QUICK, Console(width=500))
    shown = capsys.readouterr().out
    assert f"{sessions} sessions of 2 participants: 3 fine-tunings of 4 steps" in shown
    assert ("The time grows with the participants" in shown) == (sessions > 20)


def test_a_session_smaller_than_a_window_is_refused(data: Path, before: Path, tmp_path: Path):
    config = replace(QUICK, window=400)
    with pytest.raises(InputError, match="no session is as large as a window"):
        adapt(Selection(data), tmp_path / "a.safetensors", QUIET, source=before, config=config)


@pytest.mark.parametrize(("flag", "value"), [("--steps", "1"), ("--seed", "-1")])
def test_a_flag_that_cannot_be_is_refused_by_name(
    flag: str, value: str, data: Path, tmp_path: Path, capsys
):
    command = ["adapt", str(data), "--out", str(tmp_path / "a.safetensors"), flag, value]
    assert main(command) == 1
    assert f"{flag} is {value}; it must be" in capsys.readouterr().err


def test_least_squares_needs_a_session_with_the_same_sequences():
    subject = smooth_ball()
    both, standard = make_session(subject), standardize(subject)
    flair = fit_linear(standard, ("T1", "T2"), [both])
    assert flair is not None
    t1 = make_session(replace(subject, sequences=("T1",), images=subject.images[..., :1]))
    assert t1.present.tolist() == [INPUTS.index("T1")]
    assert fit_linear(standard, ("T1", "T2"), [t1]) is None
    one, other = fit_linear(standard, ("T1",), [both]), fit_linear(standard, ("T1",), [t1])
    assert one is not None
    assert other is not None
    assert_allclose(one, other, atol=0.1)  # the levels are estimated from both sequences
    of_both, of_one = (nmse_fit(each, both.flair, standard.brain) for each in (flair, one))
    assert of_both < of_one < 1


def test_errors_are_stored_exactly_and_undefined_ones_left_out_of_the_mean():
    nan = float("nan")
    defined, undefined = Errors(0.1 + 0.2, {0.5: 1 / 3}, 0.5), Errors(0.5, {0.5: 1.0}, nan)
    assert from_json(to_json(defined)) == defined
    assert np.isnan(from_json({**to_json(undefined), "least_squares": None}).least_squares)
    assert mean_errors([defined, undefined]) == Errors(0.4, {0.5: 2 / 3}, 0.5)


@pytest.mark.usefixtures("improving", "uncompiled")
def test_a_raw_data_set_is_prepared_in_the_work_folder(
    data: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def prepare(root: Path, out: Path, options: Preparation, **chosen) -> Report:
        assert (root, options) == (data, DEFAULTS)
        assert chosen["participants"] == {"sub-01", "sub-02", "sub-03"}
        assert chosen["sessions"] is None
        shutil.copytree(root, out, dirs_exist_ok=True)
        names: list[str] = ["sub-01", "sub-03"]
        written = dict.fromkeys(names, out)
        return Report(written, {"sub-02": "its brain cannot be found"}, {}, {}, 0.0)

    monkeypatch.setattr(adapt_sessions, "prepare_dataset", prepare)
    assert choose_preparation(data, DEFAULTS, prepared=None) is None  # it is a derivative
    options = choose_preparation(data, DEFAULTS, prepared=False)
    out, workdir = tmp_path / "mine.safetensors", tmp_path / "work"
    selection, console = Selection(data, options), Console(width=500)
    outcome = adapt(selection, out, console, source=before, config=QUICK, workdir=workdir)
    assert outcome.written
    assert list(outcome.left_out) == ["sub-01", "sub-03"]
    assert sorted(path.name for path in (workdir / "real").iterdir()) == ["sub-01", "sub-03"]
    assert "sub-02 is not used: its brain cannot be found" in capsys.readouterr().out
