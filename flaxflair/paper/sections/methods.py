"""Tables 2 and 3: error, similarity and lesion contrast of every method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from flaxflair.paper import published
from flaxflair.paper.sections.material import (
    LABELS,
    METRICS,
    Material,
    SectionContent,
    comparison_blocks,
    methods_of,
)
from flaxflair.paper.segmentation import TRUTH
from flaxflair.paper.tables import TableComparison, format_number, format_value
from flaxflair.visualization.report import Block, Paragraph, Table


def make_table2(material: Material) -> SectionContent:
    """Returns Table 2: mean squared error and structural similarity."""
    names = methods_of(material)
    folds = material.folds(names)
    blocks: list[Block] = []
    numbers = {}
    for metric, long in (("mse", "Mean squared error"), ("ssim", "Structural similarity")):
        comparison = _by_method(material, names, folds, metric)
        blocks += comparison_blocks(
            material, "table2", comparison, f"{long} (SD), held-out subjects"
        )
        blocks.append(comparison.folds(f"{long} (SD), fold by fold"))
        numbers[metric] = comparison.numbers()
    noise = material.truth("noise_mse", folds)
    if math.isfinite(noise.mean):
        blocks.append(
            Paragraph(
                f"The true FLAIR's own noise has a mean squared error of {noise.mean:.1f}, which "
                "no method can go below."
            )
        )
        numbers["noise"] = noise._asdict()
    extra = TableComparison(
        "NMSE",
        {n: LABELS[n] for n in names},
        {n: material.result(n, "nmse_brain", folds) for n in names},
        {},
        "fcn",
        best="lowest",
        digits=3,
    )
    numbers["nmse_brain"] = extra.numbers()
    blocks.append(
        Table(
            "Error in the brain, relative to the true FLAIR's variance there (SD)",
            ("", "NMSE", "× FCN"),
            tuple(
                (
                    LABELS[n],
                    format_value(extra.reproduced[n], 3),
                    format_number(extra.ratio(n, extra.reproduced), 3),
                )
                for n in names
            ),
        )
    )
    return blocks, numbers, names


def _by_method(
    material: Material, names: Sequence[str], folds: Sequence[int], metric: str
) -> TableComparison:
    style = METRICS[metric]
    return TableComparison(
        style.title,
        {name: LABELS[name] for name in names},
        {name: material.result(name, metric, folds) for name in names},
        published.SCORES[metric],
        reference="fcn",
        tested={name: material.outcomes[name].values(metric, folds) for name in names},
        best=style.best,
        digits=style.digits,
        published_digits=style.published_digits,
    )


def make_table3(material: Material) -> SectionContent:
    """Returns Table 3: lesion contrast."""
    names = methods_of(material)
    folds = material.folds(names)
    blocks: list[Block] = []
    numbers = {}
    for metric in ("ratio1", "ratio2"):
        plain = _by_method(material, names, folds, metric)
        truth = material.truth(metric, folds)
        labels = {**plain.labels, TRUTH: LABELS[TRUTH]}
        comparison = replace(plain, labels=labels, reproduced={**plain.reproduced, TRUTH: truth})
        what = "normal-appearing white matter"
        what += " within five voxels of them" if metric == "ratio2" else ""
        blocks += comparison_blocks(
            material,
            "table3",
            comparison,
            f"{comparison.metric} (SD): mean of the lesions over the {what}",
        )
        numbers[metric] = comparison.numbers()
    return blocks, numbers, names
