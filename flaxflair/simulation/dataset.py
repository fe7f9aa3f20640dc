"""Simulated subjects as a BIDS data set, raw or prepared, with the truth as a derivative.

Writes file names and sidecars. Independent of the simulation of images.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from flaxflair.core.atomic_files import write_bytes, write_json, write_text
from flaxflair.core.locks import hold
from flaxflair.core.records import Array, InputError
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.io.bids import BIDS_VERSION, name_file, name_sequence, write_tsv
from flaxflair.io.bids import sidecar as sidecar_of
from flaxflair.io.nifti import write_volume
from flaxflair.simulation import scanner
from flaxflair.simulation.anatomy import load_atlas
from flaxflair.simulation.relaxation import PROTOCOLS
from flaxflair.simulation.subject import (
    LABELS,
    Prepared,
    Scan,
    Simulation,
    prepare_subject,
    simulate_subject,
)

Layout = Literal["raw", "prepared"]

SPACE = "FLAIR"
SMALLEST_SCALE = 0.05

_README = """\
# Phantom of multiple-sclerosis MRI

Simulated by flaxflair; nobody was scanned. Each subject is the ICBM152 brain (Fonov et al. 2011),
bent into an individual, given a head, lesions and relaxation times at 3 T, and scanned by six pulse
sequences: T1w, T1w with a spin echo (acq-SE), T2w, PDw, double inversion recovery (acq-DIR_T2w) and
FLAIR, after the protocol of Wei et al., J. Med. Imaging 6(1):014005 (2019).

{layout}

What only a phantom knows lies in `derivatives/truth`, on the FLAIR's grid: lesions, brain,
normal-appearing white matter, ventricles, tissue labels, and the FLAIR without its noise.

    flaxflair phantom OUT --subjects {subjects} --healthy {healthy} --seed {seed} \\
        --layout {name} --scale {scale:g}
"""
_LAYOUTS = {
    "raw": """\
Images are as the scanner left them: each on its own grid, with its own motion, coil bias and noise.
The sidecars hold what was planted: `PhantomMotion` is the rigid matrix (world mm) that takes tissue
from where it lay during the FLAIR to where it lay during this sequence; `PhantomBias` holds the
coefficients from which `flaxflair.simulation.scanner.bias_field` rebuilds the bias.""",
    "prepared": """\
Images are as a good preprocessing leaves them: bias removed but for a per cent or so, registered
to the FLAIR to within a few tenths of a millimetre, interpolated once. The sidecars hold what was
left, `PhantomResidualMotion` and `PhantomResidualBias`.""",
}


def write_dataset(
    out: Path,
    *,
    subjects: int,
    healthy: int,
    seed: int,
    layout: Layout,
    scale: float,
    on_subject: Callable[[int], None],
) -> None:
    """Writes the data set; see `flaxflair.simulation.phantom.write_phantom`."""
    _check(out, subjects, healthy, seed, layout, scale)
    # A unique name: process numbers are not unique across containers and hosts sharing a disk.
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir()
        _write_root(part, subjects, healthy, seed, layout, scale)
        load_atlas()

        def write(index: int) -> int:
            patient = index < subjects - healthy
            simulation = simulate_subject(seed, index, patient=patient, scale=scale)
            name = f"sub-{index + 1:02d}"
            noisefree = simulation.truth.noisefree
            if layout == "raw":
                _write_raw(part, name, simulation)
            else:
                prepared = prepare_subject(seed, index, simulation)
                noisefree = noisefree * prepared[TARGET].correction
                _write_prepared(part, name, simulation, prepared)
            _write_truth(part / "derivatives" / "truth", name, simulation, noisefree, layout)
            return index

        with ThreadPoolExecutor(max_workers=_workers(scale)) as pool:
            futures = [pool.submit(write, index) for index in range(subjects)]
            try:
                for future in as_completed(futures):
                    on_subject(future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextlib.contextmanager
def lock_dataset(out: Path, *, wait: bool = False) -> Iterator[Path]:
    """Locks the folder of a data set for this process within a block.

    Incomplete data sets of killed processes, under hidden names, are removed.

    Args:
      out: folder to create; its parent is created if missing.
      wait: whether to wait for another process that creates it.

    Yields:
      `out`, absolute.

    Raises:
      InputError: another process creates it, and `wait` is False.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold(out.with_name(f".{out.name}.lock"), str(out), wait=wait) as held:
        if held:
            for left in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
                shutil.rmtree(left, ignore_errors=True)
        yield out


def _workers(scale: float) -> int:
    """Returns the number of threads; numpy and scipy release the interpreter's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # A subject at full resolution takes about 2 GB.
    return min(cores or 1, 4 if scale > 0.5 else 8)


def _check(out: Path, subjects: int, healthy: int, seed: int, layout: str, scale: float) -> None:
    if layout not in _LAYOUTS:
        raise InputError(f"layout {layout!r} is not known; choose raw or prepared")
    if subjects < 1:
        raise InputError(f"{subjects} subjects were requested; at least 1 is needed")
    if not 0 <= healthy <= subjects:
        raise InputError(f"{healthy} of {subjects} subjects cannot be healthy")
    if seed < 0:
        raise InputError(f"seed {seed} is negative; choose 0 or more")
    if not SMALLEST_SCALE <= scale <= 1:
        raise InputError(f"scale {scale:g} is not between {SMALLEST_SCALE:g} and 1")
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        what = "is not empty" if out.is_dir() else "is no folder"
        raise InputError(f"{out}: {what}; name a folder that does not exist yet")


def _generated() -> dict[str, str]:
    try:
        return {"Name": "flaxflair", "Version": version("flaxflair")}
    except PackageNotFoundError:
        return {"Name": "flaxflair"}


def _write_root(
    root: Path, subjects: int, healthy: int, seed: int, layout: Layout, scale: float
) -> None:
    """Writes the descriptive files of the data set and of its truth derivative."""
    common: dict[str, Any] = {
        "BIDSVersion": BIDS_VERSION,
        "License": "CC0",
        "Authors": ["flaxflair"],
        "GeneratedBy": [{**_generated(), "Description": f"phantom, seed {seed}, scale {scale:g}"}],
        "ReferencesAndLinks": [
            "https://doi.org/10.1117/1.JMI.6.1.014005",
            "https://doi.org/10.1016/j.neuroimage.2010.07.033",
        ],
    }
    kind = "raw" if layout == "raw" else "derivative"
    name = f"flaxflair phantom, {layout}"
    write_json(root / "dataset_description.json", {"Name": name, "DatasetType": kind, **common})
    readme = _README.format(
        layout=_LAYOUTS[layout],
        subjects=subjects,
        healthy=healthy,
        seed=seed,
        name=layout,
        scale=scale,
    )
    write_text(root / "README", readme)
    groups = [
        (f"sub-{index + 1:02d}", "MS" if index < subjects - healthy else "HC")
        for index in range(subjects)
    ]
    write_tsv(root / "participants.tsv", ("participant_id", "group"), iter(groups))
    write_json(
        root / "participants.json",
        {
            "group": {
                "Description": "what the simulated participant has",
                "Levels": {"MS": "multiple sclerosis", "HC": "healthy control"},
            }
        },
    )
    _write_truth_root(root / "derivatives" / "truth", common)


def _write_truth_root(truth: Path, common: Mapping[str, Any]) -> None:
    """Writes the descriptive files of the derivative with the truth."""
    truth.mkdir(parents=True)
    write_json(
        truth / "dataset_description.json",
        {
            "Name": "Truth of the flaxflair phantom",
            "DatasetType": "derivative",
            **common,
            "SourceDatasets": [{"URL": "../.."}],
        },
    )
    write_bytes(
        truth / "README",
        b"# Truth of the flaxflair phantom\n\nRegions and the FLAIR without noise, as simulated."
        b" The README of the data set\nthat this one lies in says how.\n",
    )
    write_tsv(
        truth / "dseg.tsv",
        ("index", "name"),
        ((str(index), title) for index, title in LABELS.items()),
    )


def _timing(sequence: str) -> dict[str, Any]:
    """Returns the sidecar fields of a sequence's protocol, in seconds."""
    protocol = PROTOCOLS[sequence]
    fields: dict[str, Any] = {
        "MagneticFieldStrength": 3,
        "RepetitionTime": protocol.repetition / 1000,
        "EchoTime": protocol.echo / 1000,
    }
    if protocol.inversions:
        # BIDS has one number; of a double inversion it is the one nearest to the excitation.
        fields["InversionTime"] = protocol.inversions[-1] / 1000
    if len(protocol.inversions) > 1:
        fields["PhantomInversionTimes"] = [time / 1000 for time in protocol.inversions]
    return fields


def _bias_fields(coefficients: Array) -> dict[str, Any]:
    return {
        "Basis": "exp of a sum of Legendre products P_i(x/R) P_j(y/R) P_k(z/R), world mm",
        "Reach": scanner.BIAS_REACH,
        "Degrees": [list(term) for term in scanner.BIAS_TERMS],
        "Coefficients": [float(c) for c in coefficients],
    }


def _matrix(matrix: Array) -> list[list[float]]:
    return [[float(v) for v in row] for row in matrix]


def _folder(root: Path, name: str) -> Path:
    folder = root / name / "anat"
    folder.mkdir(parents=True)
    return folder


def _write_image(path: Path, array: Array, affine: Array, sidecar: dict[str, Any]) -> None:
    write_volume(path, array, affine)
    write_json(sidecar_of(path), sidecar)


def _write_raw(root: Path, name: str, simulation: Simulation) -> None:
    folder = _folder(root, name)
    for sequence, scan in simulation.scans.items():
        sidecar = {
            **_timing(sequence),
            "PhantomMotion": _matrix(scan.motion),
            "PhantomBias": _bias_fields(scan.bias),
            **_noise(scan),
        }
        geometry = scan.volume.geometry
        path = folder / name_sequence(sequence, sub=name)
        _write_image(path, scan.volume.array, geometry.affine, sidecar)


def _noise(scan: Scan) -> dict[str, float]:
    return {"PhantomGain": round(scan.gain, 4), "PhantomNoise": scan.sigma}


def _write_prepared(
    root: Path, name: str, simulation: Simulation, prepared: dict[str, Prepared]
) -> None:
    folder = _folder(root, name)
    reference = f"bids::{name}/anat/{name_sequence(TARGET, sub=name, desc='preproc')}"
    for sequence, image in prepared.items():
        scan = simulation.scans[sequence]
        sidecar: dict[str, Any] = {
            **_timing(sequence),
            "Description": f"Simulated {SEQUENCES[sequence].title}, prepared",
            "SkullStripped": False,
            "PhantomResidualBias": _bias_fields(image.residual_bias),
            **_noise(scan),
        }
        space = None
        if sequence != TARGET:
            space = SPACE
            sidecar["SpatialReference"] = reference
            sidecar["PhantomResidualMotion"] = _matrix(image.residual_motion)
        path = folder / name_sequence(sequence, sub=name, space=space, desc="preproc")
        _write_image(path, image.volume.array, image.volume.geometry.affine, sidecar)
    mask = folder / name_file("mask", sub=name, space=SPACE, desc="brain")
    affine = simulation.scans[TARGET].volume.geometry.affine
    sidecar = {"Type": "Brain", "Sources": [reference], "SpatialReference": reference}
    _write_image(mask, simulation.truth.brain, affine, sidecar)


def _write_truth(
    root: Path, name: str, simulation: Simulation, noisefree: Array, layout: Layout
) -> None:
    folder = _folder(root, name)
    truth = simulation.truth
    affine = simulation.scans[TARGET].volume.geometry.affine
    desc = None if layout == "raw" else "preproc"
    reference = f"bids::../../{name}/anat/{name_sequence(TARGET, sub=name, desc=desc)}"
    common = {"Sources": [reference], "SpatialReference": reference}
    for label, mask, kind in (
        ("lesion", truth.lesion, "Lesion"),
        ("NAWM", truth.nawm, "ROI"),
        ("ventricles", truth.ventricles, "ROI"),
    ):
        path = folder / name_file("mask", sub=name, space=SPACE, label=label)
        _write_image(path, mask, affine, {"Type": kind, **common})
    path = folder / name_file("mask", sub=name, space=SPACE, desc="brain")
    _write_image(path, truth.brain, affine, {"Type": "Brain", **common})
    path = folder / name_file("dseg", sub=name, space=SPACE)
    _write_image(path, truth.labels, affine, {"Manual": False, **common})
    path = folder / name_sequence(TARGET, sub=name, desc="noisefree")
    sidecar = {
        "Description": "Expectation of the FLAIR over its noise: what endless repeats would show",
        "SkullStripped": False,
        "Sources": [reference],
        **_timing(TARGET),
    }
    _write_image(path, noisefree, affine, sidecar)
