"""Accuracy of a universal model on simulated heads, from each of the 31 subsets of the sequences.

Run as `python -m tests.benchmarks.bench_subsets --labels DIR --lesions DIR --masks DIR
[--model FILE] [--windows 40] [--observed bench_model.json --patients PATIENT ...] [--json OUT]`. It
makes the table of `flaxflair advise`. `--observed` adds the mean `nmse_fit` of the patients named,
whom the model has not seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import Array, Geometry
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import CONDITION, Standard
from flaxflair.imaging.tissue_classes import classify
from flaxflair.models.error_scale import scale_inputs, scale_network, to_scale
from flaxflair.models.saving import digest_model, load_model
from flaxflair.models.universal import UniversalModel, predict_standard
from flaxflair.simulation.generator.anatomies import Library, load_library
from flaxflair.simulation.generator.generator import Example, sample
from flaxflair.simulation.generator.ranges import Ranges
from tests.benchmarks.record import describe_run

MODULE = "tests.benchmarks.bench_subsets"
EDGE = 64  # voxels of a window along each edge
SEED = 97  # no seed of a training
COVERAGE = 0.9
SUBSETS = [s for n in range(1, len(INPUTS) + 1) for s in combinations(INPUTS, n)]


def draw(library: Library, windows: int) -> Iterator[Example]:
    """Yields windows of simulated heads with all sequences."""
    for number in range(windows):
        seed = (SEED, number)
        (one,) = sample(
            library, Ranges(), seed, shape=(EDGE, EDGE, EDGE), count=1, sequences=INPUTS
        )
        yield one


def keep(example: Example, subset: Sequence[str]) -> tuple[Array, Array]:
    """Returns images and condition as if only a subset had been scanned."""
    present = np.isin(INPUTS, subset)
    rows = example.condition.reshape(len(INPUTS), CONDITION // len(INPUTS))
    return example.images * present, (rows * present[:, None]).ravel()


def measure(model: UniversalModel, examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Returns the means over windows of each subset."""
    scale = model.scale
    assert scale is not None
    calibration = scale.calibration
    assert calibration is not None
    network = scale_network()

    @jax.jit
    def scale_of(inputs: jax.Array, condition: jax.Array) -> jax.Array:
        return to_scale(network.forward(scale.params, inputs, condition)[0])

    def predict(images: Array, condition: Array, brain: Array) -> tuple[Array, Array, Array]:
        standard = Standard(images, condition, brain, Geometry(brain.shape, np.eye(4)))
        flair, lesion = predict_standard(model, standard)
        inputs = scale_inputs(*(jnp.asarray(each)[None] for each in (images, flair, lesion)))
        return flair, lesion, np.asarray(scale_of(inputs, jnp.asarray(condition)[None])[0])

    rows = {}
    for subset in SUBSETS:
        channels = [INPUTS.index(name) for name in subset]
        squares = variances = width = 0.0
        found = true = both = voxels = 0
        for example in examples:
            images, condition = keep(example, subset)
            brain = example.brain
            flair, lesion, b = predict(images, condition, brain)
            truth = example.flair[brain]
            squares += float(np.sum((flair[brain] - truth) ** 2))
            variances += float(np.sum((truth - truth.mean()) ** 2))
            ends = calibration.ends(subset, COVERAGE)
            classes = classify(images[..., channels], subset, lesion)[brain]
            width += float(np.sum((ends[classes, 1] - ends[classes, 0]) * b[brain]))
            voxels += len(truth)
            own, mask = lesion[brain] >= 0.5, example.lesion[brain] >= 0.5
            found, true, both = found + own.sum(), true + mask.sum(), both + (own & mask).sum()
        rows["+".join(subset)] = {
            "nmse": round(squares / variances, 4),
            "width": round(width / voxels, 4),
            "recall": round(float(both / max(true, 1)), 4),
            "precision": round(float(both / max(found, 1)), 4),
        }
    return rows


def observe(path: Path, patients: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the mean `nmse_fit` of each subset of some patients of `bench_model`."""
    found: dict[str, dict[str, list[float]]] = {}
    for session, subsets in read_object(path, "run bench_model again")["rows"].items():
        patient = session.split("_")[0].removeprefix("raw ")
        if patient in patients:
            for subset, row in subsets.items():
                found.setdefault(subset, {}).setdefault(patient, []).append(row["nmse_fit"])
    return {
        subset: {
            "observed": round(float(np.mean([np.mean(v) for v in each.values()])), 4),
            "patients": len(each),
        }
        for subset, each in found.items()
    }


def main() -> None:
    """Measures, prints, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("labels", "lesions", "masks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--observed", type=Path)
    parser.add_argument("--patients", nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    assert isinstance(model, UniversalModel)
    examples = list(draw(load_library(args.labels, args.lesions, args.masks), args.windows))
    rows: dict[str, dict[str, Any]] = dict(measure(model, examples))
    if args.observed is not None:
        for subset, row in observe(args.observed, args.patients).items():
            rows[subset] |= row
    names = ("nmse", "width", "recall", "precision", "observed", "patients")
    table = Table("inputs", *names)
    for subset, row in rows.items():
        table.add_row(subset, *(str(row.get(name, "")) for name in names))
    Console().print(table)
    if args.json is not None:
        facts = {"model": digest_model(model), "windows": args.windows, "seed": SEED}
        write_json(args.json, {"machine": describe_run(MODULE), **facts, "subsets": rows})


if __name__ == "__main__":
    main()
