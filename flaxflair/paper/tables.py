"""Tables of reproduced beside published results, for readers and for programs.

Independent of the origin of the results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from flaxflair.core.records import Array
from flaxflair.evaluation.statistics import Comparison, compare, holm
from flaxflair.paper.published import Published
from flaxflair.visualization.report import Cell, Group, Table

NOTHING = "–"
# Relative difference of a ratio from the published one beyond which a remark is added.
TOLERANCE = 0.1
# The same if the two ratios are on different sides of one.
NOTABLE = 0.02


def summarize(by_fold: Mapping[int, Array]) -> Published:
    """Returns mean and SD over the subjects of each fold, and their averages over folds.

    Args:
      by_fold: fold -> a score of each of its subjects; non-finite scores are ignored.
    """
    known = [values[np.isfinite(values)] for values in by_fold.values()]
    means = tuple(float(v.mean()) if v.size else math.nan for v in known)
    spreads = tuple(float(v.std(ddof=1)) if v.size > 1 else math.nan for v in known)
    return Published(_mean(means), _mean(spreads), means, spreads)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


@dataclass(frozen=True)
class TableComparison:
    """A reproduced table and its published counterpart.

    Attributes:
      metric: heading of the values (`MSE`).
      labels: key -> name of the row, in order.
      reproduced: key -> result.
      published: key -> published result; keys may be missing.
      reference: key of the denominator of ratios.
      tested: key -> scores of single subjects, in the same order for all keys, including the
        reference. Empty for no tests.
      best: whether the lowest or the highest value is marked; None for none.
      digits: digits of reproduced values.
      published_digits: digits of published values.
    """

    metric: str
    labels: Mapping[Any, str]
    reproduced: Mapping[Any, Published]
    published: Mapping[Any, Published]
    reference: Any
    tested: Mapping[Any, Array] = field(default_factory=dict)
    best: Literal["lowest", "highest"] | None = None
    digits: int = 1
    published_digits: int = 2

    def ratio(self, key: Any, of: Mapping[Any, Published]) -> float:
        """Returns a result relative to the reference's, NaN if one is missing."""
        if key not in of or self.reference not in of:
            return math.nan
        below = of[self.reference].mean
        return of[key].mean / below if below else math.nan

    def tests(self) -> dict[Any, tuple[Comparison, float]]:
        """Returns key -> comparison with the reference, and p adjusted over this table."""
        if self.reference not in self.tested:
            return {}
        reference = self.tested[self.reference]
        found = {
            key: compare(values, reference)
            for key, values in self.tested.items()
            if key != self.reference
        }
        adjusted = holm([comparison.p for comparison in found.values()])
        return {
            key: (comparison, float(p))
            for (key, comparison), p in zip(found.items(), adjusted, strict=True)
        }

    def table(self, caption: str, reference: str, footnote: str = "") -> Table:
        """Returns the table; `reference` is the name of the reference in headings."""
        tests = self.tests()
        columns = [self.metric, f"× {reference}"] + (["p", "effect"] if tests else [])
        groups = (Group("ours", len(columns)), Group("published", 2))
        best = self._best()
        rows = []
        for key, label in self.labels.items():
            result = self.reproduced.get(key)
            cells: list[Cell | str] = [
                Cell(format_value(result, self.digits), "best" if key == best else "plain"),
                format_number(self.ratio(key, self.reproduced), 3),
            ]
            if tests:
                comparison, p = tests.get(key, (None, math.nan))
                effect = math.nan if comparison is None else comparison.effect
                cells += [_p(p), format_number(effect, 2, sign=True)]
            cells += [
                format_value(self.published.get(key), self.published_digits),
                format_number(self.ratio(key, self.published), 3),
            ]
            rows.append((label, *cells))
        notes = [footnote] if footnote else []
        if tests:
            pairs = sorted({comparison.pairs for comparison, _ in tests.values()})
            notes.append(
                f"p: two-sided Wilcoxon signed-rank test against {reference}, over "
                f"{' or '.join(map(str, pairs))} subjects, adjusted for {len(tests)} comparisons "
                "(Holm). Effect: matched-pairs rank-biserial correlation, +1 if the value is "
                "larger in every subject."
            )
        return Table(
            caption,
            ("", *columns, self.metric, f"× {reference}"),
            tuple(rows),
            groups,
            " ".join(notes),
        )

    def folds(self, caption: str) -> Table:
        """Returns the table by fold, of the keys that are both reproduced and published."""
        keys = [key for key in self.labels if key in self.reproduced and key in self.published]
        count = max(len(of[key].folds) for of in (self.reproduced, self.published) for key in keys)
        rows = []
        for fold in range(count):
            reproduced = [_fold(self.reproduced[key], fold, self.digits) for key in keys]
            published = [_fold(self.published[key], fold, self.published_digits) for key in keys]
            rows.append((f"Fold {fold + 1}", *reproduced, *published))
        averages = [format_number(self.reproduced[key].mean, self.digits) for key in keys]
        averages += [format_number(self.published[key].mean, self.published_digits) for key in keys]
        rows.append(("Average", *averages))
        groups = (Group("ours", len(keys)), Group("published", len(keys)))
        columns = ("", *(self.labels[key] for key in [*keys, *keys]))
        return Table(caption, columns, tuple(rows), groups, closing=1)

    def numbers(self) -> dict[str, Any]:
        """Returns the table as plain numbers: key -> ours, published, test."""
        tests = self.tests()
        numbers = {}
        for key in self.labels:
            entry: dict[str, Any] = {}
            for name, of in (("ours", self.reproduced), ("published", self.published)):
                if key in of:
                    entry[name] = {**of[key]._asdict(), "ratio": self.ratio(key, of)}
            if key in tests:
                comparison, p = tests[key]
                entry["test"] = {**comparison._asdict(), "p_adjusted": p}
            numbers["-".join(key) if isinstance(key, tuple) else str(key)] = entry
        return numbers

    def differences(self) -> list[tuple[Any, float, float]]:
        """Returns (key, reproduced ratio, published ratio) where the two disagree.

        They disagree if they differ by more than a tenth, or are clearly on different sides of one.
        """
        found = []
        for key in self.labels:
            ratio, published = self.ratio(key, self.reproduced), self.ratio(key, self.published)
            if not (math.isfinite(ratio) and math.isfinite(published)):
                continue
            change = abs(ratio / published - 1)
            if change > TOLERANCE or (change > NOTABLE and (ratio - 1) * (published - 1) < 0):
                found.append((key, ratio, published))
        return found

    def _best(self) -> Any:
        known = {
            key: result.mean
            for key, result in self.reproduced.items()
            if key in self.labels and math.isfinite(result.mean)
        }
        if not known or self.best is None:
            return None
        return (min if self.best == "lowest" else max)(known, key=known.__getitem__)


def format_value(result: Published | None, digits: int) -> str:
    """Formats mean and SD, `918.07 (41.70)`; a dash if undefined."""
    if result is None or not math.isfinite(result.mean):
        return NOTHING
    spread = f" ({result.sd:.{digits}f})" if math.isfinite(result.sd) else ""
    return f"{result.mean:.{digits}f}{spread}"


def _fold(result: Published, fold: int, digits: int) -> str:
    if fold >= len(result.folds):
        return NOTHING
    spread = result.folds_sd[fold] if fold < len(result.folds_sd) else math.nan
    return format_value(Published(result.folds[fold], spread), digits)


def format_number(value: float, digits: int, *, sign: bool = False) -> str:
    """Formats a number; a dash if undefined."""
    return f"{value:{'+' if sign else ''}.{digits}f}" if math.isfinite(value) else NOTHING


def _p(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"
