"""A perfect synthesis scores perfectly, whatever the axes of the files.

The true FLAIR of a data set is written as the synthetic one. Everything that reads it back has to
find an error of 0 and a Dice coefficient of 1. No mask or image of the phantom is mirror-symmetric,
and its axes have different lengths, so that a flipped or swapped axis shows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

import flaxflair
from flaxflair.cli import main
from flaxflair.config import Config
from flaxflair.core.records import Array, GeometryError, Subject, Volume
from flaxflair.core.sequences import INPUTS, SEQUENCES
from flaxflair.evaluation import scoring
from flaxflair.io import derivatives
from flaxflair.io.datasets import load_cohort
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.models import model as models
from flaxflair.paper import reproduce, studies
from flaxflair.paper.outcomes import read_flair, read_outcome
from flaxflair.paper.studies import Scale
from flaxflair.pipelines import extras, fold_scoring, predict
from flaxflair.visualization import montage, panels, session_page
from flaxflair.visualization.niivue import Scene
from tests.samples import image_of, reorder, tilt, tiny_config

ROOT = Path(__file__).parents[2]
AXES: dict[str, Callable[[Volume], Volume]] = {
    "LAS": reorder("LAS"),
    "LPS": reorder("LPS"),
    "oblique": lambda volume: tilt(reorder("PSR")(volume)),
}
PARTS = ("table2", "table3", "lesions", "fig4", "fig6", "fig7")


class Drawing(NamedTuple):
    """What a function that draws was given."""

    name: str
    arguments: tuple[Any, ...]


class Perfect(NamedTuple):
    """A reproduction whose every synthetic FLAIR is the true one.

    Attributes:
      source: the data set.
      workdir: of the reproduction.
      subjects: of the data set, in the order of their names.
      drawings: what its figures were made of.
      numbers: `paper.json`.
    """

    source: Path
    workdir: Path
    subjects: list[Subject]
    drawings: list[Drawing]
    numbers: dict[str, Any]

    @property
    def run(self) -> Path:
        """The folder of the run of the FCN."""
        return self.workdir / "runs/fcn"


def truths(subjects: list[Subject]) -> list[Array]:
    """Returns the true FLAIRs."""
    return [truth(subject) for subject in subjects]


def truth(subject: Subject) -> Array:
    """Returns the true FLAIR."""
    assert subject.flair is not None
    return subject.flair


def load_instant(method: str, variant: str) -> Config:
    """Returns a configuration of which only the FCN is trained, for one epoch."""
    config = tiny_config()
    config.data.inputs = INPUTS
    config.folds.count = 2
    config.train.epochs = 1
    config.network.filters, config.network.layers = 2, 1
    if method != "fcn":
        config.method = "least_squares"
    return config


@pytest.fixture(scope="module", params=AXES)
def source(
    request: pytest.FixtureRequest, phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The phantom, with every image stored with other axes."""
    root = tmp_path_factory.mktemp(request.param) / "phantom"
    shutil.copytree(phantom, root)
    for path in root.rglob("*.nii.gz"):
        volume = AXES[request.param](read_volume(path))
        write_volume(path, volume.array, volume.geometry.affine)
    return root


@pytest.fixture(scope="module")
def perfect(source: Path, tmp_path_factory: pytest.TempPathFactory, quick_compile: None) -> Perfect:
    """A reproduction with perfect syntheses."""
    workdir = tmp_path_factory.mktemp("paper")
    scale = Scale("", {32: 2, 64: 4, 96: 6}, few=1, jobs=1, parts=PARTS)
    drawings: list[Drawing] = []

    with pytest.MonkeyPatch.context() as patch:

        def record(name: str) -> None:
            draw = getattr(panels, name)

            def recorder(*arguments: Any, **options: Any) -> None:
                drawings.append(Drawing(name, arguments))
                draw(*arguments, **options)

            patch.setattr(panels, name, recorder)

        for name in ("draw_comparison", "draw_segmentations", "draw_prediction", "draw_p3s"):
            record(name)
        for module in (studies, reproduce):
            patch.setattr(module, "load_config", load_instant)
        patch.setattr(fold_scoring, "_predict_all", lambda job, model, subjects: truths(subjects))
        reproduce.reproduce("quick", scale, workdir, source, jobs=1)
    numbers = json.loads((workdir / "paper.json").read_text())
    subjects = load_cohort(source, INPUTS)
    return Perfect(source, workdir, subjects, drawings, numbers)


def test_a_data_set_is_the_same_subjects_whatever_the_axes_of_its_files(
    source: Path, phantom: Path, request: pytest.FixtureRequest
) -> None:
    oblique = "oblique" in request.node.name
    turned, plain = load_cohort(source, INPUTS), load_cohort(phantom, INPUTS)
    if oblique:  # the axes closest to right, anterior, superior are those of the file, turned back
        assert turned[0].native is not None
        assert turned[0].native.shape != plain[0].geometry.shape
    for subject, own in zip(turned, plain, strict=True):
        np.testing.assert_array_equal(subject.images, own.images)
        np.testing.assert_array_equal(truth(subject), truth(own))
        np.testing.assert_array_equal(subject.noisefree, own.noisefree)  # pyright: ignore
        assert vars(subject.masks).keys() == vars(own.masks).keys()
        for name, mask in vars(own.masks).items():
            np.testing.assert_array_equal(getattr(subject.masks, name), mask)
        assert scoring.score_truth(subject) == pytest.approx(scoring.score_truth(own), nan_ok=True)


def test_every_study_scores_a_perfect_synthesis_without_error(perfect: Perfect) -> None:
    folders = sorted((perfect.workdir / "runs").iterdir())
    assert len(folders) > len(studies.CONFIGS)
    for folder in folders:
        title = load_instant(folder.name.split("-")[0], "").title
        outcome = read_outcome(folder, title)
        assert set(outcome.values("mse")) == {0}
        np.testing.assert_allclose(outcome.values("ssim"), 1, rtol=1e-6)
        for name in outcome.names():
            assert outcome.rows[name]["ratio1"] == pytest.approx(
                outcome.truth[name]["ratio1"], nan_ok=True
            )


def test_every_study_gives_its_flairs_back_as_they_were(perfect: Perfect) -> None:
    for folder in sorted((perfect.workdir / "runs").iterdir()):
        known = {
            name
            for fold in json.loads((folder / "folds.json").read_text())["heldout"][:1]
            for name in fold
        }
        for subject in perfect.subjects:
            if subject.participant in known:
                np.testing.assert_array_equal(read_flair(folder, subject), truth(subject))


def test_the_lesion_table_of_a_perfect_synthesis_agrees_fully(perfect: Perfect) -> None:
    stored = json.loads((perfect.workdir / "lesions.json").read_text())
    found = 0
    for fold in stored.values():
        true = fold["rows"]["truth"]
        assert set(fold["rows"]) == {"truth", *studies.CONFIGS}
        for method in studies.CONFIGS:
            for name, row in fold["rows"][method].items():
                assert row["agreement"] in (1, None)
                assert {m: row[m] for m in true[name]} == true[name]
                found += row["agreement"] == 1
    assert found >= 3 * len(studies.CONFIGS), "lesions have to be found, or nothing is compared"
    table = perfect.numbers["parts"]["lesions"]
    for method in studies.CONFIGS:
        assert table[method]["agreement"]["mean"] == 1


def test_every_figure_shows_the_synthesis_on_the_true_flair(perfect: Perfect) -> None:
    drawn = {drawing.name for drawing in perfect.drawings}
    assert drawn == {"draw_comparison", "draw_segmentations", "draw_prediction", "draw_p3s"}
    for name, (rows, *rest) in perfect.drawings:
        if name == "draw_comparison":
            for subject, flairs in rows:
                assert len(flairs) > 2
                for flair in flairs.values():
                    np.testing.assert_array_equal(flair, truth(subject))
        elif name == "draw_segmentations":
            for subject, title, ((_, true, lesions), (_, synthetic, same)) in rows:
                assert title == "Dice 1.00"
                np.testing.assert_array_equal(true, truth(subject))
                np.testing.assert_array_equal(synthetic, truth(subject))
                np.testing.assert_array_equal(same, lesions)
        elif name == "draw_prediction":
            np.testing.assert_array_equal(rest[0], truth(rows))


def shown(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Scene, ...]:
    """Returns what `flaxflair report` shows."""
    seen: list[Scene] = []

    def record(title: str, lead: str, scenes: list[Scene]) -> str:
        seen.extend(scenes)
        return title

    monkeypatch.setattr(session_page, "make_page", record)
    assert main(["report", *arguments]) == 0
    assert seen
    return tuple(seen)


def expect_no_error(scene: Scene) -> dict[str, Array]:
    """Checks the layers of a page, and returns title -> array."""
    layers = {layer.title: layer.array for layer in scene.layers}
    assert not layers["absolute error"].any()
    np.testing.assert_array_equal(layers["synthetic FLAIR"], layers["true FLAIR"])
    assert "MSE 0," in dict(scene.facts)["error"]
    return layers


def test_the_page_of_a_run_shows_no_error_and_the_maps_as_they_were(
    perfect: Perfect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(perfect.run, run)
    by_name = {subject.name: subject for subject in perfect.subjects}
    for subject in perfect.subjects:
        derivatives.write_saliency(run / "derivative", subject, subject.images)
    scenes = shown(monkeypatch, str(run), "--out", str(tmp_path / "run.html"))
    for scene in scenes:
        layers = expect_no_error(scene)
        for name in by_name[scene.title].sequences:
            title = SEQUENCES[name].title
            np.testing.assert_array_equal(layers[f"saliency of {title}"], layers[title])


def test_saliency_maps_are_read_back_as_they_were_written(perfect: Perfect) -> None:
    root = perfect.run / "derivative"
    model = {fold: flaxflair.load_model(perfect.run, fold) for fold in (0, 1)}
    run = flaxflair.load_run(perfect.run)
    for subject in perfect.subjects[:2]:
        maps = models.saliency_maps(model[run.fold_of(subject.participant)], subject)
        stored = derivatives.read_saliency(root, subject)
        assert stored is not None
        np.testing.assert_allclose(stored, maps, rtol=1e-4, atol=1e-6)


@pytest.fixture
def predicted(perfect: Perfect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `predict` leaves of the data set, with a model that knows the truth."""
    known = {subject.images.tobytes(): truth(subject) for subject in perfect.subjects}

    def know(model: object, subject: Subject, **options: object) -> Volume:
        return Volume(known[subject.images.tobytes()], subject.geometry)

    monkeypatch.setattr(extras, "predict", know)
    out = tmp_path / "out"
    report = predict.predict_cohort(flaxflair.load_model(perfect.run), perfect.source, out)
    assert not report.failures
    return out


def test_the_page_of_a_predicted_session_shows_no_error(
    predicted: Path, perfect: Perfect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for subject in perfect.subjects[:2]:
        np.testing.assert_array_equal(derivatives.read_flair(predicted, subject), truth(subject))
        folder, page = predicted / subject.name, tmp_path / "page.html"
        (scene,) = shown(monkeypatch, str(folder), "--out", str(page))
        expect_no_error(scene)


def test_a_perfect_file_is_evaluated_without_error_whatever_the_axes_of_either_file(
    predicted: Path, perfect: Perfect, phantom: Path, tmp_path: Path
) -> None:
    subject = perfect.subjects[0]
    synthetic = derivatives.flair_path(predicted, subject)
    anat, hidden = (Path("sub-01/anat"), Path("derivatives/truth/sub-01/anat"))
    masks = [
        "--brain",
        str(perfect.source / anat / "sub-01_space-FLAIR_desc-brain_mask.nii.gz"),
        "--lesions",
        str(perfect.source / hidden / "sub-01_space-FLAIR_label-lesion_mask.nii.gz"),
        "--t1w",
        str(perfect.source / anat / "sub-01_space-FLAIR_desc-preproc_T1w.nii.gz"),
    ]
    true = perfect.source / anat / "sub-01_desc-preproc_FLAIR.nii.gz"
    turned = tmp_path / "turned.nii.gz"
    volume = reorder("SRP")(read_volume(synthetic))
    write_volume(turned, volume.array, volume.geometry.affine)
    for path in (synthetic, turned):
        out = tmp_path / "scores.json"
        assert main(["evaluate", str(path), str(true), *masks, "--json", str(out)]) == 0
        scores = json.loads(out.read_text())
        assert scores["synthetic"]["mse"] == scores["synthetic"]["nmse_brain"] == 0
        assert scores["synthetic"]["ssim"] == pytest.approx(1)
        assert scores["synthetic"]["ratio1"] == scores["true"]["ratio1"]
        assert scores["synthetic"]["ratio2"] == scores["true"]["ratio2"]


def test_saliency_of_files_lies_on_the_subject_that_was_read(
    perfect: Perfect, tmp_path: Path
) -> None:
    model, subject = flaxflair.load_model(perfect.run), perfect.subjects[0]
    files = [
        argument
        for name, path in zip((*model.sequences, "FLAIR"), subject.sources, strict=True)
        for argument in (f"--{SEQUENCES[name].flag}", str(perfect.source / path))
    ]
    brain = perfect.source / "sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"
    command = ["saliency", *files, "--brain", str(brain), "--prepared", "--out", str(tmp_path)]
    assert main([*command, "--model", str(perfect.run)]) == 0
    maps = models.saliency_maps(model, subject)
    for channel, name in enumerate(model.sequences):
        stored = derivatives.read_image(tmp_path / f"{name}_p3s.nii.gz", subject)
        np.testing.assert_allclose(stored, maps[..., channel], rtol=1e-4, atol=1e-6)


def test_the_montage_is_the_same_whatever_the_axes_of_the_files(
    source: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[tuple[str, Array]], Array, Array]] = []
    draw = montage._draw  # pyright: ignore[reportPrivateUsage]

    def record(shown: list[tuple[str, Array]], brain: Array, lesion: Array, grid: Any) -> Any:
        drawn.append((shown, brain, lesion))
        return draw(shown, brain, lesion, grid)

    monkeypatch.setattr(montage, "_draw", record)
    for root in (phantom, source):
        montage.montage(root, "01", tmp_path / "montage.png")
    (plain, brain, lesion), (turned, same_brain, same_lesion) = drawn
    np.testing.assert_array_equal(brain, same_brain)
    np.testing.assert_array_equal(lesion, same_lesion)
    for (title, image), (same_title, same) in zip(plain, turned, strict=True):
        assert title == same_title
        np.testing.assert_allclose(same, image, rtol=1e-3, atol=1e-2)


def test_the_notebook_shows_no_error(perfect: Perfect, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {subject.images.tobytes(): truth(subject) for subject in perfect.subjects}
    monkeypatch.setenv("FLAXFLAIR_RUN", str(perfect.run))

    def know(model: object, subject: Subject, **options: object) -> Volume:
        return Volume(known[subject.images.tobytes()], subject.geometry)

    monkeypatch.setattr(flaxflair, "predict", know, raising=False)
    monkeypatch.setattr(plt, "show", lambda: None)
    notebook = nbformat.read(ROOT / "notebooks/saliency.ipynb", as_version=4)
    space: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "widgets.interact" not in cell.source:
            exec(compile(cell.source, "notebook", "exec"), space)
    name = perfect.subjects[0].name
    space["show"](name, "T1", 5)
    error = next(a for a in plt.gcf().axes if a.get_title() == "absolute error")
    assert not np.asarray(error.images[0].get_array()).any()
    plt.close("all")


def test_an_image_on_another_grid_is_refused_with_its_name(
    make_subject: Callable[..., Subject], tmp_path: Path
) -> None:
    subject = make_subject()
    path = tmp_path / "moved.nii.gz"
    affine = subject.geometry.affine.copy()
    affine[:3, 3] += 5
    write_volume(path, image_of("T1"), affine)
    with pytest.raises(GeometryError, match=r"moved\.nii\.gz: its grid .* differs .* sub-01"):
        derivatives.read_image(path, subject)
