"""Coverage of the intervals of a universal model on real patients, and its calibration.

Run as `python -m tests.benchmarks.bench_intervals DATA --model FILE --left-out PATIENT ...
[--work DIR] [--calibrated OUT] [--snapshots FILE ...] [--json OUT] [--markdown OUT]`. DATA and
`--work` are as of `bench_model`. FILE has an error scale; `--left-out` names the patients whom it
has not seen. Intervals of a left-out patient are calibrated on the other left-out ones, those of
the others on all left-out ones. `--calibrated` writes the model with the latter calibration.

The order of the errors (AUSE) is compared with that of a constant per class of tissue and, with
`--snapshots`, of the standard deviation among predictions of several stages of the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Subject
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation.metrics import fit_intensity
from flaxflair.evaluation.uncertainty import coverage, sparsification_error
from flaxflair.imaging.resampling import resample
from flaxflair.imaging.standard import standardize
from flaxflair.imaging.tissue_classes import CLASSES, classify
from flaxflair.models.error_scale import COVERAGES, Calibration, calibrate, group_of
from flaxflair.models.intervals import predict_scale
from flaxflair.models.saving import export_model, load_model
from flaxflair.models.universal import UniversalModel, predict_standard
from tests.benchmarks.bench_model import choose, load_patients, subsets_of
from tests.benchmarks.record import describe_run

MODULE = "tests.benchmarks.bench_intervals"
MOST = 200_000  # voxels of a session that are used for calibration
SHOWN = 0.9  # coverage whose width and lesions are shown


@dataclass(frozen=True)
class Errors:
    """Errors of one prediction in the brain, white matter of the FLAIR at 1.

    Attributes:
      patient: label.
      session: name.
      sequences: inputs.
      error: float[n], true FLAIR (with its best gain and offset) minus synthetic.
      scale: float[n], predicted.
      classes: int[n], index into `CLASSES`.
      lesion: bool[n], consensus mask; all False without one.
      spread: float[n], SD among snapshots; empty without them.
    """

    patient: str
    session: str
    sequences: tuple[str, ...]
    error: Array
    scale: Array
    classes: Array
    lesion: Array
    spread: Array


def measure(
    model: UniversalModel, name: str, subject: Subject, snapshots: Sequence[UniversalModel]
) -> Errors:
    """Returns the errors of one prediction."""
    assert subject.flair is not None
    standard = standardize(subject)
    flair, lesion = predict_standard(model, standard)
    scale = predict_scale(model, standard, flair, lesion)
    channels = [INPUTS.index(sequence) for sequence in subject.sequences]
    classes = classify(standard.images[..., channels], subject.sequences, lesion)

    def on_grid(array: Array) -> Array:
        source = subject.geometry.affine
        return resample(array, source, standard.geometry, np.eye(4), beyond="zero")

    brain = standard.brain
    truth = fit_intensity(on_grid(subject.flair), flair, brain)
    mask = subject.masks.lesion
    lesions = np.zeros_like(brain) if mask is None else on_grid(mask.astype(np.float32)) > 0.5
    others = [predict_standard(each, standard)[0][brain] for each in snapshots]
    return Errors(
        name.split("_")[0].removeprefix("raw "),  # the same person
        name,
        subject.sequences,
        (truth - flair)[brain],
        scale[brain],
        classes[brain],
        lesions[brain],
        np.std(others, axis=0) if others else np.zeros(0),
    )


def calibrate_on(found: Sequence[Errors], patients: Sequence[str]) -> Calibration:
    """Returns the calibration on some patients; of each session at most `MOST` voxels are used."""
    samples = []
    for each in found:
        if each.patient in patients:
            some = slice(None, None, max(1, len(each.error) // MOST))
            owner = np.full(len(each.error[some]), patients.index(each.patient))
            ratio = each.error[some] / each.scale[some]
            samples.append((group_of(each.sequences), ratio, each.classes[some], owner))
    return calibrate(samples, patients)


def score(each: Errors, calibration: Calibration) -> dict[str, float]:
    """Returns coverage, width and AUSE of one prediction."""
    row: dict[str, float] = {}
    for p in COVERAGES:
        ends = calibration.ends(each.sequences, p)[each.classes] * each.scale[:, None]
        row[f"{100 * p:g} %"] = coverage(each.error, ends[:, 0], ends[:, 1])
        if p == SHOWN:
            inside = each.lesion
            row["in lesions"] = coverage(each.error[inside], *ends[inside].T)
            row["width"] = float(np.diff(ends, axis=1).mean())
            for number, name in enumerate(CLASSES):
                part = each.classes == number
                row[f"in {name}"] = coverage(each.error[part], *ends[part].T)
    typical = np.array(
        [np.abs(each.error[each.classes == k]).mean() if (each.classes == k).any() else 0
         for k in range(len(CLASSES))]
    )  # fmt: skip
    row["AUSE"] = sparsification_error(each.error, each.scale)
    # The best constant per class: fitted to this very patient.
    row["AUSE, constant"] = sparsification_error(each.error, typical[each.classes])
    if each.spread.size:
        row["AUSE, snapshots"] = sparsification_error(each.error, each.spread)
    return row


def score_all(found: Sequence[Errors], left_out: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields a row for each prediction."""
    for each in found:
        seen = each.patient not in left_out
        patients = [name for name in left_out if seen or name != each.patient]
        row = score(each, calibrate_on(found, patients))
        inputs = "+".join(each.sequences)
        yield {"patient": each.session, "inputs": inputs, "seen": "yes" if seen else "no", **row}


def to_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the names of the columns, and the cells of each row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        [f"{v:.3f}" if isinstance(v := row.get(n, ""), float) and v == v else str(v) for n in names]
        for row in rows
    ]
    return names, [["" if cell == "nan" else cell for cell in row] for row in cells]


def main() -> None:
    """Measures, prints, calibrates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--left-out", nargs="+", required=True, metavar="PATIENT")
    parser.add_argument("--work", type=Path, default=Path("bench_model"))
    parser.add_argument("--snapshots", type=Path, nargs="+", default=[])
    parser.add_argument("--only", nargs="+", metavar="PATIENT", help="evaluate no others")
    parser.add_argument("--calibrated", type=Path)
    parser.add_argument("--half", action="store_true", help="write float16 weights")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    loaded = [load_model(path) for path in (args.model, *args.snapshots)]
    model, *snapshots = [each for each in loaded if isinstance(each, UniversalModel)]
    found = [
        measure(model, name, choose(subject, subset), snapshots)
        for name, subject in load_patients(args.data, args.work)
        if args.only is None or name.split("_")[0] in args.only
        for subset in subsets_of(subject)
    ]
    rows = list(score_all(found, args.left_out))
    names, cells = to_cells(rows)
    table = Table(*names)
    for row in cells:
        table.add_row(*row)
    Console().print(table)
    if args.markdown is not None:
        lines = [names, ["---"] * len(names), *cells]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        args.markdown.write_text(text, encoding="utf-8")
    if args.calibrated is not None:
        calibration = calibrate_on(found, args.left_out)
        export_model(model, args.calibrated, half=args.half, calibration=calibration)
    if args.json is not None:
        write_json(args.json, {"machine": describe_run(MODULE), "rows": rows})


if __name__ == "__main__":
    main()
