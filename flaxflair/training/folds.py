"""Folds of a cross-validation, stratified by group. Independent of images.

Source: Wei et al. 2019, section 2.3: 24 subjects in folds of 5, 5, 5, 5 and 4, with one of the four
healthy volunteers in each of the first four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxflair.core.records import InputError


def make_folds(groups: Mapping[str, str], count: int, seed: int) -> list[list[str]]:
    """Partitions participants into folds, with each group distributed as evenly as possible.

    Each group is shuffled and distributed in equal shares; the remainder goes to the folds that are
    smallest so far. Small groups are distributed first, so that they are balanced best.

    Args:
      groups: participant -> group.
      count: number of folds; 0 leaves one participant out at a time.
      seed: seed of the shuffle.

    Returns:
      `count` sorted lists of participants, which together contain each of them once.

    Raises:
      InputError: fewer than two participants, or fewer participants than folds.
    """
    if len(groups) < 2:
        raise InputError(f"{len(groups)} participant found; at least 2 are needed to hold one out")
    if count == 0:
        return [[name] for name in sorted(groups)]
    if not 2 <= count <= len(groups):
        raise InputError(
            f"{count} folds asked for and {len(groups)} participants found; "
            f"set config.folds.count between 2 and {len(groups)}"
        )
    folds: list[list[str]] = [[] for _ in range(count)]
    by_size = sorted(set(groups.values()), key=lambda g: (list(groups.values()).count(g), g))
    for address, group in enumerate(by_size):
        members = sorted(name for name in groups if groups[name] == group)
        np.random.default_rng([seed, address]).shuffle(members)
        share = len(members) // count
        for fold in folds:
            fold += [members.pop() for _ in range(share)]
        for fold in sorted(folds, key=len)[: len(members)]:
            fold.append(members.pop())
    return [sorted(fold) for fold in folds]


def split(folds: Sequence[Sequence[str]], fold: int) -> tuple[list[str], list[str]]:
    """Returns the (training, held-out) participants of one fold.

    Raises:
      InputError: there is no such fold.
    """
    if not 0 <= fold < len(folds):
        raise InputError(f"fold {fold} asked for; there are folds 0 to {len(folds) - 1}")
    training = [name for index, names in enumerate(folds) if index != fold for name in names]
    return sorted(training), sorted(folds[fold])
