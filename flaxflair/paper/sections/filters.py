"""Table 1: the number of filters."""

from __future__ import annotations

from flaxflair.paper import published
from flaxflair.paper.sections.material import Material, SectionContent, comparison_blocks
from flaxflair.paper.studies import name_width
from flaxflair.paper.tables import TableComparison, format_number
from flaxflair.visualization.report import Group, Note, Table


def make_table1(material: Material) -> SectionContent:
    """Returns Table 1 and the cost of each width."""
    widths = sorted(published.WIDTHS)
    names = [name_width(filters) for filters in widths]
    folds = material.folds(names)
    labels = {
        filters: f"{filters}"
        if material.scale.filters[filters] == filters
        else f"{filters} (here {material.scale.filters[filters]})"
        for filters in widths
    }
    comparison = TableComparison(
        "MSE",
        labels,
        {f: material.result(name_width(f), "mse", folds) for f in widths},
        {f: published.WIDTHS[f].mse for f in widths},
        reference=64,
        tested={f: material.outcomes[name_width(f)].values("mse", folds) for f in widths},
        best="lowest",
    )
    cost = []
    for filters in widths:
        parameters, seconds = material.timing[filters]
        printed = published.WIDTHS[filters]
        cost.append(
            (
                f"{filters}",
                f"{parameters:,}",
                f"{seconds:.2f}",
                format_number(seconds / material.timing[64][1], 2),
                f"{printed.parameters:,}",
                f"{printed.seconds:.2f}",
                format_number(printed.seconds / published.WIDTHS[64].seconds, 2),
            )
        )
    caption = "Filters a layer: mean squared error (SD)"
    blocks = comparison_blocks(material, "table1", comparison, caption, reference="64 filters")
    columns = ("filters", "parameters", "s a volume", "× 64")
    blocks.append(
        Table(
            "What they cost: parameters, and seconds to predict one volume of 208×256×40 voxels",
            (*columns, *columns[1:]),
            tuple(cost),
            (Group("ours, on this machine", 3), Group("published, TITAN X", 3)),
        )
    )
    blocks.append(
        Note(
            "The paper prints 213.7 K parameters for 64 filters. The network that its text "
            "describes has 231,745, and those of 32 and 96 filters match to the digit: the printed "
            "number is a transposition."
        )
    )
    numbers = {
        "mse": comparison.numbers(),
        "cost": {
            f: dict(zip(("parameters", "seconds"), material.timing[f], strict=True)) for f in widths
        },
    }
    return blocks, numbers, names
