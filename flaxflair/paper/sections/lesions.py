"""Lesion segmentation and Figure 5."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flaxflair.core.records import Array, Subject
from flaxflair.evaluation.lesion_segmentation import SegmentationConfig
from flaxflair.evaluation.scoring import Row
from flaxflair.paper import published, remarks
from flaxflair.paper.outcomes import read_flair, true_flair
from flaxflair.paper.published import Published
from flaxflair.paper.sections.material import LABELS, Material, SectionContent, methods_of
from flaxflair.paper.segmentation import FEWEST, TRUTH, choose_examples, segment_subject
from flaxflair.paper.tables import format_value, summarize
from flaxflair.visualization import panels
from flaxflair.visualization.report import Block, Group, Note, Picture, Table

_COLUMNS = {
    "agreement": ("agreement", 2),
    "dice": ("Dice", 2),
    "recall": ("recall", 2),
    "false_positives": ("false positives", 1),
    "volume_bias": ("volume bias", 2),
}


def make_lesions(material: Material) -> SectionContent:
    """Returns the table of lesions found, and Figure 5."""
    names = methods_of(material)
    results = {name: _results_of(material, name) for name in (*names, TRUTH)}
    blocks: list[Block] = [_table(material, results)]
    reason = remarks.explain("lesions", "agreement", "fcn") if material.phantom else ""
    if reason:
        dice, printed = results["fcn"]["agreement"].mean, published.LESION_DICE.mean
        blocks.append(Note(f"FCN, agreement: {dice:.2f} here, {printed:.2f} published. {reason}"))
    blocks += _draw_fig5(material)
    numbers = {
        name: {metric: result._asdict() for metric, result in by_metric.items()}
        for name, by_metric in results.items()
    }
    return blocks, numbers, names


def _results_of(material: Material, name: str) -> dict[str, Published]:
    """Returns metric -> result of the lesions found in one method's FLAIRs."""
    return {
        metric: summarize(
            {
                fold: np.array([row.get(metric, math.nan) for row in found.rows[name].values()])
                for fold, found in material.lesions.items()
            }
        )
        for metric in _COLUMNS
    }


def _table(material: Material, results: Mapping[str, Mapping[str, Published]]) -> Table:
    rows = tuple(
        (
            LABELS[name],
            *(format_value(by_metric[metric], digits) for metric, (_, digits) in _COLUMNS.items()),
            format_value(published.LESION_DICE, 2) if name == "fcn" else "",
        )
        for name, by_metric in results.items()
    )
    return Table(
        "Lesions found in synthetic FLAIRs (SD)",
        ("", *(title for title, _ in _COLUMNS.values()), "agreement"),
        rows,
        (Group("ours", len(_COLUMNS)), Group("published", 1)),
        "Agreement: Dice of the lesions found in the synthetic and in the true FLAIR by the "
        "same rule. Dice, lesion-wise recall, false-positive lesions a subject, and relative "
        f"volume bias are against the true mask. {_chosen(material)}",
    )


def _draw_fig5(material: Material) -> list[Block]:
    """Draws the subjects of highest and lowest agreement, if any subject has lesions."""
    scores = {
        name: row for found in material.lesions.values() for name, row in found.rows["fcn"].items()
    }
    if not any(math.isfinite(row["agreement"]) for row in scores.values()):
        return []
    high, low = choose_examples(scores)
    path = material.pictures / "fig5.png"
    panels.draw_segmentations([_found_in(material, name, scores) for name in (high, low)], path)
    return [
        Picture(
            path,
            f"Lesions found in the true and in the FCN's FLAIR: the highest agreement "
            f"({scores[high]['agreement']:.2f}, above) and the lowest "
            f"({scores[low]['agreement']:.2f}).",
            "Axial slices with lesions outlined in red, two subjects.",
        )
    ]


def _chosen(material: Material) -> str:
    """Returns a sentence on the choice of the segmentation's parameters."""
    configs = {found.config for found in material.lesions.values()}
    if configs == {SegmentationConfig()}:
        return (
            f"With fewer than {FEWEST} subjects to choose them by, the rule's parameters are its "
            "defaults."
        )
    return "The rule's parameters are chosen in each fold on the training subjects."


def _found_in(
    material: Material, name: str, scores: Mapping[str, Row]
) -> tuple[Subject, str, list[tuple[str, Array, Array]]]:
    subject = material.subjects[name]
    found = next(f for f in material.lesions.values() if name in f.rows["fcn"])
    true = true_flair(subject)
    synthetic = read_flair(material.outcomes["fcn"].folder, subject)
    pictures = [
        (title, flair, segment_subject(subject, flair, found.config))
        for title, flair in (("true FLAIR", true), ("FCN", synthetic))
    ]
    return subject, f"Dice {scores[name]['agreement']:.2f}", pictures
