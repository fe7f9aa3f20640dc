"""Stages that overlap, and a data set predicted by them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import flaxflair
from flaxflair.config import NetworkConfig
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError, Subject, Volume
from flaxflair.evaluation.verdict import GRADES
from flaxflair.imaging.normalization import Normalization, Stats
from flaxflair.io import bids, derivatives
from flaxflair.models.estimators import FittedNetwork
from flaxflair.models.model import Model
from flaxflair.models.saving import digest_model
from flaxflair.networks.network import Network, Params
from flaxflair.pipelines.predict import predict_cohort, predict_session
from flaxflair.preprocessing.dataset import prepare_dataset
from flaxflair.runtime.stages import Stage, run_stages
from tests.samples import AFFINE, SHAPE, brain_of, image_of

# Only a test that fails waits so long.
PATIENCE = 20
SESSIONS = tuple(f"sub-0{number}" for number in (1, 2, 3))


def threads_of(*names: str) -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(names)]


def same(value: int) -> int:
    return value


def test_stages_work_at_once_each_on_an_item_of_its_own():
    meeting, count = threading.Barrier(3), 6

    def stage(place: int):
        def work(item: int) -> int:
            # Item 2 in the first stage meets item 1 in the second and item 0 in the third.
            if 2 <= item + place < count:
                meeting.wait(PATIENCE)
            return item

        return Stage(f"stage {place}", work)

    outcomes = list(run_stages(range(count), [stage(place) for place in range(3)]))
    assert [outcome.error for outcome in outcomes] == [None] * count


def test_the_workers_of_a_stage_work_at_once():
    meeting = threading.Barrier(3)
    stage = Stage("meet", lambda item: meeting.wait(PATIENCE) * 0 + item, workers=3)
    assert sorted(outcome.value for outcome in run_stages(range(6), [stage])) == list(range(6))


def test_each_stage_takes_what_the_one_before_it_returned_and_its_seconds_are_kept():
    stages = [Stage("double", lambda x: 2 * x), Stage("say", str)]
    outcomes = list(run_stages([3, 5], stages))
    assert [(o.index, o.item, o.value) for o in outcomes] == [(0, 3, "6"), (1, 5, "10")]
    assert all(tuple(o.seconds) == ("double", "say") for o in outcomes)
    assert all(seconds >= 0 for o in outcomes for seconds in o.seconds.values())


@pytest.mark.parametrize("in_flight", [1, 3, 5])
def test_no_more_items_are_drawn_than_may_be_under_way(in_flight: int):
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in range(12):
            drawn.append(item)
            yield item

    stages = [Stage("a", same, 2), Stage("b", same, 4)]
    for done, _ in enumerate(run_stages(items(), stages, in_flight=in_flight)):
        assert len(drawn) - done <= in_flight
    assert len(drawn) == 12


def test_by_default_every_worker_can_be_busy_and_one_item_waits():
    drawn: list[int] = []
    stages = [Stage("a", same, 2), Stage("b", same, 3)]
    outcomes = run_stages(map(drawn.append, itertools.count()), stages)
    with closing(outcomes):
        next(outcomes)
        assert len(drawn) == 6


def test_items_come_as_they_finish_and_say_which_they_are():
    second_is_out = threading.Event()
    stage = Stage("wait", lambda item: item == 0 and second_is_out.wait(PATIENCE), workers=2)
    outcomes = run_stages("ab", [Stage("name", "ab".index), stage])
    first = next(outcomes)
    second_is_out.set()
    assert [first.index, *(o.index for o in outcomes)] == [1, 0]


def test_an_error_stays_with_its_item_and_the_others_go_on():
    reached: list[int] = []
    stages = [Stage("divide", lambda x: 12 // x), Stage("note", reached.append)]
    outcomes = sorted(run_stages([1, 0, 3], stages), key=lambda outcome: outcome.index)
    assert [type(o.error) for o in outcomes] == [type(None), ZeroDivisionError, type(None)]
    assert tuple(outcomes[1].seconds) == ("divide",)
    assert sorted(reached) == [4, 12]


def test_what_is_no_error_of_an_item_ends_the_whole():
    def leave(_: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(run_stages(range(9), [Stage("leave", leave), Stage("leave too", same)]))
    assert threads_of("leave") == []


def test_items_that_cannot_be_drawn_end_the_whole():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(run_stages(items(), [Stage("draw", same)]))
    assert threads_of("draw") == []


def test_no_items_are_no_outcomes():
    assert list(run_stages([], [Stage("idle", same)])) == []


def test_leaving_early_ends_all_threads_after_what_they_are_at():
    stages = [Stage(f"early {place}", same) for place in range(3)]
    with closing(run_stages(itertools.count(), stages)) as outcomes:
        for outcome in outcomes:
            if outcome.index == 4:
                break
    assert threads_of("early") == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt: a process in the background of a script would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_all_threads():
    def interrupt(item: int) -> int:
        if item == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return item

    stages = [Stage("interrupt", interrupt), Stage("interrupted", same, 2)]
    with (
        pytest.raises(KeyboardInterrupt),
        closing(run_stages(itertools.count(), stages)) as outcomes,
    ):
        for _ in outcomes:
            pass
    assert threads_of("interrupt") == []


@pytest.fixture
def model(network: Network, params: Params) -> Model:
    """Reads T1 and T2; the region is the brain, the gain the inputs'."""
    images, flair = Stats((1.0, 1.1), (0.4, 0.5)), Stats((1.0,), (0.5,))
    fitted = FittedNetwork(NetworkConfig(layers=2, filters=4), network, params)
    return Model(
        ("T1", "T2"),
        fitted,
        Normalization(images, flair, "brain", ((0.0, 1.0),) * 3, (0.0, 1.2)),
        region="brain",
    )


@pytest.fixture
def dataset(write_dataset) -> Path:
    """Three participants with T1 and T2, the second of them on a grid of its own."""
    shapes = dict(zip(SESSIONS, (SHAPE, (9, 8, 8), SHAPE), strict=True))
    return write_dataset(
        {f"{s}_{x}": image_of(f"{s}_{x}", shapes[s]) for s in SESSIONS for x in ("T1w", "T2w")}
    )


def test_a_data_set_is_predicted_as_its_subjects_are_one_by_one(
    model: Model, dataset: Path, tmp_path: Path
):
    counts: list[tuple[int, int]] = []
    report = predict_cohort(
        model, dataset, tmp_path / "out", about={"Fold": 0}, on_done=lambda *n: counts.append(n)
    )
    assert counts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert tuple(report.written) == SESSIONS
    assert report.failures == {}
    assert tuple(report.busy) == ("read", "predict", "write")
    for subject in flaxflair.load_cohort(dataset, model.sequences, need_flair=False):
        path = report.written[subject.name]
        assert path == tmp_path / f"out/{subject.name}/anat/{subject.name}_desc-synth_FLAIR.nii.gz"
        written = flaxflair.read_volume(path)
        assert written.geometry.matches(subject.geometry)
        alone = flaxflair.predict_array(model, subject.images, subject.masks.brain)
        np.testing.assert_array_equal(written.array, alone)
        assert not written.array[~subject.masks.brain].any()
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Model"] == {
            "Method": "fcn",
            "Sequences": ["T1", "T2"],
            "Digest": digest_model(model),
            "Fold": 0,
        }
        assert sidecar["Sources"] == [f"bids:source:{source}" for source in subject.sources]
        assert sidecar["SkullStripped"] is True
        assert sidecar["Verdict"]["Grade"] in GRADES
        assert sidecar["Quality"]["brain_volume"] > 0
    header, *rows = (tmp_path / "out/quality.tsv").read_text().splitlines()
    assert header.startswith("participant_id\tsession_id\tverdict\treasons\tbrain_volume")
    assert [row.split("\t")[0] for row in rows] == list(SESSIONS)


def test_sessions_that_were_finished_or_failed_are_in_the_table_too(
    model: Model, dataset: Path, tmp_path: Path
):
    out = tmp_path / "out"
    predict_cohort(model, dataset, out, participants=["01"])
    (dataset / "sub-02/anat/sub-02_T2w.nii.gz").write_bytes(b"")
    report = predict_cohort(model, dataset, out)
    assert report.kept == ("sub-01",)
    rows = [line.split("\t") for line in (out / "quality.tsv").read_text().splitlines()[1:]]
    verdicts = {row[0]: row[2] for row in rows}
    assert verdicts["sub-02"] == "failed"
    assert {verdicts["sub-01"], verdicts["sub-03"]} <= set(GRADES)
    assert "sub-02_T2w.nii.gz" in rows[1][3]


@pytest.mark.parametrize(
    ("name", "folder", "why"),
    [
        ("Q.nii.gz", "Q.nii.gz", r"Q\.nii\.gz: is a folder, where the image"),
        ("Q.nii.gz", "Q.json", r"Q\.json: is a folder, where the sidecar of Q\.nii\.gz"),
        ("Q.nii.gz", "Q.html", r"Q\.html: is a folder, where the page of Q\.nii\.gz"),
        (f"{'q' * 250}.nii.gz", None, "as the name of the image, it has 257 bytes, and"),
        (f"{'q' * 251}.nii", None, "as the name of the sidecar of q+.nii, it has 256 bytes, and"),
        (f"{'é' * 125}q.nii", None, "as the name of the sidecar of é+q.nii, it has 256 bytes, and"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(
    model: Model, tmp_path: Path, name: str, folder: str | None, why: str
):
    if folder is not None:
        (tmp_path / folder).mkdir()
    out = tmp_path / name
    inputs = {name: tmp_path / f"{name}.nii" for name in model.sequences}
    page = derivatives.at_file(out).page
    with pytest.raises(WriteError, match=why):
        predict_session(model, inputs, out, page=page)
    assert [path.name for path in tmp_path.iterdir()] == ([folder] if folder else [])


@pytest.mark.parametrize("second", ["acq-DIR_FLAIR", "acq-FLAIR.nii_T2w", "T2w"])
@pytest.mark.parametrize("flair", [True, False])
def test_the_sources_of_a_flair_are_its_inputs_whatever_their_names(
    make_subject: Callable[..., Subject], tmp_path: Path, second: str, flair: bool
):
    inputs = ("sub-01/anat/sub-01_T1w.nii.gz", f"sub-01/anat/sub-01_{second}.nii.gz")
    read = (*inputs, "sub-01/anat/sub-01_FLAIR.nii.gz") if flair else inputs
    subject = replace(make_subject(), sources=read)
    destination = derivatives.in_derivative(tmp_path, subject)
    volume = Volume(subject.images[..., 0], subject.geometry)
    derivatives.write_flair(destination, subject, volume, extracted=False, model={})
    sidecar = json.loads(bids.sidecar(destination.image).read_text())
    assert sidecar["Sources"] == [f"bids:source:{path}" for path in inputs]


def test_a_session_that_cannot_be_used_is_reported_and_the_others_are_predicted(
    model: Model, dataset: Path, tmp_path: Path
):
    (dataset / "sub-01/anat/sub-01_T2w.nii.gz").unlink()
    (dataset / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"damaged")
    report = predict_cohort(model, dataset, tmp_path / "out", workers=1)
    assert list(report.written) == ["sub-02"]
    assert list(report.failures) == ["sub-01", "sub-03"]
    assert "sub-01 has no T2" in report.failures["sub-01"]
    assert "sub-03_T1w.nii.gz: is named .gz and is not gzip" in report.failures["sub-03"]
    assert not list((tmp_path / "out").glob("sub-0[13]"))


def test_an_error_that_nobody_foresaw_is_reported_with_its_kind(
    model: Model, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("out of memory\nof what kind")

    monkeypatch.setattr("flaxflair.pipelines.extras.predict", fail)
    report = predict_cohort(model, dataset, tmp_path / "out", participants=["02"])
    assert report.failures == {"sub-02": "MemoryError: out of memory"}


def test_what_was_predicted_before_is_overwritten_and_other_participants_stay(
    model: Model, dataset: Path, tmp_path: Path
):
    out = tmp_path / "out"
    report = predict_cohort(model, dataset, out, participants=["01", "sub-03"])
    assert list(report.written) == ["sub-01", "sub-03"]
    first, third = report.written.values()
    before = third.stat().st_mtime_ns
    first.write_bytes(b"old")
    predict_cohort(model, dataset, out, participants=["01"], tile_voxels=200)
    assert flaxflair.read_volume(first).geometry.shape == SHAPE
    assert third.stat().st_mtime_ns == before


def test_a_derivative_within_the_data_set_is_no_input_of_the_next_prediction(
    model: Model, dataset: Path
):
    out = dataset / "derivatives" / "flaxflair"
    first, second = (predict_cohort(model, dataset, out) for _ in range(2))
    assert first.written == second.written
    assert first.failures == second.failures == {}


def test_an_unusable_place_or_label_is_refused_before_anything_is_written(
    model: Model, dataset: Path, tmp_path: Path
):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="is the data set itself; name another folder"):
        predict_cohort(model, dataset, dataset / "sub-01" / "..")
    with pytest.raises(InputError, match="has no participant sub-9; it has sub-01, sub-02, sub-03"):
        predict_cohort(model, dataset, out, participants=["9"])
    with pytest.raises(InputError, match="--workers is 0; it must be at least 1"):
        predict_cohort(model, dataset, out, workers=0)
    assert not out.exists()


@pytest.mark.parametrize("place", ["sub-01", "sub-01/prep", "sub-01/ses-1/anat/x", "sub-x", "link"])
def test_an_output_in_the_folder_of_a_participant_is_refused(
    model: Model, dataset: Path, place: str
):
    (dataset / "link").symlink_to("sub-01")
    before = sorted(dataset.rglob("*"))
    for run in (partial(predict_cohort, model), prepare_dataset):
        with pytest.raises(
            InputError, match=r"is in the folder sub-\w+ of the data set .*; name an"
        ):
            run(dataset, dataset / place)
    assert sorted(dataset.rglob("*")) == before


def test_a_folder_of_another_data_set_is_not_written_to(
    model: Model, dataset: Path, tmp_path: Path
):
    out = tmp_path / "out"
    derivatives.start(out, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"dataset_description\.json: describes another data set"):
        predict_cohort(model, dataset, out)
    (out / "dataset_description.json").write_text('{"Name": "raw"}')
    with pytest.raises(InputError, match="name another folder to write to"):
        predict_cohort(model, dataset, out)
    assert (out / "dataset_description.json").read_text() == '{"Name": "raw"}'


def test_many_may_begin_the_same_derivative_at_once(tmp_path: Path):
    meeting, count = threading.Barrier(8), 8

    def begin(_: int) -> None:
        meeting.wait(PATIENCE)
        derivatives.start(tmp_path / "out", tmp_path)

    outcomes = list(run_stages(range(count), [Stage("begin", begin, count)]))
    assert [outcome.error for outcome in outcomes] == [None] * count
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".bidsignore",
        "dataset_description.json",
    ]


def test_one_bad_brain_mask_fails_its_session_alone(
    model: Model, dataset: Path, write_dataset, tmp_path: Path
):
    write_dataset({"sub-01_desc-brain_mask": brain_of((9, 9, 9))}, affine=AFFINE)
    report = predict_cohort(model, dataset, tmp_path / "out")
    assert list(report.written) == ["sub-02", "sub-03"]
    assert "its grid differs from the T1's" in report.failures["sub-01"]
