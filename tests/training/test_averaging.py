"""Averages of weights: between both models, and a share that is chosen by other participants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from flaxflair.networks.network import Params
from flaxflair.training.averaging import CAUTIOUS, Errors, average, choose_share, errors_after


def params(value: float) -> Params:
    return Params({"kernel": jnp.full((2, 3), value), "bias": jnp.array([value, 1.0])})


def errors(*tuned: float, before: float = 1.0) -> Errors:
    return Errors(before, dict(zip((0.5, 1.0), tuned, strict=True)), 0.0)


def test_an_average_lies_between_both_models_by_its_share():
    one, other = params(1.0), params(3.0)
    bias, kernel = jax.tree.leaves(average(one, other, 0.25))
    assert_allclose(bias, [1.5, 1.0])
    assert_allclose(kernel, np.full((2, 3), 1.5))
    assert (bias.dtype, kernel.dtype) == (np.float32, np.float32)
    for share, same in ((0.0, one), (1.0, other)):
        mixed = jax.tree.leaves(average(one, other, share))
        for a, b in zip(mixed, jax.tree.leaves(same), strict=True):
            assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("left_out", "share"),
    [
        ([], CAUTIOUS),
        ([errors(0.3, 0.2)], 1.0),
        ([errors(0.3, 0.2), errors(0.3, 0.5)], 0.5),
        ([errors(0.25, 0.25)], 0.5),
    ],
)
def test_the_share_of_least_mean_error_is_chosen_and_the_smaller_of_equal_ones(left_out, share):
    assert choose_share(left_out) == share


def test_the_error_of_a_participant_has_no_part_in_the_choice_of_its_share():
    left_out = [errors(0.3, 0.2), errors(0.3, 0.5), errors(0.5, 0.4)]
    assert errors_after(left_out) == [0.3, 0.5, 0.5]
    assert errors_after([errors(0.1, 0.9), errors(0.8, 0.2)]) == [0.9, 0.8]
