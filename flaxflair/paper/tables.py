"""Tables: our numbers beside the published ones, for readers and for programs.

Knows results by key, and nothing of where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from flaxflair.paper.published import Published
from flaxflair.report import Cell, Group, Table
from flaxflair.significance import Comparison, compare, holm
from flaxflair.volume import Array

NOTHING = "–"
# A ratio may differ by so much from the published one before a remark is due.
TOLERANCE = 0.1
# So much is worth one where ours and the published ratio lie on two sides of one.
NOTABLE = 0.02


def summarize(by_fold: Mapping[int, Array]) -> Published:
    """Returns means and SDs over subjects, and their averages over folds, as the paper prints them.

    Args:
      by_fold: fold -> a score of each of its subjects; what is not finite is left out.
    """
    known = [values[np.isfinite(values)] for values in by_fold.values()]
    means = tuple(float(v.mean()) if v.size else math.nan for v in known)
    spreads = tuple(float(v.std(ddof=1)) if v.size > 1 else math.nan for v in known)
    return Published(_mean(means), _mean(spreads), means, spreads)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


@dataclass(frozen=True)
class Twin:
    """One table of ours and its published twin.

    Attributes:
      metric: heading of the values (`MSE`).
      labels: key -> name of the row, in order.
      ours: key -> result.
      theirs: key -> published result; keys may be missing.
      reference: the key to which ratios are formed.
      tested: key -> scores of single subjects, all of the same ones in the same order; those of the
        reference too. Empty for no tests.
      best: whether the lowest or the highest value is marked; None for none.
      digits: of our values.
      their_digits: of theirs.
    """

    metric: str
    labels: Mapping[Any, str]
    ours: Mapping[Any, Published]
    theirs: Mapping[Any, Published]
    reference: Any
    tested: Mapping[Any, Array] = field(default_factory=dict)
    best: Literal["lowest", "highest"] | None = None
    digits: int = 1
    their_digits: int = 2

    def ratio(self, key: Any, of: Mapping[Any, Published]) -> float:
        """Returns a result relative to the reference's, NaN if one is missing."""
        if key not in of or self.reference not in of:
            return math.nan
        below = of[self.reference].mean
        return of[key].mean / below if below else math.nan

    def tests(self) -> dict[Any, tuple[Comparison, float]]:
        """Returns key -> comparison with the reference, and p adjusted for all of this table's."""
        if self.reference not in self.tested:
            return {}
        against = self.tested[self.reference]
        found = {
            key: compare(values, against)
            for key, values in self.tested.items()
            if key != self.reference
        }
        adjusted = holm([comparison.p for comparison in found.values()])
        return {
            key: (comparison, float(p))
            for (key, comparison), p in zip(found.items(), adjusted, strict=True)
        }

    def table(self, caption: str, reference: str, footnote: str = "") -> Table:
        """Returns the table; `reference` is how headings name the reference."""
        tests = self.tests()
        ours = [self.metric, f"× {reference}"] + (["p", "effect"] if tests else [])
        groups = (Group("ours", len(ours)), Group("published", 2))
        best = self._best()
        rows = []
        for key, label in self.labels.items():
            mine = self.ours.get(key)
            cells: list[Cell | str] = [
                Cell(say_value(mine, self.digits), "best" if key == best else "plain"),
                say_number(self.ratio(key, self.ours), 3),
            ]
            if tests:
                comparison, p = tests.get(key, (None, math.nan))
                effect = math.nan if comparison is None else comparison.effect
                cells += [_p(p), say_number(effect, 2, sign=True)]
            cells += [
                say_value(self.theirs.get(key), self.their_digits),
                say_number(self.ratio(key, self.theirs), 3),
            ]
            rows.append((label, *cells))
        said = [footnote] if footnote else []
        if tests:
            pairs = sorted({comparison.pairs for comparison, _ in tests.values()})
            said.append(
                f"p: two-sided Wilcoxon signed-rank test against {reference}, over "
                f"{' or '.join(map(str, pairs))} subjects, adjusted for {len(tests)} comparisons "
                "(Holm). Effect: matched-pairs rank-biserial correlation, +1 where every subject "
                "has more."
            )
        return Table(
            caption, ("", *ours, self.metric, f"× {reference}"), tuple(rows), groups, " ".join(said)
        )

    def folds(self, caption: str) -> Table:
        """Returns the table fold by fold, of what both have, methods side by side."""
        keys = [key for key in self.labels if key in self.ours and key in self.theirs]
        count = max(len(of[key].folds) for of in (self.ours, self.theirs) for key in keys)
        rows = []
        for fold in range(count):
            mine = [_fold(self.ours[key], fold, self.digits) for key in keys]
            printed = [_fold(self.theirs[key], fold, self.their_digits) for key in keys]
            rows.append((f"Fold {fold + 1}", *mine, *printed))
        averages = [say_number(self.ours[key].mean, self.digits) for key in keys]
        averages += [say_number(self.theirs[key].mean, self.their_digits) for key in keys]
        rows.append(("Average", *averages))
        groups = (Group("ours", len(keys)), Group("published", len(keys)))
        columns = ("", *(self.labels[key] for key in [*keys, *keys]))
        return Table(caption, columns, tuple(rows), groups, closing=1)

    def numbers(self) -> dict[str, Any]:
        """Returns the same for programs: key -> ours, published, test."""
        tests = self.tests()
        told = {}
        for key in self.labels:
            entry: dict[str, Any] = {}
            for name, of in (("ours", self.ours), ("published", self.theirs)):
                if key in of:
                    entry[name] = {**of[key]._asdict(), "ratio": self.ratio(key, of)}
            if key in tests:
                comparison, p = tests[key]
                entry["test"] = {**comparison._asdict(), "p_adjusted": p}
            told["-".join(key) if isinstance(key, tuple) else str(key)] = entry
        return told

    def differences(self) -> list[tuple[Any, float, float]]:
        """Returns (key, our ratio, theirs) wherever the two tell another story.

        They do where they differ by more than a tenth, or lie clearly on two sides of one.
        """
        found = []
        for key in self.labels:
            mine, printed = self.ratio(key, self.ours), self.ratio(key, self.theirs)
            if not (math.isfinite(mine) and math.isfinite(printed)):
                continue
            apart = abs(mine / printed - 1)
            if apart > TOLERANCE or (apart > NOTABLE and (mine - 1) * (printed - 1) < 0):
                found.append((key, mine, printed))
        return found

    def _best(self) -> Any:
        known = {
            key: result.mean
            for key, result in self.ours.items()
            if key in self.labels and math.isfinite(result.mean)
        }
        if not known or self.best is None:
            return None
        return (min if self.best == "lowest" else max)(known, key=known.__getitem__)


def say_value(result: Published | None, digits: int) -> str:
    """Returns `918.07 (41.70)`, or a dash for what is not known."""
    if result is None or not math.isfinite(result.mean):
        return NOTHING
    spread = f" ({result.sd:.{digits}f})" if math.isfinite(result.sd) else ""
    return f"{result.mean:.{digits}f}{spread}"


def _fold(result: Published, fold: int, digits: int) -> str:
    if fold >= len(result.folds):
        return NOTHING
    spread = result.folds_sd[fold] if fold < len(result.folds_sd) else math.nan
    return say_value(Published(result.folds[fold], spread), digits)


def say_number(value: float, digits: int, *, sign: bool = False) -> str:
    """Returns a number, or a dash for NaN."""
    return f"{value:{'+' if sign else ''}.{digits}f}" if math.isfinite(value) else NOTHING


def _p(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"
