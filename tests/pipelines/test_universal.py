"""Training of a universal model: it goes on where it was cut off, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console

from flaxflair.config.universal import UniversalConfig, validate
from flaxflair.configs.universal import get_config
from flaxflair.core.records import InputError
from flaxflair.pipelines import universal
from flaxflair.simulation.generator.storage import open_library, save_library
from flaxflair.training.universal_batches import Source, make_batch, simulate_ahead
from tests.simulation.test_generator import library  # noqa: F401  (a fixture)

CONSOLE = Console(quiet=True)


def tiny(steps: int) -> UniversalConfig:
    config = get_config("tiny")
    config.train.steps = steps
    config.library.labels = config.library.shapes = config.library.masks = "unread"
    return validate(config)


def prepared(workdir: Path, library) -> Path:  # noqa: F811
    workdir.mkdir()
    save_library(workdir / "library", library)
    return workdir


def test_a_training_cut_off_and_resumed_ends_with_the_same_weights(tmp_path, library):  # noqa: F811
    whole = universal.train(tiny(4), prepared(tmp_path / "whole", library), CONSOLE)
    parts = prepared(tmp_path / "parts", library)
    universal.train(tiny(2), parts, CONSOLE)
    resumed = universal.train(tiny(4), parts, CONSOLE)
    assert int(resumed.step) == 4
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert_array_equal(a, b)


def test_batches_do_not_depend_on_the_number_of_processes(tmp_path, library):  # noqa: F811
    save_library(tmp_path / "library", library)
    source = Source(tmp_path / "library", 3, 16, 2, 2)
    with simulate_ahead(source, 5, 2) as batches:
        ahead = [next(batches) for _ in range(3)]
    for step, batch in enumerate(ahead, start=5):
        expected = make_batch(open_library(source.library), [], source, step)
        for a, b in zip(batch, expected, strict=True):
            assert_allclose(np.asarray(a), np.asarray(b))


def test_another_configuration_of_the_same_folder_is_refused(tmp_path, library):  # noqa: F811
    workdir = prepared(tmp_path / "run", library)
    universal.train(tiny(1), workdir, CONSOLE)
    other = tiny(1)
    other.train.learning_rate = 0.5
    with pytest.raises(InputError, match=r"train\.learning_rate 0\.0015 and 0\.5"):
        universal.train(other, workdir, CONSOLE)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("library.labels", "", "name the folder"),
        ("train.steps", 0, "at least 1"),
        ("train.window", 20, "a multiple of 8"),
        ("train.learning_rate", 0.0, "above 0"),
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
