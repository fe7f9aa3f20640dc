"""Folds: everyone is held out once, and every group is spread evenly."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxflair.core.records import InputError
from flaxflair.training.folds import make_folds, split

PAPER = {f"sub-{n:02d}": "HC" if n > 20 else "MS" for n in range(1, 25)}

cohorts = st.lists(st.sampled_from(["MS", "HC", "CIS", ""]), min_size=2, max_size=40).map(
    lambda groups: {f"sub-{n:02d}": group for n, group in enumerate(groups)}
)


@given(cohorts, st.data())
def test_every_participant_is_held_out_once_and_every_group_is_balanced_within_one(cohort, data):
    count = data.draw(st.integers(2, len(cohort)))
    folds = make_folds(cohort, count, data.draw(st.integers(0, 2**32)))
    assert len(folds) == count
    assert sorted(name for fold in folds for name in fold) == sorted(cohort)
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for group in set(cohort.values()):
        shares = [sum(cohort[name] == group for name in fold) for fold in folds]
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_the_papers_cohort_falls_into_the_papers_folds(seed: int):
    folds = make_folds(PAPER, 5, seed)
    assert [len(fold) for fold in folds] == [5, 5, 5, 5, 4]
    assert [Counter(PAPER[name] for name in fold)["HC"] for fold in folds] == [1, 1, 1, 1, 0]


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_participants():
    backwards = dict(reversed(PAPER.items()))
    assert make_folds(PAPER, 5, 7) == make_folds(backwards, 5, 7)
    assert make_folds(PAPER, 5, 7) != make_folds(PAPER, 5, 8)


def test_zero_folds_leave_one_participant_out_at_a_time():
    assert make_folds(PAPER, 0, 0) == [[name] for name in sorted(PAPER)]


@given(cohorts, st.data())
def test_a_split_is_the_fold_and_everyone_else(cohort, data):
    folds = make_folds(cohort, 2, 0)
    fold = data.draw(st.integers(0, 1))
    training, heldout = split(folds, fold)
    assert heldout == folds[fold]
    assert sorted(training + heldout) == sorted(cohort)


@pytest.mark.parametrize("count", [-1, 1, 25])
def test_a_number_of_folds_that_cannot_be_is_refused_with_the_range_that_can(count: int):
    with pytest.raises(
        InputError, match=r"24 participants found; set config\.folds\.count between"
    ):
        make_folds(PAPER, count, 0)


def test_a_cohort_of_one_cannot_be_cut():
    with pytest.raises(InputError, match="1 participant found; at least 2 are needed"):
        make_folds({"sub-01": "MS"}, 0, 0)


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_is_not_there_is_refused_with_those_that_are(fold: int):
    with pytest.raises(InputError, match=f"fold {fold} asked for; there are folds 0 to 4"):
        split(make_folds(PAPER, 5, 0), fold)
