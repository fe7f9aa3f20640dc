"""Intake: raw sessions, inspected and prepared; as subjects, or written as a BIDS derivative.

What it writes is what `io.datasets` reads. Knows names and files; knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flaxflair.core.atomic_files import write_bytes, write_json
from flaxflair.core.json_objects import read_object
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
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.io.receipts import Receipts, run_unfinished
from flaxflair.io.session_files import SessionFiles, choose_images, find_sessions
from flaxflair.preprocessing import hdbet
from flaxflair.preprocessing.anatomy_check import judge_anatomy
from flaxflair.preprocessing.inspection import inspect_files
from flaxflair.preprocessing.options import AS_USUAL, Preparation
from flaxflair.preprocessing.registration import transform_text
from flaxflair.preprocessing.session import Prepared, check_sequences, judge, prepare_session
from flaxflair.runtime.sessions import Finished, Report, expect_workers
from flaxflair.runtime.stages import Stage

NAME = "Sequences on one grid"
_METHOD = (
    "N4 inhomogeneity correction (Tustison et al. 2010), the fields of the session's scans mixed "
    "by WeightsOfBiasFields, registration by Mattes' mutual information, and one linear "
    "interpolation from the scanned voxels, averaged over larger ones"
)
_SOFTWARE = ("flaxflair", "SimpleITK", "scipy")
_FOUND = {
    "template": "the ICBM152 template, by an affine registration",
    "hdbet": "HD-BET (Isensee et al. 2019)",
}
VoxelSize = tuple[float, float, float]


def load_subject(
    files: SessionFiles,
    how: Preparation | None = AS_USUAL,
    voxel_size: VoxelSize | None = None,
    *,
    keep: Path | None = None,
) -> Subject:
    """Reads one session, raw or prepared.

    Args:
      files: of the session. A FLAIR is read if it is not `ignored`, or is to be the reference.
      how: options of the preparation; None if the session is prepared already.
      voxel_size: mm, of the model's training images; None if there is no model.
      keep: a derivative of the data set to write the prepared images into; None for none.

    Returns:
      The subject, and with it what should be looked at before its FLAIR is trusted.

    Raises:
      InputError: a sequence is missing or there twice; or a file, or the session, cannot be used.
      GeometryError: the grids of a prepared session differ.
    """
    if how is None:
        subject = load_session(files, voxel_size)
        return replace(subject, warnings=(*subject.warnings, *_judge_prepared(subject)))
    prepared, warnings, images = _take_in(files, how, voxel_size)
    if keep is not None:
        _write(files, keep, prepared, images, how)
    lesion = white = None
    if files.flair != "ignored":
        lesions = files.find("mask", label="lesion")
        lesion = next((_lay_mask(image, prepared) for image in lesions), None)
        if "T1" in prepared.images:
            white = white_matter(prepared.images["T1"], prepared.brain, lesion)
    return Subject(
        participant=files.participant,
        session=files.session,
        group=files.group,
        sequences=files.inputs,
        images=np.stack([prepared.images[name] for name in files.inputs], axis=-1),
        flair=None if files.flair == "ignored" else prepared.images.get(TARGET),
        masks=Masks(prepared.brain, lesion, white),
        geometry=prepared.geometry,
        native=prepared.native,
        space=SEQUENCES[prepared.reference].suffix,
        sources=tuple(image.relative for image in images.values()),
        scanned=prepared.scanned,
        warnings=warnings,
    )


def _judge_prepared(subject: Subject) -> tuple[str, ...]:
    images = {name: subject.images[..., n] for n, name in enumerate(subject.sequences)}
    if subject.flair is not None:
        images[TARGET] = subject.flair
    return judge_anatomy(images, next(iter(images)), subject.masks.brain, subject.geometry)


def _take_in(
    files: SessionFiles, how: Preparation, voxel_size: VoxelSize | None = None
) -> tuple[Prepared, tuple[str, ...], dict[str, bids.Image]]:
    """Returns a session prepared, what to look at, and sequence -> the image it came from."""
    wanted = files
    if how.reference == TARGET and files.flair == "ignored":
        wanted = replace(files, flair="needed")
    images = choose_images(wanted)
    paths = {name: image.path for name, image in images.items()}
    inspection = inspect_files(paths, voxel_size)
    volumes = inspection.volumes()
    mask = next(files.find("mask", desc="brain"), None)
    brain = None if mask is None else _read_brain(mask.path)
    try:
        prepared = prepare_session(volumes, how, brain=brain)
    except InputError as error:
        raise InputError(f"{files.root}: {files.name}: {error}") from None
    doubts = check_brain_volume(prepared.brain, prepared.geometry.voxel_size)
    if brain is not None:
        reference = Volume(prepared.images[prepared.reference], prepared.geometry)
        doubts += check_brain_mask(Volume(prepared.brain, prepared.geometry), reference)
    if not doubts:  # a wrong mask makes every contrast look wrong
        doubts = refuse_or_warn(check_sequences(prepared), paths)
    warnings = (*files.notes, *inspection.warnings(), *doubts, *judge(prepared))
    return prepared, warnings, images


def _read_brain(path: Path) -> Volume:
    """Returns a brain mask, 0 and 1."""
    volume = read_volume(path)
    mask = binarize(volume.array)
    expect_mask(mask, str(path))
    return Volume(mask.astype(np.float32), volume.geometry)


def _lay_mask(image: bids.Image, prepared: Prepared) -> Array:
    """Returns a mask on the grid of a session, in whose reference's space it lies already."""
    mask = to_ras(read_volume(image.path))
    array = binarize(mask.array)
    if mask.geometry.matches(prepared.geometry):
        return array
    here, array = np.eye(4), array.astype(np.float32)
    laid = resample(array, mask.geometry.affine, prepared.geometry, here, beyond="zero")
    return laid > 0.5


def prepare_dataset(
    root: str | Path,
    out: str | Path,
    how: Preparation = AS_USUAL,
    *,
    patterns: Mapping[str, str] | None = None,
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Prepares every session of a raw BIDS data set and writes them as a BIDS derivative.

    A session that cannot be used is reported and the others go on. One that is done already is left
    alone if its files, the options and this package are the same as then, and what was written is
    whole; else it is overwritten. A brain mask that the data set
    has (`desc-brain_mask`) is kept, and so are labelled masks, which lie in the reference's space.

    Args:
      root: raw BIDS data set.
      out: the derivative; made if missing.
      how: what is chosen.
      patterns: see `bids.find_images`.
      participants: labels, with or without `sub-`; None for all.
      sessions: labels, with or without `ses-`; None for all.
      workers: sessions at a time, each with the threads that `how` gives it.
      overwrite: whether sessions that are done already are done anew.
      on_done: told how many sessions are done and how many there are: first that it is none.

    Raises:
      InputError: `root` is no data set, has no such label, or is `out`; or `out` holds another data
        set.
    """
    expect_workers(workers)
    root, out = Path(root), Path(out)
    found = find_sessions(
        root, (), flair="welcome", participants=participants, sessions=sessions, patterns=patterns
    )
    bids.start_derivative(out, NAME, root, ["*_xfm.txt"])  # BIDS has no suffix for it yet

    def prepare(files: SessionFiles) -> Finished:
        # Whatever there is of a session is prepared: which inputs a model wants is not known.
        every = replace(files, inputs=tuple(n for n in files.sequences if n != TARGET))
        prepared, said, images = _take_in(every, how)
        return Finished(_write(files, out, prepared, images, how), said)

    def request(files: SessionFiles) -> Mapping[str, Any]:
        read = fingerprint(files, SEQUENCES, sidecars=True)
        options = {**asdict(how), "workers": 0}
        return {"version": version("flaxflair"), "how": options, "read": read}

    stages, receipts = [Stage("prepare", prepare, workers)], Receipts(out, request)
    report = run_unfinished(found, stages, receipts, on_done, overwrite=overwrite)
    bids.keep_participants(root, out)
    return report


def _write(
    files: SessionFiles,
    out: Path,
    prepared: Prepared,
    images: Mapping[str, bids.Image],
    how: Preparation,
) -> Path:
    """Writes one session, all of which is known."""
    mask = next(files.find("mask", desc="brain"), None)
    by_hdbet = mask is None and how.finder == "hdbet"
    software = (*_SOFTWARE, hdbet.PACKAGE) if by_hdbet else _SOFTWARE
    folder = bids.subject_folder(out, files.participant, files.session)
    entities = {"sub": files.participant, "ses": files.session}
    space = SEQUENCES[prepared.reference].suffix
    relative = folder.relative_to(out).as_posix()
    kept = bids.name_sequence(prepared.reference, **entities, desc="preproc")
    common: dict[str, Any] = {
        "SpatialReference": f"bids::{relative}/{kept}",
        "Software": {name: version(name) for name in software},
    }

    def save(name: str, array: Array, sidecar: Mapping[str, Any]) -> None:
        write_volume(folder / name, from_ras(array, prepared.native), prepared.native.affine)
        write_json(bids.sidecar(folder / name), {**sidecar, **common})

    for sequence, array in prepared.images.items():
        own = sequence == prepared.reference
        name = bids.name_sequence(
            sequence, **entities, space=None if own else space, desc="preproc"
        )
        sidecar = {
            "Description": f"{SEQUENCES[sequence].title}: {_METHOD}",
            "Sources": [f"bids:source:{images[sequence].relative}"],
            "SkullStripped": False,
            "DegreesOfFreedom": 0 if own else how.freedom,
            "WorldOfReferenceToWorldOfSource": prepared.transforms[sequence].tolist(),
            VOXEL_SIZE: [round(edge, 4) for edge in prepared.scanned[sequence]],
            "PartOfBrainScanned": round(prepared.covered[sequence], 4),
            "WeightsOfBiasFields": {n: round(w, 4) for n, w in prepared.shared[sequence].items()},
            **_protocol(images[sequence].path),
        }
        save(name, array, sidecar)
        if not own:
            text = transform_text(prepared.transforms[sequence])
            write_bytes(folder / _name_transform(files, sequence, space), text.encode())
    found = _FOUND[how.finder] if mask is None else mask.relative
    sources = [] if mask is None else [f"bids:source:{mask.relative}"]
    name = bids.name_file("mask", **entities, space=space, desc="brain")
    save(name, prepared.brain, {"Type": "Brain", "Description": found, "Sources": sources})
    for image in files.find("mask"):
        if (label := image.entities.get("label")) is not None:
            name = bids.name_file("mask", **entities, space=space, label=label)
            kind = "Lesion" if label == "lesion" else "ROI"
            sources = [f"bids:source:{image.relative}"]
            save(name, _lay_mask(image, prepared), {"Type": kind, "Sources": sources})
    return folder


def _name_transform(files: SessionFiles, sequence: str, space: str) -> str:
    return f"{files.name}_from-{sequence}_to-{space}_mode-image_xfm.txt"


def _protocol(image: Path) -> dict[str, Any]:
    """Returns what a raw sidecar says of the scan's timing and field."""
    path = bids.sidecar(image)
    try:
        said = read_object(path, "") if path.is_file() else {}
    except InputError:  # of which `inspect_files` warns
        said = {}
    fields = ("MagneticFieldStrength", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle")
    return {name: said[name] for name in fields if name in said}
