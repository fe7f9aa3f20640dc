"""Figure 3: learning curves and depth."""

from __future__ import annotations

from flaxflair.paper import published
from flaxflair.paper.charts import draw_curves
from flaxflair.paper.outcomes import flatness, read_curve
from flaxflair.paper.sections.material import Material, SectionContent
from flaxflair.paper.studies import name_depth
from flaxflair.paper.tables import format_number, format_value
from flaxflair.visualization.report import Block, Paragraph, Picture, Table


def make_fig3(material: Material) -> SectionContent:
    """Returns Figure 3 and the table of depths."""
    names = [name_depth(layers) for layers in published.LAYERS]
    fold = material.folds(names)[0]
    curves = {
        layers: read_curve(material.outcomes[name].folder, fold)
        for layers, name in zip(published.LAYERS, names, strict=True)
    }
    path = material.pictures / "fig3.png"
    draw_curves({f"{layers} layers": curve for layers, curve in curves.items()}, path)
    results = {
        f: material.result(name, "mse", [fold]) for f, name in zip(curves, names, strict=True)
    }
    rows = tuple(
        (
            f"{layers}",
            format_value(results[layers], 1),
            format_number(results[layers].mean / results[3].mean, 3),
            format_number(100 * flatness(curve), 1),
        )
        for layers, curve in curves.items()
    )
    blocks: list[Block] = [
        Picture(
            path,
            "Error of held-out subjects as training goes on, for 2, 3, 4 and 6 hidden layers.",
            "Four learning curves that fall and flatten.",
        ),
        Table(
            "Depth",
            ("hidden layers", "MSE (SD)", "× 3 layers", "last fifth, %"),
            rows,
            footnote="Last fifth: decrease of the error over the last fifth of training, in "
            "percent of its value at the start of that fifth.",
        ),
        Paragraph(
            "Published: deeper is better at first, and six layers are worse than four; no values "
            f"are printed. Here six have {results[6].mean / results[4].mean:.2f} of four's error."
        ),
        Paragraph(
            "The learning rate decays to zero, so every curve ends flat even if training has not "
            "converged: only a longer training can show that."
        ),
    ]
    numbers = {
        str(layers): {
            "mse": results[layers]._asdict(),
            "flatness": flatness(curve),
            "epochs": curve.epochs.tolist(),
            "error": curve.error.tolist(),
        }
        for layers, curve in curves.items()
    }
    return blocks, numbers, names
