"""Time and memory of prediction, by the size of a volume and the number of subjects.

Run as `python -m tests.benchmarks.bench_cost [--edges 64 128 256 512] [--subjects 1 4 16 64]`.
Volumes are cubes of five inputs, each predicted from files to a file by a separate process, whose
peak memory is reported in excess of the size of its inputs. Data sets are predicted as in
`bench_cohort`. `--plot PNG` plots the results in `--json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flaxflair import load_model, predict_cohort, predict_session
from flaxflair.core.atomic_files import write_json
from flaxflair.core.sequences import INPUTS
from flaxflair.io.nifti import write_volume
from flaxflair.runtime.environment import peak_memory_gib
from flaxflair.runtime.huge_pages import start_with_huge_pages
from tests.benchmarks.bench_cohort import make_dataset, make_run
from tests.benchmarks.record import describe_run

MODULE = "tests.benchmarks.bench_cost"


def work(folder: Path, voxels: int) -> dict[str, float]:
    """Predicts the files of a folder in this process; returns seconds and peak memory in GiB."""
    model = load_model(folder / "run")
    inputs = {name: folder / f"{name}.nii" for name in INPUTS}
    started = time.perf_counter()
    brain = folder / "brain.nii"
    predict_session(model, inputs, folder / "FLAIR.nii", None, brain=brain, tile_voxels=voxels)
    return {"seconds": time.perf_counter() - started, "peak GiB": peak_memory_gib()}


def measure_volume(edge: int, filters: int, voxels: int) -> dict[str, float]:
    """Returns what a cube costs, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_run(folder / "run", filters)
        rng = np.random.default_rng(0)
        for sequence in INPUTS:
            noise = 300 + 60 * rng.standard_normal((edge, edge, edge), np.float32)
            write_volume(folder / f"{sequence}.nii", noise, np.eye(4))
            del noise
        write_volume(folder / "brain.nii", np.ones((edge, edge, edge), np.float32), np.eye(4))
        command = [sys.executable, "-m", MODULE, "--voxels", str(voxels), "--work", str(folder)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        own = json.loads(done.stdout.splitlines()[-1])
    inputs = 4 * len(INPUTS) * edge**3 / 2**30
    return {"edge": edge, **own, "inputs GiB": inputs, "above GiB": own["peak GiB"] - inputs}


def measure_cohorts(
    numbers: list[int], grid: tuple[int, int, int], filters: int
) -> list[dict[str, float]]:
    """Returns what data sets of so many subjects cost, .nii.gz to .nii.gz, compiling included."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "dataset", max(numbers), grid)
        make_run(folder / "run", filters)
        model = load_model(folder / "run")
        for number in numbers:
            chosen = [f"{n + 1:04d}" for n in range(number)]
            report = predict_cohort(model, folder / "dataset", folder / "out", participants=chosen)
            if report.failures:
                raise RuntimeError(str(report.failures))
            found.append({"subjects": number, "seconds": report.seconds})
            print(f"{number:4d} subjects {report.seconds:8.1f} s", flush=True)
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws seconds and memory against size, and seconds against subjects."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    time_axes, memory_axes, cohort_axes = figure.subplots(1, 3)
    volumes, cohorts = result["volumes"], result["cohorts"]
    million = [volume["edge"] ** 3 / 1e6 for volume in volumes]
    for axes in (time_axes, memory_axes):
        axes.margins(x=0.15, y=0.1)
    time_axes.loglog(million, [v["seconds"] for v in volumes], "o-", color="C0")
    time_axes.set(xlabel="million voxels", ylabel="seconds a volume")
    memory_axes.semilogx(million, [v["above GiB"] for v in volumes], "o-", color="C1")
    memory_axes.axhline(2, color="0.6", ls="--", lw=1)
    memory_axes.set(
        xlabel="million voxels", ylabel="peak memory above the inputs, GiB", ylim=(0, 2.2)
    )
    for axes, name in ((time_axes, "seconds"), (memory_axes, "above GiB")):
        for volume, size in zip(volumes, million, strict=True):
            axes.annotate(
                f"{volume['edge']}³",
                (size, volume[name]),
                xytext=(-4, 5),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color="0.35",
            )
    numbers = [c["subjects"] for c in cohorts]
    seconds = [c["seconds"] for c in cohorts]
    cohort_axes.loglog(numbers, seconds, "o-", color="C2")
    rate = seconds[-1] / numbers[-1]
    cohort_axes.loglog(numbers, [rate * n for n in numbers], "--", color="0.6", lw=1)
    grid = "×".join(map(str, result["grid"]))
    cohort_axes.set(xlabel=f"subjects of {grid} voxels", ylabel="seconds, files to files")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measures, prints, and writes it with where it comes from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, nargs="*", default=[64, 128, 256, 512])
    parser.add_argument("--subjects", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--grid", type=int, nargs=3, default=(104, 128, 40), help="of the subjects")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--voxels", type=int, default=700_000, help="computed at a time")
    parser.add_argument("--json", type=Path, help="where to write it all")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work, options.voxels)))
        return
    record = describe_run(MODULE)
    volumes = []
    for edge in options.edges:
        volumes.append(own := measure_volume(edge, options.filters, options.voxels))
        print(
            f"{edge:4d}³ {own['seconds']:8.1f} s  inputs {own['inputs GiB']:.2f} GiB, "
            f"peak {own['above GiB']:.2f} GiB above them",
            flush=True,
        )
    x, y, z = options.grid
    cohorts = measure_cohorts(options.subjects, (x, y, z), options.filters)
    result = {
        "machine": record,
        "filters": options.filters,
        "voxels": options.voxels,
        "grid": [x, y, z],
        "volumes": volumes,
        "cohorts": cohorts,
    }
    if options.json:
        write_json(options.json, result)
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    start_with_huge_pages()
    main()
