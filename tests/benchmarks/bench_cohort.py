"""Throughput of the prediction of a data set, against the slowest of its overlapping stages.

Run as `python -m tests.benchmarks.bench_cohort [--subjects 32] [--filters 64] [--grid 208 256 40]`.
Creates a data set of smooth random images and a run of a network with random parameters, predicts
the data set from .nii.gz to .nii.gz, and then runs each stage separately on the same number of
threads. A few subjects are created and linked under other names, so files come from the page cache,
and the network is compiled before the measurement: both as in the middle of a large data set.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from flaxflair import load_model, predict, predict_cohort
from flaxflair.config import NetworkConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.normalization import Normalization, Stats
from flaxflair.io import derivatives
from flaxflair.io.bids import name_file, name_sequence, subject_folder
from flaxflair.io.datasets import load_session
from flaxflair.io.nifti import write_volume
from flaxflair.io.session_files import find_sessions
from flaxflair.models.estimators import FittedNetwork
from flaxflair.models.model import Model
from flaxflair.models.saving import save_model
from flaxflair.networks import NETWORKS
from flaxflair.pipelines.predict import make_stages, make_steps
from flaxflair.runtime.environment import peak_memory_gib
from flaxflair.runtime.huge_pages import start_with_huge_pages
from flaxflair.runtime.stages import Stage, run_stages
from tests.benchmarks.record import describe_run

DISTINCT = 3
SPACING = np.diag([0.82, 0.82, 3.0, 1.0])


def make_dataset(root: Path, subjects: int, grid: tuple[int, int, int]) -> None:
    """Writes a prepared data set: all inputs and a brain mask, no FLAIR."""
    root.mkdir()
    description = {"Name": "bench", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    write_json(root / "dataset_description.json", description)
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid), indexing="ij")
    brain = np.sum(np.square(axes), axis=0) < 0.5
    for number in range(subjects):
        name, model = (f"sub-{n + 1:04d}" for n in (number, number % DISTINCT))
        folder = subject_folder(root, name, None)
        images = {name_file("mask", sub=name, space="FLAIR", desc="brain"): brain}
        if number >= DISTINCT:
            for path in (root / model / "anat").iterdir():
                os.link(path, folder / path.name.replace(model, name))
            continue
        for sequence in INPUTS:
            file = name_sequence(sequence, sub=name, space="FLAIR", desc="preproc")
            images[file] = draw_image(rng, grid)
        for file, image in images.items():
            write_volume(folder / file, image, SPACING)


def draw_image(rng: np.random.Generator, grid: tuple[int, int, int]) -> Array:
    """Returns a smooth image with a little noise, as hard to compress as an MRI in float32."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(grid, np.float32), 3)
    noise = rng.standard_normal(grid, np.float32)
    return 300 + 60 * smooth / smooth.std() + 5 * noise


def make_run(folder: Path, filters: int) -> None:
    """Saves what a run of one fold leaves, its parameters random."""
    config = NetworkConfig(filters=filters)
    network = NETWORKS[config.name](len(INPUTS), config)
    count = len(INPUTS)
    normalization = Normalization(
        Stats((300.0,) * count, (60.0,) * count), Stats((300.0,), (60.0,))
    )
    params = network.init(jax.random.key(0))
    model = Model(INPUTS, FittedNetwork(config, network, params), normalization)
    save_model(folder / "fold-0", model)


def run_alone(stage: Stage, items: Sequence[Any]) -> tuple[list[Any], float]:
    """Returns what a stage makes of items, and its seconds a subject."""
    started = time.perf_counter()
    outcomes = list(run_stages(items, [stage]))
    seconds = (time.perf_counter() - started) / len(items)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return [outcome.value for outcome in outcomes], seconds


def main() -> None:
    """Measures the whole and each stage, prints a table and writes it with where it comes from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=32)
    parser.add_argument("--alone", type=int, default=6, help="subjects that time a stage alone")
    parser.add_argument("--grid", type=int, nargs=3, default=(208, 256, 40))
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--voxels", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the data set is made and removed")
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args()
    record = describe_run("tests.benchmarks.bench_cohort")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options)
    print_table(options, record, result)
    if options.json:
        sizes = {
            name: getattr(options, name)
            for name in ("subjects", "alone", "grid", "filters", "voxels", "workers")
        }
        write_json(options.json, {"machine": record, **sizes, **result})


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns seconds a subject of the whole and of each stage, and the memory of the whole."""
    x, y, z = options.grid
    root, out = folder / "dataset", folder / "out"
    make_dataset(root, options.subjects, (x, y, z))
    make_run(folder / "run", options.filters)
    model = load_model(folder / "run")
    sessions = find_sessions(root, model.sequences, flair="ignored")[: options.alone]
    predict(model, load_session(sessions[0]), tile_voxels=options.voxels)  # compiles

    report = predict_cohort(model, root, out, tile_voxels=options.voxels, workers=options.workers)
    if report.failures:
        raise RuntimeError(str(report.failures))
    peak, whole = peak_memory_gib(), report.seconds / options.subjects

    alone: dict[str, float] = {}
    items: Sequence[Any] = sessions
    place = partial(derivatives.in_derivative, out)
    steps = make_steps(model, None, place, tile_voxels=options.voxels)
    for stage in make_stages(steps, options.workers):
        items, alone[stage.name] = run_alone(stage, items)
    slowest = max(alone, key=lambda name: alone[name])
    return {
        "seconds a subject": {
            "whole": whole,
            "alone": alone,
            "busy in the whole": {n: s / options.subjects for n, s in report.busy.items()},
        },
        "slowest": slowest,
        "fraction": alone[slowest] / whole,
        "peak GiB": peak,
    }


def print_table(
    options: argparse.Namespace, record: dict[str, Any], result: dict[str, Any]
) -> None:
    """Prints what was measured."""
    seconds, slowest = result["seconds a subject"], result["slowest"]
    print(
        f"{options.subjects} subjects of {'x'.join(map(str, options.grid))}, "
        f"{options.filters} filters; {record['processor']}, {record['device']}"
    )
    print(f"{'seconds a subject':18} {'alone':>8} {'busy in the whole':>18}")
    for name, alone in seconds["alone"].items():
        print(f"{name:18} {alone:8.3f} {seconds['busy in the whole'][name]:18.3f}")
    print(f"{'whole':18} {seconds['whole']:8.3f}")
    rates = [3600 / value for value in (seconds["alone"][slowest], seconds["whole"])]
    print(
        f"{slowest} alone {rates[0]:.0f} an hour, the whole {rates[1]:.0f}: "
        f"{result['fraction']:.2f} of it; peak {result['peak GiB']:.2f} GiB"
    )


if __name__ == "__main__":
    start_with_huge_pages()
    main()
