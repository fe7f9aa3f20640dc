"""Measures of predicted uncertainty."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flaxflair.evaluation.uncertainty import coverage, sparsification_error


def test_coverage_is_the_share_inside_ends_included():
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    assert coverage(truth, np.full(4, 1.0), np.full(4, 2.5)) == 0.5
    assert math.isnan(coverage(truth[:0], truth[:0], truth[:0]))


def test_a_scale_in_the_order_of_the_errors_has_no_sparsification_error():
    rng = np.random.default_rng(0)
    scale = rng.gamma(2, size=20_000)
    error = scale * np.abs(rng.laplace(size=scale.size))
    perfect, own, random, inverse = (
        sparsification_error(error, key)
        for key in (error**2, scale, rng.random(scale.size), -error)
    )
    assert perfect == pytest.approx(0, abs=1e-9)
    assert perfect < own < random < inverse
