"""Sections: each table and figure of the paper, ours beside the published one.

From outcomes to blocks of a report and plain numbers. Runs no study and writes nothing but
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxflair import panels
from flaxflair.evaluate import Row
from flaxflair.lesions import SegmentationConfig
from flaxflair.paper import published, remarks
from flaxflair.paper.charts import draw_curves
from flaxflair.paper.outcomes import Outcome, flatness, read_curve, read_flair, true_flair
from flaxflair.paper.published import Published
from flaxflair.paper.segmentation import FEWEST, TRUTH, Found, choose_examples, segment_subject
from flaxflair.paper.studies import (
    CONFIGS,
    PARTS,
    Scale,
    Study,
    name_depth,
    name_subset,
    name_width,
)
from flaxflair.paper.tables import Twin, say_number, say_value, summarize
from flaxflair.report import Badge, Block, Group, Note, Paragraph, Picture, Section, Table
from flaxflair.significance import rank_agreement
from flaxflair.volume import Array, Subject

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
    """How a metric is printed: its heading, digits of ours and of theirs, and which end is best."""

    title: str
    digits: int
    their_digits: int
    best: Literal["lowest", "highest"] | None


_METRICS = {
    "mse": Metric("MSE", 1, 2, "lowest"),
    "ssim": Metric("SSIM", 3, 3, "highest"),
    # The best contrast is the true FLAIR's, not the highest.
    "ratio1": Metric("Ratio 1", 3, 2, None),
    "ratio2": Metric("Ratio 2", 3, 2, None),
}


@dataclass(frozen=True)
class Material:
    """What sections are made of.

    Attributes:
      scale: how large the reproduction is.
      studies: name -> study.
      outcomes: name -> what it measured, of studies that are done.
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
    lesions: Mapping[int, Found]
    timing: Mapping[int, tuple[int, float]]
    pictures: Path
    phantom: bool

    def of(self, name: str, metric: str, folds: Sequence[int] | None = None) -> Published:
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


def make_section(part: str, material: Material) -> tuple[Section, Numbers]:
    """Returns a part's section, and its numbers for programs; `part` is a key of `PARTS`."""
    blocks, numbers, names = _PARTS[part](material)
    return Section(part, PARTS[part], tuple(blocks), _badge(material, names)), numbers


def _badge(material: Material, names: Sequence[str]) -> Badge:
    folds = material.folds(names)
    config = material.studies[names[0]].config
    count = config.folds.count or len({s.participant for s in material.subjects.values()})
    which = f"fold {', '.join(str(fold + 1) for fold in folds)} of {count}"
    if len(folds) == count:
        which = f"all {count} folds"
    shape = "×".join(map(str, next(iter(material.subjects.values())).geometry.shape))
    complete = material.scale.variant == "" and len(folds) == count
    kind = "real" if not material.phantom else "full" if complete else "quick"
    width = material.scale.filters[64]
    return Badge(kind, f"{which}; {shape} voxels; FCN of {width} filters for the paper's 64")


Made = tuple[list[Block], Numbers, list[str]]


def _twin_blocks(
    material: Material,
    part: str,
    twin: Twin,
    caption: str,
    footnote: str = "",
    *,
    reference: str = "all",
) -> list[Block]:
    """Returns a table, and what tells another story in it than in the paper, by the reason why."""
    rows: dict[str, list[str]] = {}
    for key, ours, theirs in twin.differences():
        if material.phantom:
            why = remarks.explain(part, twin.metric, key)
        else:
            why = remarks.doubt(len(material.subjects))
        rows.setdefault(why, []).append(f"{twin.labels[key]} {ours:.2f} and {theirs:.2f}")
    told = f"{twin.metric} relative to the reference, here and published:"
    notes = [Note(f"{told} {_list(cells)}. {why}".strip()) for why, cells in rows.items()]
    return [twin.table(caption, LABELS.get(twin.reference, reference), footnote), *notes]


def _list(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " * (len(items) > 1) + items[-1]


def _table1(material: Material) -> Made:
    widths = sorted(published.WIDTHS)
    names = [name_width(filters) for filters in widths]
    folds = material.folds(names)
    labels = {
        filters: f"{filters}"
        if material.scale.filters[filters] == filters
        else f"{filters} (here {material.scale.filters[filters]})"
        for filters in widths
    }
    twin = Twin(
        "MSE",
        labels,
        {f: material.of(name_width(f), "mse", folds) for f in widths},
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
                say_number(seconds / material.timing[64][1], 2),
                f"{printed.parameters:,}",
                f"{printed.seconds:.2f}",
                say_number(printed.seconds / published.WIDTHS[64].seconds, 2),
            )
        )
    caption = "Filters a layer: mean squared error (SD)"
    blocks = _twin_blocks(material, "table1", twin, caption, reference="64 filters")
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
        "mse": twin.numbers(),
        "cost": {
            f: dict(zip(("parameters", "seconds"), material.timing[f], strict=True)) for f in widths
        },
    }
    return blocks, numbers, names


def _fig3(material: Material) -> Made:
    names = [name_depth(layers) for layers in published.LAYERS]
    fold = material.folds(names)[0]
    curves = {
        layers: read_curve(material.outcomes[name].folder, fold)
        for layers, name in zip(published.LAYERS, names, strict=True)
    }
    path = material.pictures / "fig3.png"
    draw_curves({f"{layers} layers": curve for layers, curve in curves.items()}, path)
    results = {f: material.of(name, "mse", [fold]) for f, name in zip(curves, names, strict=True)}
    rows = tuple(
        (
            f"{layers}",
            say_value(results[layers], 1),
            say_number(results[layers].mean / results[3].mean, 3),
            say_number(100 * flatness(curve), 1),
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
            footnote="Last fifth: by how much the error still fell in the last fifth of training, "
            "in percent of what it was.",
        ),
        Paragraph(
            "Published: deeper is better at first, and six layers are worse than four; no values "
            f"are printed. Here six have {results[6].mean / results[4].mean:.2f} of four's error."
        ),
        Paragraph(
            "With a rate that falls to zero the last fifth is where training settles, and a curve "
            "ends flat whatever is left to learn: only a longer training tells."
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


def _methods(material: Material) -> list[str]:
    return [name for name in CONFIGS if name in material.outcomes]


def _table2(material: Material) -> Made:
    names = _methods(material)
    folds = material.folds(names)
    blocks: list[Block] = []
    numbers = {}
    for metric, long in (("mse", "Mean squared error"), ("ssim", "Structural similarity")):
        twin = _by_method(material, names, folds, metric)
        blocks += _twin_blocks(material, "table2", twin, f"{long} (SD), held-out subjects")
        blocks.append(twin.folds(f"{long} (SD), fold by fold"))
        numbers[metric] = twin.numbers()
    noise = material.truth("noise_mse", folds)
    if math.isfinite(noise.mean):
        blocks.append(
            Paragraph(
                f"The true FLAIR's own noise has a mean squared error of {noise.mean:.1f}, which "
                "no method can go below."
            )
        )
        numbers["noise"] = noise._asdict()
    extra = Twin(
        "NMSE",
        {n: LABELS[n] for n in names},
        {n: material.of(n, "nmse_brain", folds) for n in names},
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
                (LABELS[n], say_value(extra.ours[n], 3), say_number(extra.ratio(n, extra.ours), 3))
                for n in names
            ),
        )
    )
    return blocks, numbers, names


def _by_method(material: Material, names: Sequence[str], folds: Sequence[int], metric: str) -> Twin:
    said = _METRICS[metric]
    return Twin(
        said.title,
        {name: LABELS[name] for name in names},
        {name: material.of(name, metric, folds) for name in names},
        published.SCORES[metric],
        reference="fcn",
        tested={name: material.outcomes[name].values(metric, folds) for name in names},
        best=said.best,
        digits=said.digits,
        their_digits=said.their_digits,
    )


def _table3(material: Material) -> Made:
    names = _methods(material)
    folds = material.folds(names)
    blocks: list[Block] = []
    numbers = {}
    for metric in ("ratio1", "ratio2"):
        plain = _by_method(material, names, folds, metric)
        truth = material.truth(metric, folds)
        labels = {**plain.labels, TRUTH: LABELS[TRUTH]}
        twin = replace(plain, labels=labels, ours={**plain.ours, TRUTH: truth})
        what = "normal-appearing white matter"
        what += " within five voxels of them" if metric == "ratio2" else ""
        blocks += _twin_blocks(
            material, "table3", twin, f"{twin.metric} (SD): mean of the lesions over the {what}"
        )
        numbers[metric] = twin.numbers()
    return blocks, numbers, names


def _lesions(material: Material) -> Made:
    names = _methods(material)
    columns = {
        "agreement": ("agreement", 2),
        "dice": ("Dice", 2),
        "recall": ("recall", 2),
        "false_positives": ("false positives", 1),
        "volume_bias": ("volume bias", 2),
    }
    results: dict[str, dict[str, Published]] = {}
    for name in (*names, TRUTH):
        results[name] = {
            metric: summarize(
                {
                    fold: np.array([row.get(metric, math.nan) for row in found.rows[name].values()])
                    for fold, found in material.lesions.items()
                }
            )
            for metric in columns
        }
    rows = tuple(
        (
            LABELS[name],
            *(say_value(results[name][m], digits) for m, (_, digits) in columns.items()),
            say_value(published.LESION_DICE, 2) if name == "fcn" else "",
        )
        for name in (*names, TRUTH)
    )
    scores = {
        name: row for found in material.lesions.values() for name, row in found.rows["fcn"].items()
    }
    blocks: list[Block] = [
        Table(
            "Lesions found in synthetic FLAIRs (SD)",
            ("", *(title for title, _ in columns.values()), "agreement"),
            rows,
            (Group("ours", len(columns)), Group("published", 1)),
            "Agreement: Dice of the lesions found in the synthetic and in the true FLAIR by the "
            "same rule. Dice, lesion-wise recall, false-positive lesions a subject, and relative "
            f"volume bias are against the true mask. {_chosen(material)}",
        ),
    ]
    why = remarks.explain("lesions", "agreement", "fcn") if material.phantom else ""
    if why:
        ours, theirs = results["fcn"]["agreement"].mean, published.LESION_DICE.mean
        blocks.append(Note(f"FCN, agreement: {ours:.2f} here, {theirs:.2f} published. {why}"))
    if any(math.isfinite(row["agreement"]) for row in scores.values()):
        high, low = choose_examples(scores)
        path = material.pictures / "fig5.png"
        panels.draw_segmentations([_found_in(material, name, scores) for name in (high, low)], path)
        blocks.append(
            Picture(
                path,
                f"Lesions found in the true and in the FCN's FLAIR: the highest agreement "
                f"({scores[high]['agreement']:.2f}, above) and the lowest "
                f"({scores[low]['agreement']:.2f}).",
                "Axial slices with lesions outlined in red, two subjects.",
            )
        )
    numbers = {
        name: {metric: result._asdict() for metric, result in own.items()}
        for name, own in results.items()
    }
    return blocks, numbers, names


def _chosen(material: Material) -> str:
    """Returns how the parameters of the segmentation came to be."""
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


def _fig4(material: Material) -> Made:
    names = [name for name in _methods(material) if name != "least_squares"]
    shown = _most_lesion(material, material.outcomes["fcn"].names(material.folds(names)))[:2]
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


def _most_lesion(material: Material, names: Sequence[str]) -> list[str]:
    def load(name: str) -> int:
        lesion = material.subjects[name].masks.lesion
        return 0 if lesion is None else int(lesion.sum())

    return sorted(names, key=load, reverse=True)


def _fig6(material: Material) -> Made:
    fcn = material.outcomes["fcn"]
    regions = list(next(iter(fcn.shares.values())))
    mean = {
        region: {
            name: float(np.nanmean([own[region][name] for own in fcn.shares.values()]))
            for name in material.sequences
        }
        for region in regions
        if any(math.isfinite(v) for own in fcn.shares.values() for v in own[region].values())
    }
    drawn = sorted(fcn.folder.glob("fold-*/*_p3s.png"))
    blocks: list[Block] = [
        Picture(
            path,
            f"Saliency of each sequence (above) and the sequence (below), "
            f"{path.name.removesuffix('_p3s.png')}; one scale for all maps.",
            "Saliency maps of each input sequence above the sequence itself.",
        )
        for path in drawn[:1]
    ]
    rows = tuple(
        (region, *(say_number(value, 3) for value in shares.values()))
        for region, shares in mean.items()
    )
    blocks.append(
        Table("Share of the saliency, mean over subjects", ("region", *material.sequences), rows)
    )
    blocks.append(
        Paragraph(
            "Published, in words: T1, DIR and T2 contribute more than PD and T1 spin-echo, DIR "
            "most; T1 more than the others to the ventricles."
        )
    )
    numbers: Numbers = {"shares": mean}
    removed = {
        name: name_subset("fcn", [s for s in material.sequences if s != name])
        for name in material.sequences
    }
    if all(study in material.outcomes for study in removed.values()):
        folds = material.folds(["fcn", *removed.values()])
        base = material.of("fcn", "mse", folds).mean
        loss = {
            name: material.of(study, "mse", folds).mean / base - 1
            for name, study in removed.items()
        }
        share = mean["volume"]
        found = rank_agreement(np.array([share[n] for n in loss]), np.array(list(loss.values())))
        printed = {n: published.WITHOUT[n].mean / published.MSE["fcn"].mean - 1 for n in loss}
        agreed = rank_agreement(
            np.array([share[n] for n in loss]), np.array(list(printed.values()))
        )
        blocks.append(
            Table(
                "What removing a sequence costs, beside its saliency",
                ("sequence", "share of the saliency", "MSE without it, %", "MSE without it, %"),
                tuple(
                    (
                        n,
                        say_number(share[n], 3),
                        say_number(100 * loss[n], 1, sign=True),
                        say_number(100 * printed[n], 1, sign=True),
                    )
                    for n in loss
                ),
                (Group("ours", 2), Group("published", 1)),
                f"Rank agreement of saliency and loss of accuracy over {found.n} sequences: "
                f"Spearman {found.rho:.2f}, Kendall {found.tau:.2f}; with the published losses "
                f"{agreed.rho:.2f} and {agreed.tau:.2f}.",
            )
        )
        blocks.append(
            Note(
                "The paper says that its saliency agrees with what removal costs. Saliency is a "
                "slope at the network that was trained: where two sequences tell the same, it "
                "shares out between them what neither would cost alone."
            )
        )
        numbers |= {
            "loss": loss,
            "agreement": found._asdict(),
            "agreement_published": agreed._asdict(),
        }
    return blocks, numbers, ["fcn"]


def _table4a(material: Material) -> Made:
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


def _table4c(material: Material) -> Made:
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
    theirs: Mapping[Any, Published],
) -> Made:
    names = ["fcn", *studies.values()]
    folds = material.folds(names)
    everything = "all"
    twin = Twin(
        "MSE",
        {everything: "all sequences", **labels},
        {
            everything: material.of("fcn", "mse", folds),
            **{key: material.of(study, "mse", folds) for key, study in studies.items()},
        },
        {everything: published.MSE["fcn"], **theirs},
        reference=everything,
        tested={
            everything: material.outcomes["fcn"].values("mse", folds),
            **{
                key: material.outcomes[study].values("mse", folds) for key, study in studies.items()
            },
        },
        best="lowest",
    )
    return _twin_blocks(material, part, twin, caption), twin.numbers(), names


def _table4b(material: Material) -> Made:
    others = [name for name in material.sequences if name != "DIR"]
    studies = {method: name_subset(method, others) for method in published.WITHOUT_DIR}
    names = [*studies.values(), *studies]
    folds = material.folds(names)
    twin = Twin(
        "MSE",
        {method: LABELS[method] for method in studies},
        {method: material.of(study, "mse", folds) for method, study in studies.items()},
        published.WITHOUT_DIR,
        reference="fcn",
        tested={m: material.outcomes[study].values("mse", folds) for m, study in studies.items()},
        best="lowest",
    )
    blocks = _twin_blocks(material, "table4b", twin, "Without DIR: mean squared error (SD)")
    rows = []
    for method, study in studies.items():
        ours = material.of(study, "mse", folds).mean / material.of(method, "mse", folds).mean
        printed = published.WITHOUT_DIR[method].mean / published.MSE[method].mean
        rows.append((LABELS[method], say_number(ours, 3), say_number(printed, 3)))
    blocks.append(
        Table("Error without DIR over error with it", ("", "ours", "published"), tuple(rows))
    )
    return blocks, twin.numbers(), names


def _fig7(material: Material) -> Made:
    studies = {
        " + ".join(inputs): name_subset("fcn", inputs)
        for inputs in published.INPUTS
        if name_subset("fcn", inputs) in material.outcomes
    }
    names = list(studies.values())
    subject = material.subjects[
        _most_lesion(material, material.outcomes["fcn"].names(material.folds(names)))[0]
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


_PARTS: dict[str, Callable[[Material], Made]] = {
    "table1": _table1,
    "fig3": _fig3,
    "table2": _table2,
    "table3": _table3,
    "lesions": _lesions,
    "fig4": _fig4,
    "fig6": _fig6,
    "table4a": _table4a,
    "table4b": _table4b,
    "table4c": _table4c,
    "fig7": _fig7,
}
