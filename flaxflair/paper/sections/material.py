"""Results of studies that sections are made from, and blocks that several sections share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxflair.core.records import Subject
from flaxflair.paper import remarks
from flaxflair.paper.outcomes import Outcome
from flaxflair.paper.published import Published
from flaxflair.paper.segmentation import TRUTH, LesionSegmentation
from flaxflair.paper.studies import CONFIGS, Scale, Study
from flaxflair.paper.tables import TableComparison, summarize
from flaxflair.visualization.report import Block, Note

LABELS = {
    "forest": "random forest",
    "propagation": "modality propagation",
    "mlp": "perceptron",
    "unet": "U-Net",
    "fcn": "FCN",
    "least_squares": "least squares",
    TRUTH: "true FLAIR",
}
Numbers = dict[str, Any]


class Metric(NamedTuple):
    """Format of a metric: heading, digits of reproduced and published values, and the best end."""

    title: str
    digits: int
    published_digits: int
    best: Literal["lowest", "highest"] | None


METRICS = {
    "mse": Metric("MSE", 1, 2, "lowest"),
    "ssim": Metric("SSIM", 3, 3, "highest"),
    # The best contrast is the true FLAIR's, not the highest.
    "ratio1": Metric("Ratio 1", 3, 2, None),
    "ratio2": Metric("Ratio 2", 3, 2, None),
}


@dataclass(frozen=True)
class Material:
    """Data of the sections.

    Attributes:
      scale: size of the reproduction.
      studies: name -> study.
      outcomes: name -> results of each finished study.
      subjects: name -> subject, with every sequence.
      sequences: those of the subjects.
      lesions: fold -> lesions found; empty unless needed.
      timing: filters -> parameters and seconds a volume; empty unless needed.
      pictures: folder to draw into.
      phantom: whether the subjects are simulated by this package.
    """

    scale: Scale
    studies: Mapping[str, Study]
    outcomes: Mapping[str, Outcome]
    subjects: Mapping[str, Subject]
    sequences: Sequence[str]
    lesions: Mapping[int, LesionSegmentation]
    timing: Mapping[int, tuple[int, float]]
    pictures: Path
    phantom: bool

    def result(self, name: str, metric: str, folds: Sequence[int] | None = None) -> Published:
        """Returns a study's result in a metric, over some folds or all."""
        return summarize(self.outcomes[name].by_fold(metric, folds))

    def truth(self, metric: str, folds: Sequence[int]) -> Published:
        """Returns a metric of the true FLAIRs themselves, over some folds."""
        fcn = self.outcomes["fcn"]
        by_fold = {f: [fcn.truth[n].get(metric, math.nan) for n in fcn.folds[f]] for f in folds}
        return summarize({fold: np.array(values) for fold, values in by_fold.items()})

    def folds(self, names: Sequence[str]) -> list[int]:
        """Returns the folds that all of some studies have."""
        return sorted(set.intersection(*(set(self.outcomes[name].folds) for name in names)))


# Blocks of a section, its numbers, and the names of its studies.
SectionContent = tuple[list[Block], Numbers, list[str]]


def comparison_blocks(
    material: Material,
    part: str,
    comparison: TableComparison,
    caption: str,
    footnote: str = "",
    *,
    reference: str = "all",
) -> list[Block]:
    """Returns a table, and notes on its disagreements with the paper, grouped by explanation."""
    rows: dict[str, list[str]] = {}
    for key, ratio, published in comparison.differences():
        if material.phantom:
            reason = remarks.explain(part, comparison.metric, key)
        else:
            reason = remarks.describe_uncertainty(len(material.subjects))
        rows.setdefault(reason, []).append(
            f"{comparison.labels[key]} {ratio:.2f} and {published:.2f}"
        )
    heading = f"{comparison.metric} relative to the reference, here and published:"
    notes = [Note(f"{heading} {_list(cells)}. {reason}".strip()) for reason, cells in rows.items()]
    return [
        comparison.table(caption, LABELS.get(comparison.reference, reference), footnote),
        *notes,
    ]


def _list(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " * (len(items) > 1) + items[-1]


def methods_of(material: Material) -> list[str]:
    """Returns the methods whose study is finished."""
    return [name for name in CONFIGS if name in material.outcomes]


def most_lesion(material: Material, names: Sequence[str]) -> list[str]:
    """Returns names of subjects, the largest lesion volume first."""

    def load(name: str) -> int:
        lesion = material.subjects[name].masks.lesion
        return 0 if lesion is None else int(lesion.sum())

    return sorted(names, key=load, reverse=True)
