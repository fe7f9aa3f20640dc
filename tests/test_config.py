"""Configurations and pulse sequences: what can be chosen, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flaxflair.config import Config, validate
from flaxflair.config.fields import differences, from_json, to_json
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS, SEQUENCES, TARGET, identify, parse_inputs

REFUSED = [
    ("data.region", "head"),
    ("data.inputs", ("T1", "T7")),
    ("data.inputs", ()),
    ("data.phantom.scale", 0.0),
    ("data.phantom.scale", 1.5),
    ("normalization.method", "none"),
    ("normalization.statistics", "test"),
    ("network.dtype", "float16"),
    ("network.init", "zeros"),
    ("network.layers", 0),
    ("network.filters", -1),
    ("train.schedule", "linear"),
    ("train.learning_rate", 0.0),
    ("train.learning_rate", float("nan")),
    ("train.learning_rate", float("inf")),
    ("folds.seed", -1),
    ("folds.seed", 2**32),
    ("data.phantom.seed", -1),
    ("train.epochs", 0),
    ("train.batch", 0),
    ("train.windows_per_subject", 0),
    ("train.window", (16, 0, 16)),
    ("train.window", (-1, -1, -1)),
    ("train.window", (16, 16)),
    ("stop.monitor", "test"),
    ("stop.monitor", "none"),
    ("stop.keep", "first"),
    ("stop.every", 0),
    ("stop.every", 2),
    ("stop.patience", -1),
    ("stop.strip_length", 0),
    ("folds.count", -1),
    ("predict.batch", 0),
    ("predict.tile_voxels", -8),
    ("data.patterns", ("T1w",)),
    ("train.call", "run"),
    ("folds.at_once", 0),
    ("mesh.data", 2),
    ("mesh.space", 0),
]


def changed(path: str, value: Any) -> Config:
    """Returns the default configuration with one field set."""
    config = Config()
    *parents, name = path.split(".")
    owner: Any = config
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    return config


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_a_field_that_cannot_be_is_refused_by_name_with_what_to_choose(path: str, value: Any):
    with pytest.raises(InputError) as refusal:
        validate(changed(path, value))
    message = str(refusal.value)
    assert "config." in message
    assert path.removeprefix("data.phantom.").split(".")[-1] in message
    assert "; " in message


def test_the_defaults_are_the_papers_and_are_accepted():
    config = validate(Config())
    assert (config.network.layers, config.network.filters) == (3, 64)
    assert (config.train.optimizer, config.train.learning_rate, config.train.batch) == (
        "sgd",
        0.0005,
        1,
    )
    assert (config.stop.patience, config.stop.strip_length) == (3, 5)
    assert (config.data.phantom.subjects, config.data.phantom.healthy) == (24, 4)
    assert config.folds.count == 5
    assert config.data.inputs == INPUTS


def test_a_fit_that_monitors_no_error_keeps_its_last_weights():
    config = changed("stop.monitor", "none")
    config.stop.patience = 0
    with pytest.raises(InputError, match=r"stop\.keep is 'best' and no error is monitored"):
        validate(config)
    config.stop.keep = "last"
    validate(config)
    config.stop.patience = 3
    with pytest.raises(InputError, match=r"stop\.patience needs a monitored error"):
        validate(config)


def test_validation_brings_the_inputs_into_the_packages_order():
    assert validate(changed("data.inputs", ("dir", "t1"))).data.inputs == ("T1", "DIR")


def test_json_and_back_is_the_same_configuration():
    config = changed("train.window", (48, 48, 32))
    config.data.phantom.scale = 0.25
    config.data.inputs = ("T1", "T2")
    assert from_json(to_json(config)) == config
    assert to_json(from_json(to_json(config))) == to_json(config)


def test_a_field_that_json_does_not_name_has_its_default():
    assert from_json('{"network": {"filters": 8}}') == changed("network.filters", 8)


def test_differences_name_each_field_that_differs_with_both_values():
    ours = changed("network.filters", 8)
    ours.data.phantom.seed = 1
    assert differences(ours, Config()) == [
        "data.phantom.seed: 1 instead of 0",
        "network.filters: 8 instead of 64",
    ]
    assert differences(ours, ours) == []


def test_inputs_are_parsed_in_any_order_and_case_into_the_packages_order():
    assert parse_inputs("dir, t1 ,T1SE") == ("T1", "T1SE", "DIR")
    assert parse_inputs(tuple(reversed(INPUTS))) == INPUTS
    assert TARGET not in INPUTS


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("T1,T9", "unknown input sequence 'T9'; choose from T1, T1SE, T2, PD, DIR"),
        ("T1,FLAIR", "unknown input sequence 'FLAIR'"),
        (" , ", "no input sequence named; choose from"),
        ("T1,t1", "named twice in T1,T1"),
    ],
)
def test_inputs_that_cannot_be_are_refused(names: str, found: str):
    with pytest.raises(ValueError, match=found):
        parse_inputs(names)


def test_every_sequence_is_identified_by_its_own_spelling_and_by_no_other():
    for sequence in SEQUENCES.values():
        entities = {"acq": sequence.acquisition} if sequence.acquisition else {}
        assert identify(sequence.suffix, entities) == sequence.name
    assert identify("mask", {}) is None


POST_CONTRAST = (
    *("T1Gd", "mprageGd", "Gd3D", "SEgd", "segd", "SEGd", "mprageCE", "MPRAGEpost", "postMPRAGE"),
    *("mpragepost", "MPRAGEPost", "KM", "T1km", "enhanced", "T1c", "t1wCE", "CE", "contrast"),
    *("gadovist", "1mmGd", "axT1Gd", "postOpGd", "T1mapGd", "MPRAGEGD", "post-gd", "noFSGd"),
)
NOT_PLAIN = (
    *("sub", "subtraction", "INV1", "inv2", "T1map", "tof", "TOF3D", "MIP", "MinIP", "scout"),
    *("localizer", "localiser", "postSub", "swi", "mra"),
)
PLAIN = (
    *("mprage", "tse", "3D", "iso", "highres", "sag", "ABCD", "precontrast", "nocontrast", "pre"),
    *("preGd", "noGd", "T1preGd", "noCEmprage", "SEnoGd", "unenhanced", "nativ", "postop"),
    *("postOp", "PostTreatment", "posterior", "SPACE", "space3D", "SENSE", "1mm", "submm"),
    *("MP2RAGE", "UNI", "mpr", "FSPGR", "facE", "baseline", "PACE", "ADNI2", "p2"),
)


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("acq-highres_T2w", "T2"),
        ("acq-3D_FLAIR", "FLAIR"),
        ("acq-dir_T2w", "DIR"),
        ("acq-Dir_T2w", "DIR"),
        ("acq-3DDIR_T2w", "DIR"),
        ("acq-DIR_FLAIR", "DIR"),
        ("acq-direct_T2w", "T2"),
        ("acq-FLAIR_T2w", "FLAIR"),
        ("acq-3dflair_T2w", "FLAIR"),
        ("acq-FLAIR_T1w", "T1"),
        ("acq-PD_T2w", "PD"),
        ("acq-se_T1w", "T1SE"),
        ("acq-sense_T1w", "T1"),
        ("ce-gadolinium_T1w", None),
        ("ce-gadolinium_FLAIR", None),
        ("acq-postgd_T1w", None),
        ("acq-T1ce_T1w", None),
        ("acq-Gd_T1w", None),
        ("part-mag_T1w", "T1"),
        ("part-phase_T1w", None),
        ("part-real_T2w", None),
        ("part-imag_FLAIR", None),
        ("acq-SE_ce-gd_T1w", None),
        ("run-1_rec-norm_T1w", "T1"),
        *((f"acq-{label}_T1w", None) for label in POST_CONTRAST),
        *((f"acq-{label}_FLAIR", None) for label in POST_CONTRAST),
        ("rec-post_T1w", None),
        *((f"{entity}-{label}_T1w", None) for label in NOT_PLAIN for entity in ("acq", "rec")),
        *((f"acq-{label}_T2w", None) for label in ("t2star", "T2starw", "swi", "STIR", "tirm")),
        *((f"acq-{label}_T1w", "T1") for label in PLAIN),
        *((f"acq-{label}_T2w", "T2") for label in PLAIN),
        *((f"ce-{label}_T1w", "T1") for label in ("none", "no", "pre", "None")),
        *((f"rec-{label}_T1w", "T1") for label in ("norm", "dis2d", "DIS3D", "moco")),
        *((f"acq-{label}_T2w", "FLAIR") for label in ("darkfluid", "dark-fluid", "tirmDarkFluid")),
        *((f"acq-{label}_T2w", "DIR") for label in ("spaceDir", "SPACEDIR", "dir3d", "FOODIR")),
        *((f"acq-{label}_T2w", "T2") for label in ("DIRECT", "REDIRECTED", "INDIRECT", "redir")),
    ],
)
def test_what_a_name_says_is_what_one_table_says(name: str, sequence: str | None):
    *parts, suffix = name.split("_")
    assert identify(suffix, dict(part.split("-", 1) for part in parts)) == sequence
