"""STOP_p, against the two bullets of Wei et al. 2019, section 2.3, transcribed word by word."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxflair.training.early_stopping import should_stop


def stop(p: int, t: int, q: int, errors: dict[int, float]) -> bool:
    """Whether STOP_p stops after epoch t, E_ge being known after epochs 1, 2, ….

    • STOP_p: stop after epoch t iff STOP_(p-1) stops after epoch t - q and E_ge(t) > E_ge(t - q)
    • STOP_1: stop after (first) end-of-strip epoch t and E_ge(t) > E_ge(t - q)
    """
    increased = t - q >= 1 and errors[t] > errors[t - q]
    if p == 1:
        return t % q == 0 and increased
    return increased and stop(p - 1, t - q, q, errors)


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan]), max_size=60),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_stopping_follows_the_definition_of_the_paper(curve, p, q):
    errors = dict(enumerate(curve, start=1))
    for t in errors:
        assert should_stop(curve[:t], p, q) == stop(p, t, q, errors)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 3), st.integers(1, 5))
def test_rising_error_stops_after_p_plus_one_strips(steps, p, q):
    curve = [sum(steps[: t + 1]) + t for t in range(len(steps))]
    stops = [t for t in range(1, len(curve) + 1) if should_stop(curve[:t], p, q)]
    assert stops[:1] == [(p + 1) * q][: len(curve) >= (p + 1) * q]


def test_first_stop_with_the_parameters_of_the_paper_is_epoch_twenty():
    rising = [float(t) for t in range(1, 41)]
    assert [t for t in range(41) if should_stop(rising[:t], 3, 5)] == [20, 25, 30, 35, 40]


def test_errors_inside_a_strip_are_ignored():
    strips = [9, 0, 9, 0, 1], [0, 9, 0, 9, 2], [9, 0, 9, 9, 3]
    assert should_stop([float(error) for strip in strips for error in strip], 2, 5)


@pytest.mark.parametrize("strips", [0, -1])
def test_zero_strips_never_stop(strips: int):
    assert not any(should_stop([float(t) for t in range(n)], strips, 5) for n in range(40))
