"""The verdict on a session: what measures and warnings make of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flaxflair.core.records import Verdict
from flaxflair.core.sequences import SEQUENCES
from flaxflair.evaluation.verdict import GRADES, MEASURES, describe_range, judge, split_name


def inside(limits: tuple[float, float]) -> float:
    """Returns a value within limits."""
    low, high = limits
    return low + 0.1 if math.isinf(high) else (low + high) / 2


USUAL = {
    name if not row.per_scan else f"{name}_T1": inside(row.good) for name, row in MEASURES.items()
}


def test_a_session_with_usual_measures_and_no_warning_is_good():
    assert judge(USUAL) == Verdict("good", ())


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_lowers_the_grade_in_one_sentence_that_names_the_scan(name: str):
    row = MEASURES[name]
    low, high = row.usable
    value = high + 0.1 if math.isfinite(high) else low - 0.1
    key = f"{name}_T1SE" if row.per_scan else name
    verdict = judge(USUAL | {key: value})
    assert verdict.grade == "unusable"
    (reason,) = verdict.reasons
    assert "{" not in reason
    assert ("T1SE" in reason) == row.per_scan


@pytest.mark.parametrize("name", MEASURES)
def test_the_range_of_usable_sessions_contains_that_of_good_ones(name: str):
    good, usable = MEASURES[name].good, MEASURES[name].usable
    assert usable[0] <= good[0] < good[1] <= usable[1]


def test_between_the_thresholds_the_session_is_to_be_looked_at():
    good, usable = MEASURES["noise"].good[1], MEASURES["noise"].usable[1]
    assert judge({"noise_T1": (good + usable) / 2}).grade == "look"


def test_a_warning_makes_look_and_is_a_reason():
    assert judge({}, ("the T2 is clipped",)) == Verdict("look", ("the T2 is clipped",))


def test_the_reasons_of_the_grade_come_first_and_none_twice():
    found = judge({"noise_T1": 0.2, "brain_volume": 300.0}, ("a warning", "a warning"))
    assert found.grade == "unusable"
    assert "mL" in found.reasons[0]
    assert len(found.reasons) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measure_that_is_not_finite_or_not_known_is_not_judged(value: float):
    assert judge({"noise_T1": value, "unknown": 1e9}).grade == "good"


@pytest.mark.parametrize("scan", SEQUENCES)
def test_the_name_of_a_measure_holds_its_sequence(scan: str):
    assert split_name(f"contrast_to_noise_{scan}") == ("contrast_to_noise", scan)
    assert split_name("brain_volume") == ("brain_volume", "")


def test_every_grade_is_explained():
    assert set(GRADES) == {"good", "look", "unusable"}


def test_the_documentation_has_the_ranges_of_every_measure():
    text = (Path(__file__).parents[2] / "docs" / "verdict.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for name, row in MEASURES.items():
        ranges = f"| {describe_range(row.good)} | {describe_range(row.usable)} |"
        assert rows[name].endswith(ranges)
