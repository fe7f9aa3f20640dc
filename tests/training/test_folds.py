"""Folds: partition of the participants, balanced by group."""

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
def test_folds_partition_participants_and_balance_groups(cohort, data):
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
def test_cohort_of_the_paper_gives_its_fold_sizes(seed: int):
    folds = make_folds(PAPER, 5, seed)
    assert [len(fold) for fold in folds] == [5, 5, 5, 5, 4]
    assert [Counter(PAPER[name] for name in fold)["HC"] for fold in folds] == [1, 1, 1, 1, 0]


def test_folds_depend_on_seed_not_on_order():
    backwards = dict(reversed(PAPER.items()))
    assert make_folds(PAPER, 5, 7) == make_folds(backwards, 5, 7)
    assert make_folds(PAPER, 5, 7) != make_folds(PAPER, 5, 8)


def test_zero_folds_are_leave_one_out():
    assert make_folds(PAPER, 0, 0) == [[name] for name in sorted(PAPER)]


@given(cohorts, st.data())
def test_split_separates_fold_and_training(cohort, data):
    folds = make_folds(cohort, 2, 0)
    fold = data.draw(st.integers(0, 1))
    training, heldout = split(folds, fold)
    assert heldout == folds[fold]
    assert sorted(training + heldout) == sorted(cohort)


@pytest.mark.parametrize("count", [-1, 1, 25])
def test_impossible_number_of_folds_is_refused(count: int):
    with pytest.raises(
        InputError, match=r"24 participants found; set config\.folds\.count between"
    ):
        make_folds(PAPER, count, 0)


def test_single_participant_is_refused():
    with pytest.raises(InputError, match="1 participant found; at least 2 are needed"):
        make_folds({"sub-01": "MS"}, 0, 0)


@pytest.mark.parametrize("fold", [-1, 5])
def test_unknown_fold_is_refused(fold: int):
    with pytest.raises(InputError, match=f"fold {fold} asked for; there are folds 0 to 4"):
        split(make_folds(PAPER, 5, 0), fold)
