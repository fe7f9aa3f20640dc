"""Accuracy of a universal model on real patients, from every subset of their T1 and T2.

Run as `python -m tests.benchmarks.bench_model DATA [--model FILE] [--only PATIENT ...] [--work DIR]
[--json OUT] [--markdown OUT]`.

DATA holds `open-ms-brain`, `mslesseg` (prepared) and `open-ms-raw` (raw; prepared once into
`--work`). Each prediction is compared with the true FLAIR after the best gain and offset, and with
the voxelwise oracle: the best voxelwise function of the inputs, fitted to the patient's true FLAIR.
`--without PATIENT=FILE` names the weights for a patient, which were fine-tuned without that
patient.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Subject
from flaxflair.evaluation import lesion_segmentation, metrics
from flaxflair.io.session_files import find_sessions
from flaxflair.models.model import AnyModel, predict
from flaxflair.models.saving import load_model
from flaxflair.preprocessing.dataset import load_subject, prepare_dataset
from tests.benchmarks.record import describe_run

SHOWN = ("T1", "T2")
BINS = 64  # of each input's quantiles, for the oracle


def load_patients(data: Path, work: Path) -> Iterator[tuple[str, Subject]]:
    """Yields name and session of every real patient, with whichever of T1 and T2 there are."""
    raw = work / "open-ms-raw"
    prepare_dataset(data / "open-ms-raw", raw)
    for root, prefix in ((data / "open-ms-brain", ""), (data / "mslesseg", ""), (raw, "raw ")):
        for files in find_sessions(root, (), flair="needed"):
            inputs = tuple(name for name in SHOWN if name in files.sequences)
            subject = load_subject(replace(files, inputs=inputs), None)
            yield prefix + subject.name.removeprefix("sub-").removesuffix("_ses-1"), subject


def subsets_of(subject: Subject) -> Iterator[tuple[str, ...]]:
    """Yields every subset of a session's inputs, the largest first."""
    for number in range(len(subject.sequences), 0, -1):
        yield from combinations(subject.sequences, number)


def choose(subject: Subject, sequences: Sequence[str]) -> Subject:
    """Returns the session as if only these sequences had been scanned."""
    channels = [subject.sequences.index(name) for name in sequences]
    return replace(subject, sequences=tuple(sequences), images=subject.images[..., channels])


def oracle(subject: Subject) -> float:
    """Returns `nmse_fit` of the best voxelwise function of the inputs, fitted on the patient."""
    assert subject.flair is not None
    values, truth = subject.images[subject.masks.brain], subject.flair[subject.masks.brain]
    cell = np.zeros(len(truth), int)
    for channel in values.T:
        edges = np.quantile(channel, np.linspace(0, 1, BINS + 1)[1:-1])
        cell = cell * BINS + np.searchsorted(edges, channel)
    counts = np.maximum(np.bincount(cell), 1)
    means = np.bincount(cell, truth) / counts
    return float(np.mean((truth - means[cell]) ** 2) / truth.var())


def evaluate(model: AnyModel, subject: Subject) -> dict[str, float]:
    """Returns the scores of one prediction."""
    assert subject.flair is not None
    brain, lesion, truth = subject.masks.brain, subject.masks.lesion, subject.flair
    flair = predict(model, subject).array
    best = oracle(subject)
    row = {
        "nmse_fit": metrics.nmse_fit(flair, truth, brain),
        "oracle": best,
        "ssim_fit": metrics.ssim_fit(flair, truth, brain),
    }
    row["ratio"] = row["nmse_fit"] / best
    if lesion is not None and lesion.any():
        own, true = (metrics.lesion_rest(each, lesion, brain) for each in (flair, truth))
        row |= {"lesion_rest": own, "lesion_rest_true": true}
    if "T1" in subject.sequences:
        row |= _segment(subject, flair)
    return row


def _segment(subject: Subject, flair: Array) -> dict[str, float]:
    """Returns Dice of the lesions found in the synthetic and in the true FLAIR, by one rule."""
    assert subject.flair is not None
    t1 = subject.images[..., subject.sequences.index("T1")]
    brain, size = subject.masks.brain, subject.geometry.voxel_size
    own, true = (
        lesion_segmentation.segment(each, t1, brain, size) for each in (flair, subject.flair)
    )
    scores = metrics.lesion_scores(own, true)
    return {"dice": scores.dice, "false_lesions": scores.false_positives}


def main() -> None:
    """Evaluates and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="+", metavar="PATIENT", help="evaluate no others")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="PATIENT=FILE")
    parser.add_argument("--work", type=Path, default=Path("bench_model"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    default = load_model(args.model)
    special = dict(text.split("=", 1) for text in args.without)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name, subject in load_patients(args.data, args.work):
        patient = name.split("_")[0]
        if args.only is not None and patient not in args.only:
            continue
        model = load_model(special[patient]) if patient in special else default
        rows[name] = {
            "+".join(subset): evaluate(model, choose(subject, subset))
            for subset in subsets_of(subject)
        }
    console = Console()
    console.print(make_table(rows))
    if args.markdown is not None:
        args.markdown.write_text(to_markdown(rows), encoding="utf-8")
    if args.json is not None:
        result: dict[str, Any] = {"run": describe_run("tests.benchmarks.bench_model"), "rows": rows}
        write_json(args.json, result)


_COLUMNS = (
    *("patient", "inputs", "NMSE fit", "oracle", "of it", "SSIM fit", "lesions / rest"),
    *("true", "Dice", "false"),
)


def make_cells(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[list[str]]:
    """Yields the cells of each patient and subset."""
    names = ("nmse_fit", "oracle", "ratio", "ssim_fit", "lesion_rest", "lesion_rest_true", "dice")
    for patient, subsets in rows.items():
        for subset, row in subsets.items():
            cells = [f"{row[name]:.3f}" if name in row else "" for name in names]
            false = f"{row['false_lesions']:.0f}" if "false_lesions" in row else ""
            yield [patient, subset, *cells, false]


def to_markdown(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Returns the table as Markdown."""
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *make_cells(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def make_table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Returns a row for each patient and subset."""
    table = Table(*_COLUMNS)
    for cells in make_cells(rows):
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    main()
