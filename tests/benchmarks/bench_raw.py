"""Time and memory of `flaxflair predict` on a raw session of many voxels.

Run as `python -m tests.benchmarks.bench_raw --t1w FILE --t2w FILE [--edge 512]`. The scans are
interpolated to cubes of `edge` voxels with the same field of view and written as int16. The shipped
model predicts them in a process of its own, with preparation and page. Its peak memory is reported
in excess of the inputs as float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Volume
from flaxflair.io.nifti import read_volume
from tests.benchmarks.record import describe_run, run_measured

MODULE = "tests.benchmarks.bench_raw"


def enlarge(volume: Volume, edge: int, path: Path) -> None:
    """Writes a scan interpolated to a cube of `edge` voxels, int16, slice by slice.

    The field of view stays the same, from the outer edges of the first voxels to those of the last.
    """
    factors = edge / np.array(volume.geometry.shape)
    along_z = _zoom(volume.array, (1, 1, factors[2]))
    array = np.empty((edge, edge, edge), np.int16)
    for z in range(edge):
        array[..., z] = _zoom(along_z[..., z], factors[:2])
    to_scan = np.diag([*(1 / factors), 1.0])
    to_scan[:3, 3] = (1 / factors - 1) / 2
    affine = volume.geometry.affine @ to_scan
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    nib.save(image, path)


def _zoom(array: Array, factors: Array | Sequence[float]) -> Array:
    zoomed = ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True)
    return np.asarray(zoomed)


def measure(scans: dict[str, Path], edge: int) -> dict[str, float]:
    """Returns what the prediction costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = []
        for flag, path in scans.items():
            enlarge(read_volume(path), edge, folder / f"{flag}.nii")
            flags += [f"--{flag}", str(folder / f"{flag}.nii")]
        command = [sys.executable, "-m", "flaxflair.cli", "predict", *flags]
        cost = run_measured([*command, "--out", str(folder / "FLAIR.nii.gz")], folder)
        page = (folder / "FLAIR.html").stat().st_size / 2**20
    inputs = 4 * len(scans) * edge**3 / 2**30
    return {
        "edge": edge,
        "seconds": cost.wall,
        "CPU seconds": cost.cpu,
        "peak GiB": cost.peak,
        "inputs GiB": inputs,
        "above GiB": cost.peak - inputs,
        "page MiB": page,
    }


def main() -> None:
    """Measures, prints, and writes it with where it comes from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--t1w", type=Path, required=True)
    parser.add_argument("--t2w", type=Path, required=True)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure({"t1w": args.t1w, "t2w": args.t2w}, args.edge)
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    if args.json:
        write_json(args.json, {"machine": describe_run(MODULE), **found})


if __name__ == "__main__":
    main()
