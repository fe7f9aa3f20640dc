"""A universal model at other resolutions, without lesions, and on the paper's phantom.

Run as `python -m tests.benchmarks.bench_robustness DATA [--model FILE] [--part PART ...]
[--patients 19 ...] [--brains 4] [--json OUT] [--markdown OUT]`.

DATA holds `open-ms-brain`, `mslesseg`, and what brains are simulated from. Parts:

- `resolution`: T1 and T2 of a patient, resampled to other voxels with their slice profile; each
  FLAIR is compared with the true one on the grid of the thickest slices.
- `lesion-free`: simulated brains without lesions, and the halves of real ones: lesions above 20 mm³
  that the rule of `lesion_segmentation` finds in the synthetic FLAIR and not in the true one or,
  in patients, not near the mask; and those that `predict --lesions` would list.
- `phantom`: subsets of the paper's Table 4 on a phantom at paper size, beside least squares on the
  same inputs, fitted on two other phantoms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from flaxflair.baselines import BASELINES
from flaxflair.config import Config
from flaxflair.config.run import PhantomConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Geometry, Masks, Subject
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation import lesion_segmentation, metrics
from flaxflair.evaluation.lesion_evidence import find_lesions
from flaxflair.imaging.normalization import fit as fit_normalization
from flaxflair.imaging.standard import Standard
from flaxflair.io.session_files import find_sessions
from flaxflair.models.estimators import FittedBaseline
from flaxflair.models.model import Model, predict
from flaxflair.models.saving import load_model
from flaxflair.models.universal import UniversalModel, predict_standard
from flaxflair.preprocessing.dataset import load_subject
from flaxflair.simulation.cache import open_phantom
from flaxflair.simulation.generator.anatomies import load_library
from flaxflair.simulation.generator.generator import sample
from flaxflair.simulation.generator.ranges import LesionRanges, Ranges
from flaxflair.simulation.generator.splines import apply_along, sampling_matrix
from flaxflair.training.batches import make_example
from tests.benchmarks.bench_lesions import load_patients
from tests.benchmarks.bench_model import choose
from tests.benchmarks.record import describe_run

VOXELS = ((1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (1.0, 1.0, 6.0))  # mm
COMMON = (1.0, 1.0, 6.0)  # mm, voxels of the comparison
SMALLEST = 20.0  # mm³, of a false lesion
HEAD = (160, 192, 160)  # voxels of 1 mm of a simulated brain
SEED = 83  # no seed of a training
# Table 4 (a) and (c).
SUBSETS = (INPUTS, *(tuple(n for n in INPUTS if n != left) for left in INPUTS), ("T1", "T2"))
SUBSETS = (*SUBSETS, ("T1",), ("T2",), ("PD",), ("DIR",), ("T1SE",))

Rows = list[dict[str, Any]]


def sample_at(subject: Subject, voxel: tuple[float, float, float]) -> Subject:
    """Returns a session of 1 mm as if scanned in other voxels, without gaps.

    Args:
      subject: on a grid of 1 mm.
      voxel: edges along x, y and z, mm.
    """
    shape = subject.geometry.shape
    lines = [_positions(n, edge) for n, edge in zip(shape, voxel, strict=True)]
    matrices = [
        np.eye(n, dtype=np.float32) if edge == 1 else sampling_matrix(n, at, width=edge)
        for n, at, edge in zip(shape, lines, voxel, strict=True)
    ]

    def map_image(image: Array) -> Array:
        return apply_along(matrices, np.asarray(image, np.float32))

    first = np.array([at[0] for at in lines])
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = np.diag(voxel), first
    grid = Geometry((len(lines[0]), len(lines[1]), len(lines[2])), subject.geometry.affine @ step)
    assert subject.flair is not None
    return replace(
        subject,
        images=np.stack([map_image(i) for i in np.moveaxis(subject.images, -1, 0)], axis=-1),
        flair=map_image(subject.flair),
        masks=Masks(map_image(subject.masks.brain) > 0.5),
        geometry=grid,
        scanned=dict.fromkeys(subject.sequences, voxel),
        native=None,
    )


def _positions(points: int, edge: float) -> Array:
    """Returns the centres of voxels of an edge length, in voxels of 1 mm, which they fill."""
    return (edge - 1) / 2 + edge * np.arange(int(points / edge))


def to_common(array: Array, voxel: tuple[float, float, float], shape: tuple[int, ...]) -> Array:
    """Returns an image of other voxels on the grid of `COMMON`, over a volume of 1 mm voxels."""
    matrices = []
    for points, edge, wanted, n in zip(shape, voxel, COMMON, array.shape, strict=True):
        at = (_positions(points, wanted) - (edge - 1) / 2) / edge
        same = edge == wanted
        matrices.append(
            np.eye(n, dtype=np.float32) if same else sampling_matrix(n, at, width=wanted / edge)
        )
    return apply_along(matrices, np.asarray(array, np.float32))


def measure_resolution(model: UniversalModel, data: Path, names: Sequence[str] | None) -> Rows:
    """Returns `nmse_fit` on the common grid, of patients with T1 and T2, for each voxel size."""
    rows = []
    for name, subject in load_patients(data, names):
        if len(subject.sequences) < 2:
            continue
        shape = subject.geometry.shape
        common = sample_at(subject, COMMON)
        assert common.flair is not None
        errors = []
        for voxel in VOXELS:
            flair = predict(model, sample_at(subject, voxel)).array
            there = to_common(flair, voxel, shape)
            errors.append(metrics.nmse_fit(there, common.flair, common.masks.brain))
        for voxel, error in zip(VOXELS, errors, strict=True):
            size = "×".join(f"{edge:g}" for edge in voxel)
            of_best = error / min(errors)
            rows.append({"patient": name, "voxels": size, "nmse_fit": error, "of_best": of_best})
    return rows


def _count(found: Array, known: Array, voxel_volume: float) -> int:
    """Returns the number of lesions above `SMALLEST` that touch none of the known ones."""
    labels, _ = lesion_segmentation.label_components(found)
    volume = np.bincount(labels.ravel()) * voxel_volume
    false = volume > SMALLEST
    false[0] = False  # the background
    false[np.unique(labels[known])] = False
    return int(false.sum())


def measure_simulated(model: UniversalModel, data: Path, brains: int) -> Rows:
    """Returns the number of false lesions in simulated brains without lesions."""
    library = load_library(
        data / "synthseg-labels", data / "ms-lesion-shapes", data / "open-ms-lesions"
    )
    ranges = replace(Ranges(), lesion=LesionRanges(healthy_share=1.0, rim_share=0.0))
    rows = []
    for number in range(brains):
        for subset in (("T1", "T2"), ("T1",)):
            (example,) = sample(
                library, ranges, (SEED, number), shape=HEAD, count=1, sequences=subset, centred=True
            )
            assert not example.lesion.any()
            grid = Geometry(HEAD, np.eye(4))
            images = example.images * example.brain[..., None]
            standard = Standard(images, example.condition, example.brain, grid)
            flair, probability = predict_standard(model, standard)
            t1 = images[..., INPUTS.index("T1")]
            inside = example.brain
            both = (flair * inside, example.flair * inside)
            own, true = (
                lesion_segmentation.segment(each, t1, inside, (1.0, 1.0, 1.0)) for each in both
            )
            nothing = np.zeros(HEAD, bool)
            listed = find_lesions(probability * inside, (1.0, 1.0, 1.0)) > 0
            row = {"brain": f"simulated {number}", "inputs": "+".join(subset)}
            rows.append(
                row
                | {
                    "by rule": _count(own, true, 1.0),
                    "by rule, true FLAIR": _count(true, nothing, 1.0),
                    "listed": _count(listed, nothing, 1.0),
                }
            )
    return rows


def measure_halves(model: UniversalModel, data: Path, names: Sequence[str] | None) -> Rows:
    """Returns the number of false lesions in each half of the brains of patients with a mask."""
    rows = []
    for name, subject in load_patients(data, names):
        lesion, brain = subject.masks.lesion, subject.masks.brain
        assert lesion is not None
        assert subject.flair is not None
        t1 = subject.images[..., subject.sequences.index("T1")]
        size, volume = subject.geometry.voxel_size, float(np.prod(subject.geometry.voxel_size))
        middle = int(np.argwhere(brain)[:, 0].mean().round())
        for subset in dict.fromkeys([subject.sequences, ("T1",)]):
            flair = predict(model, choose(subject, subset)).array
            own, true = (
                lesion_segmentation.segment(each, t1, brain, size)
                for each in (flair, subject.flair)
            )
            near = ndimage.binary_dilation(lesion, iterations=2)
            for side, part in (("left", slice(0, middle)), ("right", slice(middle, None))):
                rows.append(
                    {
                        "brain": f"{name}, {side}",
                        "inputs": "+".join(subset),
                        "lesions, mL": float(lesion[part].sum()) * volume / 1000,
                        "by rule": _count(own[part], near[part], volume),
                        "by rule, true FLAIR": _count(true[part], near[part], volume),
                    }
                )
    return rows


def measure_phantom(model: UniversalModel) -> Rows:
    """Returns `nmse_fit` of subsets on a phantom, and of least squares fitted on two others."""
    root = open_phantom(PhantomConfig(subjects=3, healthy=0), lambda number: None)
    found = find_sessions(root, (), flair="needed")
    subjects = [load_subject(replace(files, inputs=INPUTS), None) for files in found]
    rows = []
    for subset in SUBSETS:
        test, *others = (choose(subject, subset) for subject in subjects)
        assert test.flair is not None
        brain = test.masks.brain
        config = Config()
        config.data.inputs = subset
        normalization = fit_normalization(others, config.normalization.method)
        examples = [make_example(each, normalization, "brain") for each in others]
        state = BASELINES["least_squares"].fit(examples, config, 0)
        fitted = FittedBaseline("least_squares", state)
        linear = Model(subset, fitted, normalization, "brain", test.geometry.voxel_size)
        own, least = (
            metrics.nmse_fit(predict(each, test).array, test.flair, brain)
            for each in (model, linear)
        )
        name = "all" if subset == INPUTS else "+".join(subset)
        rows.append({"inputs": name, "nmse_fit": own, "least squares": least, "ratio": own / least})
    return rows


def to_markdown(tables: Mapping[str, Rows]) -> str:
    """Returns the tables as Markdown."""
    text = ""
    for rows in tables.values():
        columns = list(rows[0])
        cells = [[_format(row[name]) for name in columns] for row in rows]
        lines = [columns, ["---"] * len(columns), *cells]
        text += "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
    return text


def _format(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measures, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parts = ("resolution", "lesion-free", "phantom")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--patients", nargs="+")
    parser.add_argument("--brains", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    assert isinstance(model, UniversalModel)
    measures: Mapping[str, Mapping[str, Callable[[], Rows]]] = {
        "resolution": {"resolution": lambda: measure_resolution(model, args.data, args.patients)},
        "lesion-free": {
            "simulated": lambda: measure_simulated(model, args.data, args.brains),
            "halves": lambda: measure_halves(model, args.data, args.patients),
        },
        "phantom": {"phantom": lambda: measure_phantom(model)},
    }
    tables = {name: run() for part in args.part for name, run in measures[part].items()}
    for name, rows in tables.items():
        table = Table(*rows[0], title=name)
        for row in rows:
            table.add_row(*map(_format, row.values()))
        Console().print(table)
    if args.markdown is not None:
        args.markdown.write_text(to_markdown(tables), encoding="utf-8")
    if args.json is not None:
        run = describe_run("tests.benchmarks.bench_robustness")
        write_json(args.json, {"run": run, **tables})


if __name__ == "__main__":
    main()
