"""Statistics: known answers, by hand or from the papers that define them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from flaxflair.evaluation.statistics import compare, holm, rank_agreement


def test_five_agreeing_pairs_have_the_minimum_p():
    result = compare(np.array([2.0, 3, 4, 5, 6]), np.array([1.0, 1, 1, 1, 1]))
    assert result == (5, 3.0, 2 / 2**5, 1.0)


def test_effect_is_the_difference_of_rank_shares():
    result = compare(np.array([1.0, 2, -3, 4]), np.zeros(4))
    assert_allclose(result.effect, (1 + 2 + 4 - 3) / 10)
    assert result.median_difference == 1.5
    # Of 16 signs of the ranks 1 to 4, those with a smaller sum of 3 or less: 5, on either side.
    assert_allclose(result.p, 10 / 16)


def test_swapped_methods_change_the_sign_only():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 20))
    forth, back = compare(first, second), compare(second, first)
    assert_allclose(back, (20, -forth.median_difference, forth.p, -forth.effect))
    exact: Any = stats.wilcoxon(first, second, method="exact")
    assert_allclose(forth.p, exact.pvalue)


def test_undefined_pairs_are_ignored():
    first = np.array([1.0, 2, np.nan, 4, 5, np.inf])
    second = np.array([0.0, 0, 0, np.nan, 0, 0])
    assert compare(first, second) == compare(np.array([1.0, 2, 5]), np.zeros(3))


def test_equal_differences_are_tested_exactly():
    result = compare(np.array([1.0, 1, 1, 1, 1, -1]), np.zeros(6))
    assert_allclose(result.p, stats.binomtest(1, 6).pvalue)
    assert_allclose(result.effect, 4 / 6)


def test_equal_pairs_have_no_rank():
    result = compare(np.array([0.0, 0, 1, 2, 3]), np.zeros(5))
    assert result == (5, 1.0, 2 / 2**3, 1.0)


def test_equal_methods_have_p_one():
    assert compare(np.ones(4), np.ones(4)) == (4, 0.0, 1.0, 0.0)


def test_comparison_without_pairs_is_nan():
    assert compare(np.array([np.nan, 1]), np.array([1, np.nan])).pairs == 0
    assert np.isnan(compare(np.array([]), np.array([]))[1:]).all()


def test_scores_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"found \(3,\) and \(2,\)"):
        compare(np.ones(3), np.ones(2))


def test_holm_is_monotone():
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_ignores_undefined_p_values():
    assert_allclose(holm([0.01, np.nan, 0.02]), [0.02, np.nan, 0.02])
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).size == 0


def test_holm_is_at_most_one():
    assert_allclose(holm([0.6, 0.9]), [1, 1])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], found \[1.5\]"):
        holm([0.5, 1.5])


def test_rank_agreement_of_one_exchange_among_four():
    result = rank_agreement(np.array([1, 2, 3, 4]), np.array([1.0, 3.0, 2.0, 40.0]))
    assert_allclose(result, (1 - 6 * 2 / (4 * 15), (5 - 1) / 6, 4))


@pytest.mark.parametrize(("b", "sign"), [([1, 4], 1), ([4, 1], -1)])
def test_rank_agreement_of_two_items(b: list[int], sign: int):
    assert_allclose(rank_agreement(np.array([0, 1]), np.array(b)), (sign, sign, 2))


def test_rank_agreement_ignores_undefined_items():
    known = rank_agreement(np.array([1, 2, np.nan, 3]), np.array([3.0, 2, 0, 1]))
    assert_allclose(known, (-1, -1, 3))


@pytest.mark.parametrize("a", [[1.0, 1, 1], [1.0, np.nan, np.nan], [np.nan] * 3])
def test_rank_agreement_is_undefined_without_an_order(a: list[float]):
    result = rank_agreement(np.array(a), np.array([1.0, 2, 3]))
    assert np.isnan(result[:2]).all()
    assert result.n == np.isfinite(a).sum()
