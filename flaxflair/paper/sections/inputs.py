"""Table 4: sequences removed, and subsets of the sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxflair.paper import published
from flaxflair.paper.published import Published
from flaxflair.paper.sections.material import LABELS, Material, SectionContent, comparison_blocks
from flaxflair.paper.studies import name_subset
from flaxflair.paper.tables import TableComparison, format_number
from flaxflair.visualization.report import Table


def make_table4a(material: Material) -> SectionContent:
    """Returns Table 4 (a): one sequence removed."""
    studies = {
        name: name_subset("fcn", [s for s in material.sequences if s != name])
        for name in published.WITHOUT
    }
    return _inputs(
        material,
        "table4a",
        "One sequence removed: mean squared error (SD) of the FCN",
        {name: f"without {name}" for name in studies},
        studies,
        published.WITHOUT,
    )


def make_table4c(material: Material) -> SectionContent:
    """Returns Table 4 (c): subsets of the sequences."""
    studies = {
        inputs: name_subset("fcn", inputs)
        for inputs in published.INPUTS
        if name_subset("fcn", inputs) in material.outcomes
    }
    return _inputs(
        material,
        "table4c",
        "Subsets of the sequences: mean squared error (SD) of the FCN",
        {inputs: " + ".join(inputs) for inputs in studies},
        studies,
        published.INPUTS,
    )


def _inputs(
    material: Material,
    part: str,
    caption: str,
    labels: Mapping[Any, str],
    studies: Mapping[Any, str],
    printed: Mapping[Any, Published],
) -> SectionContent:
    names = ["fcn", *studies.values()]
    folds = material.folds(names)
    everything = "all"
    comparison = TableComparison(
        "MSE",
        {everything: "all sequences", **labels},
        {
            everything: material.result("fcn", "mse", folds),
            **{key: material.result(study, "mse", folds) for key, study in studies.items()},
        },
        {everything: published.MSE["fcn"], **printed},
        reference=everything,
        tested={
            everything: material.outcomes["fcn"].values("mse", folds),
            **{
                key: material.outcomes[study].values("mse", folds) for key, study in studies.items()
            },
        },
        best="lowest",
    )
    return comparison_blocks(material, part, comparison, caption), comparison.numbers(), names


def make_table4b(material: Material) -> SectionContent:
    """Returns Table 4 (b): without DIR."""
    others = [name for name in material.sequences if name != "DIR"]
    studies = {method: name_subset(method, others) for method in published.WITHOUT_DIR}
    names = [*studies.values(), *studies]
    folds = material.folds(names)
    comparison = TableComparison(
        "MSE",
        {method: LABELS[method] for method in studies},
        {method: material.result(study, "mse", folds) for method, study in studies.items()},
        published.WITHOUT_DIR,
        reference="fcn",
        tested={m: material.outcomes[study].values("mse", folds) for m, study in studies.items()},
        best="lowest",
    )
    blocks = comparison_blocks(
        material, "table4b", comparison, "Without DIR: mean squared error (SD)"
    )
    rows = []
    for method, study in studies.items():
        ratio = (
            material.result(study, "mse", folds).mean / material.result(method, "mse", folds).mean
        )
        printed = published.WITHOUT_DIR[method].mean / published.MSE[method].mean
        rows.append((LABELS[method], format_number(ratio, 3), format_number(printed, 3)))
    blocks.append(
        Table("Error without DIR over error with it", ("", "ours", "published"), tuple(rows))
    )
    return blocks, comparison.numbers(), names
