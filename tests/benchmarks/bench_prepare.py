"""Accuracy of the preparation of raw sessions, on phantoms with known motion and bias.

Run as `python -m tests.benchmarks.bench_prepare [--subjects 8] [--scale 1] [--control] [--job]`.
Writes a raw phantom, prepares it, and reports for each sequence the registration error, the
residual bias in white matter, and the variation of the image there. `--bias-by scan` corrects each
scan by the field that N4 estimates from it alone. `--control` prepares the same scans without bias,
so that any estimated field is anatomy. `--job` trains the quick main job on the prepared sessions
and on the exactly prepared phantom, both in the true brain, since a brain mask without the outer
rim of fluid makes synthesis easier. The constant of a bias field is not identifiable: N4 makes the
mean of its logarithm in the brain zero. The exact images are multiplied by the constant of the true
field, so that both have the same units.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from flaxflair.configs import fcn64
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Geometry
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.evaluation import metrics
from flaxflair.imaging.orientation import to_ras
from flaxflair.io import bids
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.pipelines import cross_validation
from flaxflair.preprocessing.dataset import prepare_dataset
from flaxflair.preprocessing.options import Preparation
from flaxflair.runtime.compilation_cache import enable_compilation_cache
from flaxflair.runtime.huge_pages import start_with_huge_pages
from flaxflair.simulation.phantom import write_phantom
from flaxflair.simulation.scanner import bias_field
from tests.benchmarks.record import describe_run
from tests.truth import compare_bias, misplaced, variation

_TRANSFORM = "WorldOfReferenceToWorldOfSource"


class Scan(NamedTuple):
    """One scan of a raw phantom: its file, its motion since the FLAIR, and its bias."""

    subject: str
    sequence: str
    path: Path
    motion: Array
    bias: tuple[float, ...]


def find_scans(root: Path) -> Iterator[Scan]:
    """Yields the scans of a raw phantom."""
    for folder in sorted(root.glob("sub-*")):
        for sequence in SEQUENCES:
            path = folder / "anat" / bids.name_sequence(sequence, sub=folder.name)
            sidecar = json.loads(bids.sidecar(path).read_text())
            motion = np.array(sidecar.get("PhantomMotion", np.eye(4)))
            yield Scan(
                folder.name, sequence, path, motion, tuple(sidecar["PhantomBias"]["Coefficients"])
            )


def name_prepared(root: Path, scan: Scan) -> Path:
    """Returns where a scan lies in a prepared data set."""
    space = None if scan.sequence == TARGET else "FLAIR"
    name = bids.name_sequence(scan.sequence, sub=scan.subject, space=space, desc="preproc")
    return root / scan.subject / "anat" / name


def _truth(root: Path) -> Path:
    """Returns where the truth about a raw phantom lies: beside it, lest it is taken for a mask."""
    return root.with_name(root.name + "-truth")


def read_mask(root: Path, subject: str, **entities: str) -> tuple[Array, Geometry]:
    """Returns a mask of the phantom's truth, bool[x, y, z], on the FLAIR's grid."""
    name = bids.name_file("mask", sub=subject, space="FLAIR", **entities)
    volume = to_ras(read_volume(_truth(root) / subject / "anat" / name))
    return volume.array > 0.5, volume.geometry


def take_bias_out(raw: Path, out: Path) -> None:
    """Copies a raw phantom, its scans divided by the bias that was planted."""
    shutil.copytree(raw, out)
    shutil.copytree(_truth(raw), _truth(out))
    for scan in find_scans(out):
        volume = read_volume(scan.path)
        field = bias_field(scan.bias, volume.geometry)
        write_volume(scan.path, volume.array / field, volume.geometry.affine)


def share_constants(exact: Path, raw: Path) -> None:
    """Multiplies exact images by the geometric mean of their true fields in the brain."""
    for scan in find_scans(raw):
        brain, grid = read_mask(raw, scan.subject, desc="brain")
        field = bias_field(scan.bias, Geometry(grid.shape, scan.motion @ grid.affine))
        path = name_prepared(exact, scan)
        volume = read_volume(path)
        constant = np.float32(np.exp(np.log(field[brain]).mean()))
        write_volume(path, constant * volume.array, volume.geometry.affine)


def score(raw: Path, prepared: Path, *, planted: bool = True) -> dict[str, dict[str, list[float]]]:
    """Returns sequence -> figure -> one value a subject.

    Figures: mm by which registration is off, on average in the brain; coefficients of variation in
    normal white matter of the field that was planted, of what correction left of it, and of the
    image as scanned, as corrected, and with the true field divided out.
    """
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in SEQUENCES}
    for scan in find_scans(raw):
        brain, grid = read_mask(raw, scan.subject, desc="brain")
        white, _ = read_mask(raw, scan.subject, label="NAWM")
        path = name_prepared(prepared, scan)
        image = to_ras(read_volume(path)).array
        found = np.array(json.loads(bids.sidecar(path).read_text())[_TRANSFORM])
        volume = to_ras(read_volume(scan.path))
        true = bias_field(scan.bias, volume.geometry) if planted else np.ones_like(volume.array)
        bias = compare_bias(volume, true, image, grid, found, scan.motion, white)
        row = {
            "off": misplaced(found, scan.motion, brain, grid),
            "planted": variation(bias.planted),
            "left": variation(bias.left),
            "image, scanned": variation(bias.scanned),
            "image, corrected": variation(bias.corrected),
            "image, exact": variation(bias.scanned / bias.planted),
        }
        for name, value in row.items():
            rows[scan.sequence].setdefault(name, []).append(value)
    return rows


def overlap(raw: Path, prepared: Path) -> list[float]:
    """Returns the Dice coefficient of the brain found, one a subject."""
    found = []
    for folder in sorted(prepared.glob("sub-*/")):
        brain, _ = read_mask(raw, folder.name, desc="brain")
        name = bids.name_file("mask", sub=folder.name, space="FLAIR", desc="brain")
        mine = to_ras(read_volume(folder / "anat" / name)).array > 0.5
        found.append(metrics.dice(mine, brain))
    return found


def train(root: Path, workdir: Path) -> list[float]:
    """Returns the MSE of the quick main job's network, one a fold."""
    config = fcn64.get_config("quick")
    config.data.root = str(root)
    config.predict.saliency = False
    summary = cross_validation.run(config, workdir, root, console=Console(quiet=True))
    return summary["methods"]["fcn"]["mse"]["folds"]


def main() -> None:
    """Measures, prints a table and writes it with where it comes from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--scale", type=float, default=1.0, help="of the phantom (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom (0)")
    parser.add_argument("--bias-by", choices=("session", "scan"), default="session")
    parser.add_argument("--control", action="store_true", help="prepare scans without bias too")
    parser.add_argument("--job", action="store_true", help="train on it, and on the exact phantom")
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args()
    record = describe_run("tests.benchmarks.bench_prepare")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    print_table(options, record, result)
    if options.json:
        sizes = {"subjects": options.subjects, "scale": options.scale, "bias by": options.bias_by}
        write_json(options.json, {"machine": record, **sizes, **result})


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns everything that was asked for."""
    raw, prepared, exact = (folder / name for name in ("raw", "prepared", "exact"))
    healthy = 1 if options.subjects > 1 else 0
    kind = {
        "subjects": options.subjects,
        "healthy": healthy,
        "scale": options.scale,
        "seed": options.seed,
    }
    preparation = Preparation(bias_by=options.bias_by)
    write_phantom(raw, **kind, layout="raw")
    shutil.move(raw / "derivatives/truth", _truth(raw))
    shutil.rmtree(raw / "derivatives")
    started = time.perf_counter()
    prepare(raw, prepared, preparation)
    result: dict[str, Any] = {
        "seconds a subject": (time.perf_counter() - started) / options.subjects,
        "sequences": score(raw, prepared),
        "brain, Dice": overlap(raw, prepared),
    }
    if options.control:
        take_bias_out(raw, folder / "even")
        prepare(folder / "even", folder / "control", preparation)
        result["without bias"] = score(folder / "even", folder / "control", planted=False)
    if options.job:
        write_phantom(exact, **kind, layout="prepared")
        for mask in exact.glob("sub-*/anat/*desc-brain_mask.nii.gz"):
            shutil.copy(mask, prepared / mask.relative_to(exact))
        result["MSE, exact"] = train(exact, folder / "run-exact")
        share_constants(exact, raw)
        result["MSE, exact, constants as N4's"] = train(exact, folder / "run-shared")
        result["MSE, prepared"] = train(prepared, folder / "run-prepared")
    return result


def prepare(raw: Path, out: Path, options: Preparation) -> None:
    """Prepares a data set, all of it."""
    report = prepare_dataset(raw, out, options)
    if report.failures:
        raise RuntimeError(str(report.failures))


def print_table(
    options: argparse.Namespace, record: dict[str, Any], result: dict[str, Any]
) -> None:
    """Prints what was measured."""
    print(
        f"{options.subjects} subjects, scale {options.scale:g}; {record['processor']}; "
        f"{result['seconds a subject']:.1f} s a subject"
    )
    kinds = ("scanned", "corrected", "exact")
    heads = ("off, mm", "at most", "planted", "left", "without", *kinds)
    print(f"{'':6}" + "".join(f" {head:>9}" for head in heads))
    for name, row in result["sequences"].items():
        bare = rms(result["without bias"][name]["left"]) if "without bias" in result else np.nan
        off = (np.mean(row["off"]), max(row["off"]))
        varies = (rms(row["planted"]), rms(row["left"]), bare)
        images = (rms(row[f"image, {kind}"]) for kind in kinds)
        print(
            f"{name:6}"
            + "".join(f" {value:9.2f}" for value in off)
            + "".join(f" {value:9.4f}" for value in (*varies, *images))
        )
    dice = result["brain, Dice"]
    print(f"brain: Dice {np.mean(dice):.3f}, at least {min(dice):.3f}")
    for name, folds in result.items():
        if name.startswith("MSE"):
            print(f"{name}: {np.mean(folds):.1f}")


def rms(values: list[float]) -> float:
    """Returns the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


if __name__ == "__main__":
    start_with_huge_pages()
    enable_compilation_cache()
    main()
