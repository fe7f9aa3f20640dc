"""Figures 4 and 7: predictions and errors, of every method and from subsets of the sequences."""

from __future__ import annotations

from flaxflair.paper import published
from flaxflair.paper.outcomes import read_flair
from flaxflair.paper.sections.material import (
    LABELS,
    Material,
    SectionContent,
    methods_of,
    most_lesion,
)
from flaxflair.paper.studies import name_subset
from flaxflair.visualization import panels
from flaxflair.visualization.report import Block, Picture


def make_fig4(material: Material) -> SectionContent:
    """Returns Figure 4: predictions and errors of every method."""
    names = [name for name in methods_of(material) if name != "least_squares"]
    shown = most_lesion(material, material.outcomes["fcn"].names(material.folds(names)))[:2]
    pictures: list[Block] = []
    for name in shown:
        subject, path = material.subjects[name], material.pictures / f"fig4_{name}.png"
        flairs = {
            LABELS[method]: read_flair(material.outcomes[method].folder, subject)
            for method in names
        }
        panels.draw_comparison([(subject, flairs)], path)
        pictures.append(
            Picture(
                path,
                f"Synthetic FLAIRs of {name} on the true FLAIR's grey scale, and their absolute "
                "errors on one scale. Lesions are outlined on the true FLAIR.",
                "Axial slices: a synthetic FLAIR of each method and the true one, errors below.",
            )
        )
    return pictures, {"subjects": shown}, names


def make_fig7(material: Material) -> SectionContent:
    """Returns Figure 7: predictions from subsets of the sequences."""
    studies = {
        " + ".join(inputs): name_subset("fcn", inputs)
        for inputs in published.INPUTS
        if name_subset("fcn", inputs) in material.outcomes
    }
    names = list(studies.values())
    subject = material.subjects[
        most_lesion(material, material.outcomes["fcn"].names(material.folds(names)))[0]
    ]
    path = material.pictures / "fig7.png"
    flairs = {
        title: read_flair(material.outcomes[study].folder, subject)
        for title, study in studies.items()
    }
    panels.draw_comparison([(subject, flairs)], path)
    picture = Picture(
        path,
        f"FLAIRs of {subject.name} synthesised from subsets of the sequences, and their errors.",
        "Axial slices: a synthetic FLAIR from each subset and the true one, errors below.",
    )
    return [picture], {"subject": subject.name}, names
