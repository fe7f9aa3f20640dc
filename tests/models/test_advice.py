"""Advice on sequences: a table of every subset, and comparisons of what could be added."""

from __future__ import annotations

from itertools import combinations

import pytest

from flaxflair.cli import main
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.io.bids import write_json
from flaxflair.models.advice import TABLE, compare, expected_of
from flaxflair.models.saving import digest_model, load_model


def test_the_table_holds_every_subset_and_is_of_the_model_in_the_package():
    for number in range(1, len(INPUTS) + 1):
        for subset in combinations(INPUTS, number):
            found = expected_of(subset)
            assert found.sequences == subset
            assert 0 < found.nmse < 2
            assert found.width > 0
    assert read_object(TABLE, "")["model"] == digest_model(load_model())


def test_every_addition_is_compared_the_smallest_first():
    added = [names for names, _ in compare(["T2"], ["PD", "T1"])]
    assert added == [(), ("PD",), ("T1",), ("PD", "T1")]


@pytest.mark.parametrize(
    ("have", "could", "message"),
    [
        (["T9"], [], "T9 is not an input; choose from T1, "),
        ([], [], "nothing is not an input"),
        (["T1"], ["T1", "T2"], "T1 is among those that there are"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(have, could, message):
    with pytest.raises(InputError, match=message):
        list(compare(have, could))


def test_a_damaged_table_is_named(tmp_path):
    write_json(tmp_path / "subsets.json", {"subsets": {"T1": {"nmse": 1.0}}})
    with pytest.raises(InputError, match=r"subsets.json: has no valid row of T1"):
        expected_of(["T1"], tmp_path / "subsets.json")


def test_the_command_prints_a_row_for_each_addition(capsys):
    assert main(["advise", "--have", "T1", "--could", "T2,PD"]) == 0
    out = capsys.readouterr().out
    for text in ("none (T1)", "T2+PD", "simulated"):
        assert text in out
    assert main(["advise", "--have", "T1,T9"]) == 1
    assert "T9 is not an input" in capsys.readouterr().err
