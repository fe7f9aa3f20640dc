"""Universal models: any subset of the sequences, saved and loaded, applied in tiles or whole."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors import safe_open
from safetensors.numpy import save_file

from flaxflair.cli import main
from flaxflair.config.universal import ConditionalConfig
from flaxflair.core.records import InputError, Subject, Volume
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation.metrics import fit_intensity
from flaxflair.imaging.resampling import resample
from flaxflair.imaging.standard import standardize, to_subject_grid
from flaxflair.imaging.tissue_levels import STANDARD
from flaxflair.models.model import choose_inputs, level_warnings, predict, saliency_maps
from flaxflair.models.saving import SHIPPED, digest_model, export_model, load_model
from flaxflair.models.universal import (
    UniversalModel,
    flair_quality,
    flair_warnings,
    make_network,
    predict_standard,
)
from tests.closeness import assert_near
from tests.samples import ball

TINY = ConditionalConfig(widths=(4, 6), convolutions=1, fine=3)


@pytest.fixture(scope="module")
def tiny() -> UniversalModel:
    network = make_network(TINY)
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        scale = 0.3 * max(1, int(np.prod(leaf.shape[:-1]))) ** -0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return UniversalModel(TINY, network, jax.tree.map(draw, shapes), {"Steps": 3})


def scan(sequences: tuple[str, ...]) -> Subject:
    """A session with these sequences, contrast by contrast from the T1 of a ball."""
    subject = ball((2.0, 2.0, 3.0))
    t1 = subject.images[..., 0] / 350
    images = []
    for name in sequences:
        own, first = STANDARD[name], STANDARD["T1"]
        levels = sorted(
            [(first.fluid, own.fluid), (first.grey, own.grey), (first.white, own.white)]
        )
        at, to = zip(*levels, strict=True)
        images.append(100 * np.interp(t1, at, to))
    return replace(subject, sequences=sequences, images=np.stack(images, -1).astype(np.float32))


def test_a_flair_comes_from_each_of_the_31_subsets(tiny: UniversalModel):
    for number in range(1, len(INPUTS) + 1):
        for sequences in combinations(INPUTS, number):
            subject = scan(sequences)
            flair = predict(tiny, subject)
            assert flair.array.shape == subject.geometry.shape
            assert np.isfinite(flair.array).all()
            assert not flair.array[~subject.masks.brain].any()


def test_the_order_of_the_sequences_makes_no_difference(tiny: UniversalModel):
    one = scan(("T1", "T2", "PD"))
    other = replace(one, sequences=("PD", "T1", "T2"), images=one.images[..., [2, 0, 1]])
    assert_allclose(predict(tiny, one).array, predict(tiny, other).array, atol=2)


def test_a_mirrored_head_gives_the_mirrored_flair(tiny: UniversalModel):
    standard = standardize(scan(("T1", "T2")))
    mirrored = standard._replace(images=standard.images[::-1])
    pairs = zip(predict_standard(tiny, standard), predict_standard(tiny, mirrored), strict=True)
    for one, other in pairs:
        assert_near(other[::-1], one)
    assert np.ptp(predict_standard(tiny, standard)[0]) > 0.01


def test_tiles_give_what_the_whole_gives(tiny: UniversalModel):
    standard = standardize(ball())
    whole, lesion = predict_standard(tiny, standard)
    tiled, lesion_tiled = predict_standard(tiny, standard, tile_voxels=60**3)
    assert_near(tiled, whole)
    assert_near(lesion_tiled, lesion)
    assert 0 <= lesion.min() <= lesion.max() <= 1


@pytest.mark.parametrize("half", [False, True])
def test_an_exported_model_predicts_alike_under_one_digest(
    tiny: UniversalModel, tmp_path: Path, half: bool
):
    path = tmp_path / "model.safetensors"
    export_model(tiny, path, half=half)
    loaded = load_model(path)
    assert isinstance(loaded, UniversalModel)
    assert loaded.config == tiny.config
    assert loaded.about == tiny.about
    assert (digest_model(loaded) == digest_model(tiny)) != half
    subject = ball((2.0, 2.0, 2.0))
    assert_allclose(predict(loaded, subject).array, predict(tiny, subject).array, atol=20 * half)
    with safe_open(path, framework="numpy") as stored:
        description = json.loads((stored.metadata() or {})["flaxflair"])
    # The digest in a sidecar is that in the file.
    assert digest_model(loaded) == description["digest"]
    again = tmp_path / "again.safetensors"
    export_model(loaded, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "universe"},
        {
            "network": {
                "widths": [4, 6],
                "convolutions": 1,
                "reduction": 3,
                "fine": 3,
                "dtype": "float32",
            }
        },
        {
            "network": {
                "widths": [4, 6],
                "convolutions": 2,
                "reduction": 2,
                "fine": 3,
                "dtype": "float32",
            }
        },
        {
            "network": {
                "widths": [],
                "convolutions": 1,
                "reduction": 2,
                "fine": 3,
                "dtype": "float32",
            }
        },
        {"network": {"widths": [4, 6], "convolutions": 1, "reduction": 2, "fine": 3}},
        {"about": {"Steps": {"deep": 1}}},
        {"about": {"Steps": 4}},
        {"sequences": ["T1"]},
        {"network": None},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_an_edited_model_is_refused(tiny: UniversalModel, tmp_path: Path, change: dict[str, Any]):
    path = tmp_path / "model.safetensors"
    export_model(tiny, path)
    with safe_open(path, framework="numpy") as stored:
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        description = json.loads((stored.metadata() or {})["flaxflair"])
    save_file(arrays, path, {"flaxflair": json.dumps({**description, **change})})
    with pytest.raises(
        InputError, match=r"model\.safetensors: .*restore the model as it was saved"
    ):
        load_model(path)


def test_a_session_without_any_input_is_refused(tiny: UniversalModel, write_dataset):
    from flaxflair.io.session_files import find_sessions

    root = write_dataset(["sub-01_FLAIR"])
    (files,) = find_sessions(root, (), flair="ignored")
    with pytest.raises(InputError, match="sub-01 has none of T1, T1SE, T2, PD, DIR"):
        choose_inputs(tiny, files)


def test_saliency_is_the_derivative_of_the_error_in_the_brain(tiny: UniversalModel):
    subject = replace(ball((1.0, 1.0, 1.0)), flair=None)
    standard = standardize(subject)
    synthetic = to_subject_grid(subject, predict_standard(tiny, standard)[0], standard.geometry)
    noise = np.random.default_rng(1).normal(0, 0.1, synthetic.shape).astype(np.float32)
    true = replace(subject, flair=700 + 40 * (synthetic + noise * subject.masks.brain))
    maps = saliency_maps(tiny, true)
    assert maps.shape == subject.images.shape
    assert not maps[~subject.masks.brain].any()
    assert true.flair is not None

    def error(images: np.ndarray) -> float:
        flair, _ = predict_standard(tiny, standard._replace(images=images))
        difference = flair - target
        return float(np.sum(difference[standard.brain].astype(np.float64) ** 2))

    before, _ = predict_standard(tiny, standard)
    at = resample(true.flair, subject.geometry.affine, standard.geometry, np.eye(4), beyond="zero")
    target = fit_intensity(at, before, standard.brain)
    voxel = np.unravel_index(maps[..., 0].argmax(), maps.shape[:3])
    offset = np.linalg.inv(standard.geometry.affine) @ subject.geometry.affine @ [*voxel, 1]
    place = (*np.rint(offset[:3]).astype(int), INPUTS.index("T1"))
    step = 0.01
    errors = []
    for sign in (-1, 1):
        moved = standard.images.copy()
        moved[place] += sign * step
        errors.append(error(moved))
    slope = abs(errors[1] - errors[0]) / (2 * step)
    assert_allclose(maps[(*voxel, 0)], slope, rtol=0.02)


def test_every_flair_of_a_model_carries_its_warning(tiny: UniversalModel, tmp_path: Path):
    export_model(tiny, tmp_path / "plain.safetensors")
    export_model(
        tiny, tmp_path / "warned.safetensors", about={"Warning": "faint lesions are missed"}
    )
    plain, warned = (load_model(tmp_path / f"{name}.safetensors") for name in ("plain", "warned"))
    assert level_warnings(plain, ball()) == ()
    assert level_warnings(warned, ball()) == ("faint lesions are missed",)
    assert digest_model(plain) != digest_model(warned)
    assert isinstance(warned, UniversalModel)
    assert warned.about["Steps"] == 3


def test_invalid_facts_on_a_model_are_refused(
    tiny: UniversalModel, raw_model: Path, tmp_path: Path
):
    out = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="only a universal model has facts"):
        export_model(load_model(raw_model), out, about={"Warning": "anything"})
    with pytest.raises(InputError, match="about"):
        export_model(tiny, out, about={"Warning": {"a": "nested one"}})
    assert not out.exists()


@pytest.mark.parametrize(("level", "warned"), [(1.1, False), (0.4, True), (3.0, True), (0, True)])
def test_a_flair_of_implausible_level_gives_a_warning(level: float, warned: bool):
    subject = ball((4.0, 4.0, 4.0))
    flair = Volume(np.full(subject.geometry.shape, 1000 * level, np.float32), subject.geometry)
    assert bool(flair_warnings(flair_quality(subject, flair))) == warned


def test_the_shipped_model_fits_into_the_wheel_and_states_its_training():
    assert SHIPPED.stat().st_size <= 8_000_000
    model = load_model()
    assert isinstance(model, UniversalModel)
    assert {"Steps", "Data", "Licence"} <= model.about.keys()


def test_the_shipped_model_makes_fluid_dark_and_grey_matter_brighter_than_white():
    subject = ball()
    flair = predict(load_model(), subject).array
    t1 = subject.images[..., 0] / 350
    brain = subject.masks.brain
    levels = STANDARD["T1"]
    fluid, grey, white = (
        np.median(flair[brain & (np.abs(t1 - level) < 0.04)])
        for level in (levels.fluid, levels.grey, levels.white)
    )
    assert fluid < 0.6 * white
    assert white == pytest.approx(1000, rel=0.15)
    assert 1.02 * white < grey < 1.6 * white


def test_a_warning_of_a_foreign_model_cannot_control_the_terminal(tiny: UniversalModel):
    warned = replace(tiny, about={"Warning": "red\x1b[31m bell\x07"})
    assert warned.warnings == ("red�[31m bell�",)


def test_the_command_writes_a_map_of_each_given_sequence(
    tiny: UniversalModel, phantom: Path, tmp_path: Path
):
    export_model(tiny, tmp_path / "tiny.safetensors")
    start = phantom / "sub-01/anat/sub-01"
    command = ["saliency", "--prepared", "--model", str(tmp_path / "tiny.safetensors")]
    command += ["--t2w", f"{start}_space-FLAIR_desc-preproc_T2w.nii.gz"]
    command += ["--t1w", f"{start}_space-FLAIR_desc-preproc_T1w.nii.gz"]
    command += ["--flair", f"{start}_desc-preproc_FLAIR.nii.gz"]
    command += ["--brain", f"{start}_space-FLAIR_desc-brain_mask.nii.gz"]
    assert main([*command, "--out", str(tmp_path / "maps")]) == 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {
        "T1_p3s.nii.gz",
        "T2_p3s.nii.gz",
    }
