"""Regression trees as plain arrays: grown by scikit-learn, stored and applied without it.

The nodes of all trees are concatenated. A node's children follow it, and a leaf's children are the
leaf itself, so that a traversal always terminates. Independent of images and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flaxflair.core.arrays import Spec, expect_arrays
from flaxflair.core.records import Array, InputError

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestRegressor

# Levels between two checks for rows that have reached their leaf.
_LEVELS = 4


class Trees(NamedTuple):
    """The nodes of a forest.

    Attributes:
      starts: int64[t + 1], the first node of each tree, and the number of nodes.
      feature: int32[n], the column compared at a node; 0 in a leaf.
      threshold: float32[n]; values of at most it go to the first child.
      children: int32[n, 2].
      value: float32[n], the mean of the training voxels that reached a node.
    """

    starts: Array
    feature: Array
    threshold: Array
    children: Array
    value: Array


def from_sklearn(forest: RandomForestRegressor) -> Trees:
    """Returns the nodes of a fitted forest, with identical decisions for every float32 input."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    starts = np.array([0, *accumulate(tree.node_count for tree in trees)], np.int64)
    parts = []
    for first, tree in zip(starts[:-1], trees, strict=True):
        left, right = tree.children_left, tree.children_right
        leaf, index = left < 0, np.arange(tree.node_count)
        children = np.where(leaf[:, None], index[:, None], np.stack([left, right], axis=1)) + first
        threshold = tree.threshold.astype(np.float32)
        # The next float32 below: rounded up, a threshold would let the value above it pass.
        rounded_up = threshold > tree.threshold
        threshold[rounded_up] = np.nextafter(threshold[rounded_up], np.float32(-np.inf))
        parts.append((np.where(leaf, 0, tree.feature), threshold, children, tree.value[:, 0, 0]))
    feature, threshold, children, value = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    return Trees(
        starts,
        feature.astype(np.int32),
        np.where(children[:, 0] == np.arange(len(value)), 0, threshold).astype(np.float32),
        children.astype(np.int32),
        value.astype(np.float32),
    )


def walk(trees: Trees, table: Array) -> Array:
    """Returns the mean of all trees for each row of a table, float32[r, features] -> float64[r]."""
    total = np.zeros(len(table))
    for first in trees.starts[:-1]:
        total += trees.value.take(_find_leaves(trees, int(first), table))
    return total / (len(trees.starts) - 1)


def _find_leaves(trees: Trees, first: int, table: Array) -> Array:
    flat, children = table.ravel(), trees.children.ravel()
    leaves = np.empty(len(table), np.intp)
    row, node = np.arange(len(table)), np.full(len(table), first)
    base = row * table.shape[1]
    while len(row):
        for _ in range(_LEVELS):
            beyond = flat.take(base + trees.feature.take(node)) > trees.threshold.take(node)
            node = children.take(2 * node + beyond).astype(np.intp)
        arrived = children.take(2 * node) == node
        leaves[row[arrived]] = node[arrived]
        going = np.flatnonzero(~arrived)
        row, node, base = row.take(going), node.take(going), base.take(going)
    return leaves


def pack(trees: Trees) -> dict[str, Array]:
    """Returns the arrays to store."""
    return trees._asdict()


def unpack(arrays: Mapping[str, Array], features: int) -> Trees:
    """Undoes `pack`.

    Args:
      arrays: stored arrays, which may be invalid.
      features: number of columns of the input tables.

    Raises:
      InputError: they are no trees over such tables.
    """
    expect_arrays(
        arrays,
        {
            "starts": Spec((None,), ("int64",)),
            "feature": Spec((None,), ("int32",)),
            "threshold": Spec((None,), ("float32",)),
            "children": Spec((None, 2), ("int32",)),
            "value": Spec((None,), ("float32",)),
        },
    )
    trees = Trees(**arrays)
    starts, count = trees.starts, len(trees.value)
    if {len(trees.feature), len(trees.threshold), len(trees.children)} != {count}:
        raise InputError("the arrays of the trees' nodes differ in length")
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 1).any():
        raise InputError("the first nodes of the trees do not match the number of nodes")
    if not ((trees.feature >= 0) & (trees.feature < features)).all():
        raise InputError(f"a tree uses a feature outside 0 to {features - 1}")
    index, ends = np.arange(count)[:, None], np.repeat(starts[1:], np.diff(starts))[:, None]
    leaf = (trees.children == index).all(axis=1, keepdims=True)
    if not (leaf | ((trees.children > index) & (trees.children < ends))).all():
        raise InputError("a node of a tree has a child that does not lie after it in its tree")
    return trees
