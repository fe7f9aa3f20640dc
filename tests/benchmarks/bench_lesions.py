"""Lesions of a universal model on real patients, beside those of a rule, by size.

Run as `python -m tests.benchmarks.bench_lesions DATA [--model FILE] [--only PATIENT ...]
[--json OUT] [--markdown OUT] [--plot PNG]`.

DATA holds `open-ms-brain` (T1, T2) and `mslesseg` (T1), prepared. The truth are their lesion masks.
Compared are the lesions of `predict --lesions`, those that the rule of
`evaluation.lesion_segmentation` finds in the synthetic FLAIR, and those that it finds in the
scanned one. `--without PATIENT=FILE` names the weights for a patient, which were trained without
that patient. The JSON also has the scores at other thresholds and minimum volumes, from which the
defaults of `DetectionConfig` were chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, InputError, Subject
from flaxflair.evaluation import lesion_segmentation, metrics
from flaxflair.evaluation.lesion_evidence import DetectionConfig, find_lesions, volume_intervals
from flaxflair.evaluation.lesion_segmentation import label_components
from flaxflair.io.session_files import find_sessions
from flaxflair.models.lesions import expect_lesions, predict_maps, to_probability
from flaxflair.models.saving import load_model
from flaxflair.models.universal import UniversalModel, to_flair
from flaxflair.preprocessing.dataset import load_subject
from tests.benchmarks.bench_model import SHOWN, choose, subsets_of
from tests.benchmarks.record import describe_run

MODULE = "tests.benchmarks.bench_lesions"
EDGES = (20.0, 100.0, 500.0)  # mm³, between the classes of size
CLASSES = ("<20", "20-100", "100-500", ">500")
THRESHOLDS, VOLUMES = (0.3, 0.5, 0.7, 0.9), (5.0, 10.0, 20.0)


class Match(NamedTuple):
    """Lesions found beside true ones.

    Attributes:
      true: true lesions of each class of size.
      hit: those with at least one voxel found.
      found: lesions found of each class of size.
      false: those without a voxel of a true lesion.
      dice: of the masks.
      volume: found, mm³.
      true_volume: mm³.
      pairs: volumes, mm³, of each true lesion hit and of what was found of it: the lesions found
        that share most of their true voxels with it.
    """

    true: list[int]
    hit: list[int]
    found: list[int]
    false: list[int]
    dice: float
    volume: float
    true_volume: float
    pairs: list[tuple[float, float]]

    @property
    def f1(self) -> float:
        """Harmonic mean of the lesion-wise recall and precision; 0 if nothing was found."""
        recall = sum(self.hit) / max(sum(self.true), 1)
        precision = 1 - sum(self.false) / max(sum(self.found), 1)
        return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def match(labels: Array, truth: Array, voxel: float) -> Match:
    """Compares lesions found with the true ones.

    Args:
      labels: int[x, y, z], number of the lesion found, 0 for none.
      truth: bool[x, y, z].
      voxel: volume of a voxel, mm³.
    """
    true, count = label_components(truth)
    number = int(labels.max(initial=0))
    sizes = np.bincount(true.ravel(), minlength=count + 1)[1:] * voxel
    volumes = np.bincount(labels.ravel(), minlength=number + 1)[1:] * voxel
    both = (labels > 0) & truth
    shared = np.zeros((number + 1, count + 1))
    np.add.at(shared, (labels[both], true[both]), 1)
    shared = shared[1:, 1:]
    hit, touching = shared.any(axis=0), shared.any(axis=1)
    main = shared.argmax(axis=1) if count and number else np.zeros(number, int)
    pairs = []
    for lesion in np.flatnonzero(hit):
        of_it = touching & (main == lesion)
        if of_it.any():
            pairs.append((float(sizes[lesion]), float(volumes[of_it].sum())))
    return Match(
        _count(sizes),
        _count(sizes[hit]),
        _count(volumes),
        _count(volumes[~touching]),
        metrics.dice(labels > 0, truth),
        float(volumes.sum()),
        float(sizes.sum()),
        pairs,
    )


def _count(volumes: Array) -> list[int]:
    return np.bincount(np.digitize(volumes, EDGES), minlength=len(CLASSES)).tolist()


def load_patients(data: Path, only: Sequence[str] | None) -> Iterator[tuple[str, Subject]]:
    """Yields name and session of the patients with a lesion mask, of 1 mm voxels."""
    for folder in ("open-ms-brain", "mslesseg"):
        for files in find_sessions(data / folder, (), flair="needed"):
            name = files.participant.removeprefix("sub-")
            if only is not None and name not in only:
                continue
            inputs = tuple(each for each in SHOWN if each in files.sequences)
            subject = load_subject(replace(files, inputs=inputs), None)
            if subject.masks.lesion is None:
                raise InputError(f"{data / folder}: {name} has no lesion mask; restore it")
            yield name, subject


def evaluate(model: UniversalModel, subject: Subject, t1: Array) -> dict[str, Any]:
    """Returns the lesions of one prediction, and those of the rule, beside the true ones.

    Args:
      model: model with lesions.
      subject: session with the inputs of this prediction, and its FLAIR and lesions.
      t1: [x, y, z], T1 of the session, from which the rule takes the tissues.
    """
    flair, probability = predict_probability(model, subject)
    truth, brain, size = subject.masks.lesion, subject.masks.brain, subject.geometry.voxel_size
    assert truth is not None
    assert subject.flair is not None
    voxel = float(np.prod(size))
    labels = find_lesions(probability, size)
    rows = {"probability": match(labels, truth, voxel)._asdict()}
    for name, image in (("rule, synthetic", flair), ("rule, scanned", subject.flair)):
        mask = lesion_segmentation.segment(image, t1, brain, size)
        rows[name] = match(label_components(mask)[0], truth, voxel)._asdict()
    sweep = {}
    for threshold in THRESHOLDS:
        for volume in VOLUMES:
            config = DetectionConfig(threshold, volume, (threshold, threshold))
            found = match(find_lesions(probability, size, config), truth, voxel)
            sweep[f"{threshold:g}, {volume:g} mm³"] = {"f1": found.f1, "dice": found.dice}
    return {
        "methods": rows,
        "sweep": sweep,
        "interval": count_covered(labels, probability, truth, size),
        "probability in lesions": float(probability[truth].mean()),
    }


def predict_probability(model: UniversalModel, subject: Subject) -> tuple[Array, Array]:
    """Returns the synthetic FLAIR and the lesion probability on the subject's grid."""
    standard, flair, probability = predict_maps(model, subject)
    geometry = standard.geometry
    return to_flair(subject, flair, geometry).array, to_probability(subject, probability, geometry)


def count_covered(
    labels: Array, probability: Array, truth: Array, size: tuple[float, float, float]
) -> dict[str, int]:
    """Returns how many lesions found, of those that touch a true one, have its volume between.

    The true volume is that of all true lesions that a lesion found touches.
    """
    true, count = label_components(truth)
    sizes = np.bincount(true.ravel(), minlength=count + 1) * float(np.prod(size))
    intervals = volume_intervals(labels, probability, size)
    within = total = 0
    for number, (low, high) in enumerate(intervals, 1):
        touched = np.unique(true[(labels == number) & truth])
        if touched.size:
            total += 1
            within += int(low <= sizes[touched].sum() <= high)
    return {"within": within, "of": total}


_COLUMNS = ("patient", "inputs", "lesions by", *(f"{name} mm³" for name in CLASSES))
_COLUMNS += ("false", "Dice", "volume (mL)", "true (mL)")


def make_cells(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yields the cells of each patient, inputs and method; lesions hit of true ones by class."""
    for patient, subsets in rows.items():
        for subset, result in subsets.items():
            for method, row in result["methods"].items():
                hits = [f"{h}/{t}" for h, t in zip(row["hit"], row["true"], strict=True)]
                false = f"{sum(row['false'])} of {sum(row['found'])}"
                volumes = [f"{row[name] / 1000:.2f}" for name in ("volume", "true_volume")]
                yield [patient, subset, method, *hits, false, f"{row['dice']:.2f}", *volumes]


def to_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the tables as Markdown: lesions, and the mean scores by threshold."""
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *make_cells(rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    sweep = [("threshold, minimum volume", "lesion-wise F1", "Dice"), ("---", "---", "---")]
    sweep += [
        (name, f"{scores['f1']:.3f}", f"{scores['dice']:.3f}")
        for name, scores in mean_sweep(rows).items()
    ]
    return table + "\n" + "".join(f"| {' | '.join(line)} |\n" for line in sweep)


def mean_sweep(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns the mean scores at each threshold, over each patient's largest set of inputs."""
    largest = [next(iter(subsets.values()))["sweep"] for subsets in rows.values()]
    return {
        name: {score: float(np.mean([s[name][score] for s in largest])) for score in ("f1", "dice")}
        for name in (largest[0] if largest else ())
    }


def plot(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws Bland-Altman plots of the volumes of single lesions, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = ("probability", "rule, synthetic", "rule, scanned")
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, method in zip(axes, methods, strict=True):
        ratios = []
        for patient, subsets in rows.items():
            subset, result = next(iter(subsets.items()))
            pairs = np.array(result["methods"][method]["pairs"]).reshape(-1, 2)
            true, own = pairs.T
            axis.plot(np.sqrt(true * own), own / true, "o", ms=4, label=f"{patient}, {subset}")
            ratios.append(np.log(own / true))
        values = np.concatenate(ratios)
        if values.size:
            mean, spread = values.mean(), values.std()
            axis.axhline(np.exp(mean), color="0.3", lw=1)
            for end in (-1.96, 1.96):
                axis.axhline(np.exp(mean + end * spread), color="0.3", lw=1, ls="--")
        axis.axhline(1, color="0.8", lw=1, zorder=0)
        axis.set(xscale="log", yscale="log", title=f"{method} ({values.size} lesions)")
        axis.set_xlabel("geometric mean of both volumes (mm³)")
    axes[0].set_ylabel("volume found / true volume")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Evaluates and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="+", metavar="PATIENT", help="evaluate no others")
    parser.add_argument("--without", action="append", default=[], metavar="PATIENT=FILE")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    default = expect_lesions(load_model(args.model))
    special = dict(text.split("=", 1) for text in args.without)
    rows: dict[str, dict[str, Any]] = {}
    for name, subject in load_patients(args.data, args.only):
        model = expect_lesions(load_model(special[name])) if name in special else default
        t1 = subject.images[..., subject.sequences.index("T1")]
        rows[name] = {
            "+".join(subset): evaluate(model, choose(subject, subset), t1)
            for subset in subsets_of(subject)
        }
    table = Table(*_COLUMNS)
    for cells in make_cells(rows):
        table.add_row(*cells)
    Console().print(table)
    if args.markdown is not None:
        args.markdown.write_text(to_markdown(rows), encoding="utf-8")
    if args.plot is not None:
        plot(rows, args.plot)
    if args.json is not None:
        result = {"run": describe_run(MODULE), "classes": CLASSES, "rows": rows}
        write_json(args.json, {**result, "sweep": mean_sweep(rows)})


if __name__ == "__main__":
    main()
