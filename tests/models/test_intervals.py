"""Intervals of a universal model: scale, calibration, storage, and the maps of a session."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save_file

from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import standardize
from flaxflair.imaging.tissue_classes import CLASSES
from flaxflair.models.description import parse_calibration
from flaxflair.models.error_scale import (
    COVERAGES,
    GROUPS,
    PROBABILITIES,
    Calibration,
    ErrorScale,
    calibrate,
    group_of,
    scale_network,
)
from flaxflair.models.intervals import predict_interval, predict_scale
from flaxflair.models.saving import digest_model, export_model, load_model
from flaxflair.models.universal import UniversalModel, predict_flair, predict_standard
from tests.closeness import assert_near
from tests.models.test_universal import scan, tiny  # noqa: F401  (a fixture)

ROW = tuple(np.linspace(-2, 2, len(PROBABILITIES)).round(4).tolist())
CALIBRATION = Calibration({g: dict.fromkeys(CLASSES, ROW) for g in GROUPS}, ("a", "b"))


@pytest.fixture(scope="module")
def model(tiny: UniversalModel) -> UniversalModel:  # noqa: F811
    params = scale_network().init(jax.random.key(1))
    return replace(tiny, scale=ErrorScale(params, CALIBRATION))


@pytest.mark.parametrize(
    ("sequences", "group"),
    [
        *((("T1",), "T1"), (("T1SE",), "T1"), (("T1", "T1SE"), "T1"), (("T2",), "T2")),
        *((("PD", "DIR"), "T2"), (("T1SE", "PD"), "T1+T2"), (INPUTS, "T1+T2")),
    ],
)
def test_every_subset_belongs_to_a_group_by_its_weighting(sequences, group):
    assert group_of(sequences) == group


def test_calibrated_intervals_cover_what_they_state_with_equal_weight_of_patients():
    rng = np.random.default_rng(0)
    # The second patient has twice the error and a hundredth of the voxels.
    errors = np.concatenate([rng.laplace(0, 1, 100_000), rng.laplace(0, 2, 1000)])
    owners = np.repeat([0, 1], [100_000, 1000])
    classes = np.zeros(len(errors), int)
    found = calibrate([(g, errors, classes, owners) for g in GROUPS], ("a", "b"))
    for coverage in COVERAGES:
        low, high = found.ends(("T1",), coverage)[0]
        inside = (errors >= low) & (errors <= high)
        share = np.mean([inside[owners == k].mean() for k in (0, 1)])
        assert share == pytest.approx(coverage, abs=0.01)
    # A class without voxels has the interval of all.
    assert found.quantiles["T1"]["lesion"] == found.quantiles["T1"]["fluid"]


def test_a_group_without_sessions_is_refused():
    one = (np.zeros(4), np.zeros(4, int), np.zeros(4, int))
    with pytest.raises(InputError, match="no session has the inputs T2"):
        calibrate([("T1", *one)], ("a",))


def test_another_coverage_is_refused():
    with pytest.raises(InputError, match=r"no intervals of 85 %; choose from 50, 80, 90, 95"):
        CALIBRATION.ends(("T1",), 0.85)


def test_a_stored_scale_is_loaded_as_it_was(model: UniversalModel, tmp_path):
    path = tmp_path / "model.safetensors"
    export_model(model, path)
    loaded = load_model(path)
    assert isinstance(loaded, UniversalModel)
    assert loaded.scale is not None
    assert model.scale is not None
    assert loaded.scale.calibration == CALIBRATION
    assert digest_model(loaded) == digest_model(model)
    jax.tree.map(assert_array_equal, loaded.scale.params, model.scale.params)
    narrow = Calibration({g: dict.fromkeys(CLASSES, (0.0,) * 8) for g in GROUPS}, ("c",))
    export_model(loaded, path, calibration=narrow)
    again = load_model(path)
    assert isinstance(again, UniversalModel)
    assert again.scale is not None
    assert again.scale.calibration == narrow


def test_calibration_of_a_model_without_scale_is_refused(tiny, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="no error scale to calibrate"):
        export_model(tiny, tmp_path / "model.safetensors", calibration=CALIBRATION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantiles": {}, "patients": []}, "is a required property"),
        ({"patients": ["a"]}, "quantiles"),
        ({"extra": 1}, "extra"),
    ],
)
def test_an_invalid_calibration_is_refused(model: UniversalModel, tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    export_model(model, path)
    _edit(path, lambda description: description.update(scale=change))
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_quantiles_out_of_order_are_refused():
    description = {"patients": ["a"], "quantiles": {"T1": {"grey": [1.0, 0.5]}}}
    with pytest.raises(InputError, match=r"scale\.quantiles\.T1\.grey: .* not in order"):
        parse_calibration(description)


def _edit(path, change) -> None:
    """Changes the description of a model file, its digest left out of date."""
    with safe_open(path, "numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (key,) = [name for name, text in header.items() if text.startswith("{")]
    description = json.loads(header[key])
    change(description)
    save_file(arrays, path, {**header, key: json.dumps(description)})


def test_the_interval_of_a_session_is_on_its_grid_around_the_flair(model: UniversalModel):
    subject = scan(("T1", "T2"))
    standard = standardize(subject)
    flair, lesion = predict_standard(model, standard)
    wide, narrow = (
        predict_interval(model, subject, standard, flair, lesion, coverage)
        for coverage in (0.95, 0.5)
    )
    whole, brain = predict_flair(model, subject).array, subject.masks.brain
    for interval in (wide, narrow):
        for each in (interval.lower, interval.upper):
            assert each.geometry is subject.geometry
            assert not each.array[~brain].any()
        assert (interval.lower.array <= whole + 1e-2).all()
        assert (interval.upper.array >= whole - 1e-2).all()
    assert (wide.upper.array >= narrow.upper.array).all()
    assert (wide.upper.array[brain] > narrow.upper.array[brain]).any()


def test_tiles_give_the_scale_of_the_whole(model: UniversalModel):
    standard = standardize(scan(("T1", "T2")))
    flair, lesion = predict_standard(model, standard)
    whole = predict_scale(model, standard, flair, lesion)
    half = flair.size // 2
    tiles = predict_scale(model, standard, flair, lesion, tile_voxels=half)
    assert whole.min() > 0
    assert_near(tiles, whole)


def test_a_model_without_intervals_is_refused(tiny):  # noqa: F811
    subject = scan(("T1",))
    standard = standardize(subject)
    flair, lesion = predict_standard(tiny, standard)
    with pytest.raises(InputError, match="no calibrated intervals"):
        predict_interval(tiny, subject, standard, flair, lesion)
    assert_allclose(standard.images.shape[:3], flair.shape)
