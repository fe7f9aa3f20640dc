"""Preparation of raw data sets: sessions become subjects in memory, or a BIDS derivative.

The derivative is read by `io.datasets`. Independent of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flaxflair.core.atomic_files import write_json, write_text
from flaxflair.core.json_objects import read_object
from flaxflair.core.notice import NOTICE, NOTICE_KEY
from flaxflair.core.records import Array, InputError, Masks, Subject, Volume
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.imaging.findings import refuse_or_warn
from flaxflair.imaging.masks import binarize, check_brain_mask, check_brain_volume, expect_mask
from flaxflair.imaging.orientation import from_ras, to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.imaging.tissue import white_matter
from flaxflair.io import bids
from flaxflair.io.datasets import VOXEL_SIZE, load_session
from flaxflair.io.fingerprints import fingerprint
from flaxflair.io.masks import BRAIN
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.io.provenance import is_synthetic
from flaxflair.io.receipts import Receipts, run_unfinished
from flaxflair.io.session_files import SessionFiles, choose_images, find_sessions
from flaxflair.preprocessing import hdbet
from flaxflair.preprocessing.anatomy_check import anatomy_ratios, anatomy_warnings
from flaxflair.preprocessing.inspection import inspect_files
from flaxflair.preprocessing.options import DEFAULTS, Preparation
from flaxflair.preprocessing.quality import preparation_quality, subject_quality
from flaxflair.preprocessing.registration import transform_text
from flaxflair.preprocessing.session import (
    Prepared,
    check_sequences,
    preparation_warnings,
    prepare_session,
)
from flaxflair.runtime.sessions import Finished, Report, expect_workers
from flaxflair.runtime.stages import Stage

NAME = "Sequences on one grid"
_METHOD = (
    "N4 inhomogeneity correction (Tustison et al. 2010), the fields of the session's scans mixed "
    "by WeightsOfBiasFields, registration by Mattes' mutual information, and one linear "
    "interpolation from the scanned voxels, averaged over larger ones"
)
_SOFTWARE = ("flaxflair", "SimpleITK", "scipy")
_BRAIN_SOURCES = {
    "template": "the ICBM152 template, by an affine registration",
    "hdbet": "HD-BET (Isensee et al. 2019)",
}
VoxelSize = tuple[float, float, float]


def load_subject(
    files: SessionFiles,
    options: Preparation | None = DEFAULTS,
    voxel_size: VoxelSize | None = None,
    *,
    derivative: Path | None = None,
) -> Subject:
    """Reads one session, raw or prepared.

    Args:
      files: files of the session. A FLAIR is read unless `ignored`, or if it is the reference.
      options: options of the preparation; None if the session is prepared already.
      voxel_size: mm, of the model's training images; None if there is no model.
      derivative: BIDS derivative that the prepared images are written to; None for none.

    Returns:
      The subject, with warnings about its images and measures of their quality.

    Raises:
      InputError: a sequence is missing or present twice; or a file, or the session, cannot be used.
      GeometryError: the grids of a prepared session differ.
    """
    if options is None:
        subject = load_session(files, voxel_size)
        ratios, reference = _compare_heads(subject)
        warnings = (*subject.warnings, *anatomy_warnings(ratios, reference))
        return replace(subject, warnings=warnings, quality=subject_quality(subject, ratios))
    prepared, warnings, images = _prepare_files(files, options, voxel_size)
    if derivative is not None:
        _write(files, derivative, prepared, images, options)
    lesion = white = None
    if files.flair != "ignored":
        if (mask := files.mask_of("lesion")) is not None:
            lesion = _resample_mask(mask, prepared)
        if "T1" in prepared.images:
            white = white_matter(prepared.images["T1"], prepared.brain, lesion)
    subject = Subject(
        participant=files.participant,
        session=files.session,
        group=files.group,
        sequences=files.inputs,
        images=prepared.stack(files.inputs),
        flair=None if files.flair == "ignored" else prepared.images.get(TARGET),
        masks=Masks(prepared.brain, lesion, white),
        geometry=prepared.geometry,
        native=prepared.native,
        space=SEQUENCES[prepared.reference].suffix,
        sources=tuple(image.relative for image in images.values()),
        scanned=prepared.scanned,
        warnings=warnings,
    )
    quality = preparation_quality(prepared) | subject_quality(subject, prepared.anatomy)
    return replace(subject, quality=quality)


def _compare_heads(subject: Subject) -> tuple[dict[str, float], str]:
    """Returns the ratios of `anatomy_ratios` of a prepared session, and their reference."""
    images = {name: subject.images[..., n] for n, name in enumerate(subject.sequences)}
    if subject.flair is not None:
        images[TARGET] = subject.flair
    reference = next(iter(images))
    return anatomy_ratios(images, reference, subject.masks.brain, subject.geometry), reference


def _prepare_files(
    files: SessionFiles, options: Preparation, voxel_size: VoxelSize | None = None
) -> tuple[Prepared, tuple[str, ...], dict[str, bids.Image]]:
    """Returns the prepared session, its warnings, and sequence -> source image."""
    wanted = files
    if options.reference == TARGET and files.flair == "ignored":
        wanted = replace(files, flair="needed")
    images = choose_images(wanted)
    paths = {name: image.path for name, image in images.items()}
    volumes, findings = _inspect(paths, voxel_size, truth=files.flair == "needed")
    mask = files.mask_of(BRAIN)
    brain = None if mask is None else _read_brain(mask.path)
    try:
        # Moved, not shared, so that a scan is released once it has been resampled.
        prepared = prepare_session(
            {name: volumes.pop(name) for name in paths}, options, brain=brain
        )
    except InputError as error:
        raise InputError(f"{files.root}: {files.name}: {error}") from None
    doubts = check_brain_volume(prepared.brain, prepared.geometry.voxel_size)
    if brain is not None:
        reference = Volume(prepared.images[prepared.reference], prepared.geometry)
        doubts += check_brain_mask(Volume(prepared.brain, prepared.geometry), reference)
    if not doubts:  # a wrong mask makes every contrast look wrong
        doubts = refuse_or_warn(check_sequences(prepared), paths)
    warnings = (*files.notes, *findings, *doubts, *preparation_warnings(prepared))
    return prepared, warnings, images


def _inspect(
    paths: Mapping[str, Path], voxel_size: VoxelSize | None, *, truth: bool
) -> tuple[dict[str, Volume], tuple[str, ...]]:
    """Returns sequence -> scan, and warnings; see `Inspection.volumes` for errors."""
    inspection = inspect_files(paths, voxel_size, truth=truth)
    return inspection.volumes(), inspection.warnings()


def _read_brain(path: Path) -> Volume:
    """Returns a brain mask, float32, 0 or 1."""
    volume = read_volume(path)
    mask = binarize(volume.array)
    expect_mask(mask, str(path))
    return Volume(mask.astype(np.float32), volume.geometry)


def _resample_mask(image: bids.Image, prepared: Prepared) -> Array:
    """Returns a mask in the reference's space on the grid of a prepared session, bool[x, y, z]."""
    mask = to_ras(read_volume(image.path))
    array = binarize(mask.array)
    if mask.geometry.matches(prepared.geometry):
        return array
    array, affine = array.astype(np.float32), mask.geometry.affine
    return resample(array, affine, prepared.geometry, np.eye(4), beyond="zero") > 0.5


def prepare_dataset(
    root: str | Path,
    out: str | Path,
    options: Preparation = DEFAULTS,
    *,
    patterns: Mapping[str, str] | None = None,
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Prepares every session of a raw BIDS data set and writes a BIDS derivative.

    A session that cannot be used is reported, and the others continue. A finished session is
    skipped if its files, the options and the version of this package are unchanged and its outputs
    are complete; otherwise it is overwritten. Brain masks of the data set (`desc-brain_mask`) are
    used, and labelled masks, in the reference's space, are resampled.

    Args:
      root: raw BIDS data set.
      out: the derivative; created if missing.
      options: options of the preparation.
      patterns: see `bids.find_images`.
      participants: labels, with or without `sub-`; None for all.
      sessions: labels, with or without `ses-`; None for all.
      workers: sessions processed in parallel, each with `options.workers` threads.
      overwrite: whether finished sessions are recomputed.
      on_done: called with the number of sessions done and the total, first with zero done.

    Raises:
      InputError: `root` is not a data set, lacks a label, or is `out`; or `out` holds another data
        set.
    """
    expect_workers(workers)
    root, out = Path(root), Path(out)
    found = find_sessions(
        root, (), flair="welcome", participants=participants, sessions=sessions, patterns=patterns
    )
    bids.start_derivative(out, NAME, root, ["*_xfm.txt"])  # BIDS has no suffix for it yet

    def prepare(files: SessionFiles) -> Finished:
        # All sequences: the inputs of later models are unknown.
        all_inputs = replace(files, inputs=tuple(n for n in files.sequences if n != TARGET))
        prepared, warnings, images = _prepare_files(all_inputs, options)
        return Finished(_write(files, out, prepared, images, options), warnings)

    def request(files: SessionFiles) -> Mapping[str, Any]:
        read = fingerprint(files, SEQUENCES, sidecars=True)
        chosen = {**asdict(options), "workers": 0}  # workers do not affect the result
        return {"version": version("flaxflair"), "how": chosen, "read": read}

    stages, receipts = [Stage("prepare", prepare, workers)], Receipts(out, request)
    report = run_unfinished(found, stages, receipts, on_done, overwrite=overwrite)
    bids.copy_participants(root, out)
    return report


def _write(
    files: SessionFiles,
    out: Path,
    prepared: Prepared,
    images: Mapping[str, bids.Image],
    options: Preparation,
) -> Path:
    """Writes one prepared session and returns its folder."""
    mask = files.mask_of(BRAIN)
    by_hdbet = mask is None and options.finder == "hdbet"
    software = (*_SOFTWARE, hdbet.PACKAGE) if by_hdbet else _SOFTWARE
    folder = bids.subject_folder(out, files.participant, files.session)
    entities = {"sub": files.participant, "ses": files.session}
    space = SEQUENCES[prepared.reference].suffix
    relative = folder.relative_to(out).as_posix()
    reference = bids.name_sequence(prepared.reference, **entities, desc="preproc")
    common: dict[str, Any] = {
        "SpatialReference": f"bids::{relative}/{reference}",
        "Software": {name: version(name) for name in software},
    }

    def save(name: str, array: Array, sidecar: Mapping[str, Any]) -> None:
        native, notice = prepared.native, sidecar.get(NOTICE_KEY, "")
        write_volume(folder / name, from_ras(array, native), native.affine, notice)
        write_json(bids.sidecar(folder / name), {**sidecar, **common})

    for sequence, array in prepared.images.items():
        is_reference = sequence == prepared.reference
        name = bids.name_sequence(
            sequence, **entities, space=None if is_reference else space, desc="preproc"
        )
        sidecar = {
            "Description": f"{SEQUENCES[sequence].title}: {_METHOD}",
            "Sources": [f"bids:source:{images[sequence].relative}"],
            "SkullStripped": False,
            "DegreesOfFreedom": 0 if is_reference else options.dof,
            "WorldOfReferenceToWorldOfSource": prepared.transforms[sequence].tolist(),
            VOXEL_SIZE: [round(edge, 4) for edge in prepared.scanned[sequence]],
            "PartOfBrainScanned": round(prepared.covered[sequence], 4),
            "WeightsOfBiasFields": {
                n: round(w, 4) for n, w in prepared.bias_weights[sequence].items()
            },
            **({NOTICE_KEY: NOTICE} if is_synthetic(images[sequence].path) else {}),
            **_protocol(images[sequence].path),
        }
        save(name, array, sidecar)
        if not is_reference:
            text = transform_text(prepared.transforms[sequence])
            write_text(folder / _name_transform(files, sequence, space), text)
    description = _BRAIN_SOURCES[options.finder] if mask is None else mask.relative
    sources = [] if mask is None else [f"bids:source:{mask.relative}"]
    name = bids.name_file("mask", **entities, space=space, desc="brain")
    save(name, prepared.brain, {"Type": "Brain", "Description": description, "Sources": sources})
    for label, image in files.labelled_masks().items():
        name = bids.name_file("mask", **entities, space=space, label=label)
        kind = "Lesion" if label == "lesion" else "ROI"
        sources = [f"bids:source:{image.relative}"]
        save(name, _resample_mask(image, prepared), {"Type": kind, "Sources": sources})
    return folder


def _name_transform(files: SessionFiles, sequence: str, space: str) -> str:
    return f"{files.name}_from-{sequence}_to-{space}_mode-image_xfm.txt"


def _protocol(image: Path) -> dict[str, Any]:
    """Returns the acquisition parameters in a raw sidecar."""
    path = bids.sidecar(image)
    try:
        content = read_object(path, "") if path.is_file() else {}
    except InputError:  # reported by `inspect_files`
        content = {}
    fields = ("MagneticFieldStrength", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle")
    return {name: content[name] for name in fields if name in content}
