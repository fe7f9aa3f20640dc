"""Prediction of sessions and of whole data sets: read, prepare, predict and finish.

From a BIDS data set, raw or prepared, to a BIDS derivative, its sessions overlapping in time; or
from the raw files of one session to a FLAIR. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flaxflair import bids, derivative
from flaxflair.check import check_volumes
from flaxflair.cohort import SessionFiles, find_sessions, load_session, name_files
from flaxflair.files import expect_output, write_json
from flaxflair.intake import load_raw
from flaxflair.model import Model, decode, encode, predict_encoded
from flaxflair.nifti import write_volume
from flaxflair.orientation import to_native
from flaxflair.pages import write_page
from flaxflair.prepare import AS_USUAL, Preparation
from flaxflair.sessions import Finished, Report, expect_workers, run_sessions
from flaxflair.stages import Stage
from flaxflair.volume import Array, InputError, Subject, Volume


def predict_cohort(
    model: Model,
    root: str | Path,
    out: str | Path,
    *,
    raw: bool | None = None,
    how: Preparation = AS_USUAL,
    patterns: Mapping[str, str] | None = None,
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    voxels: int = 0,
    workers: int = 2,
    pages: bool = False,
    about: Mapping[str, Any] | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Synthesises the FLAIRs of a data set and writes them as a BIDS derivative.

    A session that cannot be used is reported and the others go on. What `out` holds of a session is
    overwritten. Several processes may share `out`, as under a scheduler with a participant each.
    Of a raw data set, the prepared images are written too.

    Args:
      model: from `load_model`.
      root: BIDS data set.
      out: the derivative; made if missing.
      raw: whether sessions have to be prepared; None if the data set does not say that it is a
        derivative.
      how: what is chosen of the preparation.
      patterns: see `bids.find_images`.
      participants: labels, with or without `sub-`; None for all.
      sessions: labels, with or without `ses-`; None for all.
      voxels: see `predict_array`.
      workers: threads that read, as many that prepare, and as many that write. Memory holds about
        three sessions for each.
      pages: whether a page to look at is written for each session.
      about: what the sidecars say of the model, beside its network.
      on_done: told how many sessions are done and how many there are: first that it is none.

    Raises:
      InputError: `root` is no data set, has no such label, or is `out`; or `out` holds another data
        set.
    """
    root, out = Path(root), Path(out)
    expect_workers(workers)
    found = find_sessions(
        root,
        model.sequences,
        flair="ignored",
        participants=participants,
        sessions=sessions,
        patterns=patterns,
    )
    raw = not bids.is_derivative(root) if raw is None else raw
    load = partial(load_raw, how=how, voxel_size=model.voxel_size, keep=out) if raw else _load
    derivative.start(out, root)
    stages = make_stages(model, out, load, voxels=voxels, workers=workers, pages=pages, about=about)
    return run_sessions(found, stages, on_done)


def make_stages(
    model: Model,
    out: Path,
    load: Callable[[SessionFiles], Subject] = load_session,
    *,
    voxels: int = 0,
    workers: int = 2,
    pages: bool = False,
    about: Mapping[str, Any] | None = None,
) -> tuple[Stage, ...]:
    """Returns the stages from `SessionFiles` to `Finished`; see `predict_cohort`."""
    said = _describe(model, about)

    def prepare(subject: Subject) -> tuple[Subject, Array]:
        return subject, encode(model, subject.images, subject.masks.brain)

    def predict(prepared: tuple[Subject, Array]) -> tuple[Subject, Array]:
        subject, encoded = prepared
        brain = subject.masks.brain
        return subject, predict_encoded(model, [encoded], [brain], voxels=voxels)[0]

    def finish(predicted: tuple[Subject, Array]) -> Finished:
        subject, flair = predicted
        flair = decode(model, flair, subject.images, subject.masks.brain)
        extracted = model.region == "brain"
        path = derivative.write_flair(out, subject, flair, extracted=extracted, model=said)
        if pages:
            facts = {"model": _tell(said)}
            write_page(derivative.page_path(out, subject), subject, flair, facts)
        return Finished(path, subject.warnings)

    return (
        Stage("read", load, workers),
        Stage("prepare", prepare, workers),
        Stage("predict", predict),  # one at a time: it alone touches the device
        Stage("finish", finish, workers),
    )


def predict_session(
    model: Model,
    inputs: Mapping[str, str | Path],
    out: str | Path,
    how: Preparation = AS_USUAL,
    *,
    brain: str | Path | None = None,
    voxels: int = 0,
    page: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Volume, tuple[str, ...]]:
    """Synthesises a FLAIR from the raw files of one session, prepared in memory.

    Args:
      model: from `load_model`.
      inputs: sequence name -> file, at least the model's sequences, each on a grid of its own; and
        a FLAIR, if that is to be the reference.
      out: `.nii` or `.nii.gz` to write, on the grid of the reference; its folder must exist. A
        sidecar, `.json`, is written beside it.
      how: what is chosen of the preparation.
      brain: file of the brain mask; None to find the brain by the template.
      voxels: see `predict_array`.
      page: HTML to write, to look at; None for none.
      about: what the sidecar says of the model, beside its network.

    Returns:
      What was written, and what should be looked at before it is trusted, a sentence each.

    Raises:
      InputError: a sequence is missing, or a file or the session cannot be used.
      WriteError: the folder of `out` is missing, read-only or full; no part of a file is left.
    """
    out = Path(out)
    paths = {name: Path(path) for name, path in inputs.items()}
    expect_output(out, [*paths.values(), *([Path(brain)] if brain else [])])
    files = name_files(paths, model.sequences, brain=None if brain is None else Path(brain))
    subject = load_raw(files, how, model.voxel_size)
    region = subject.masks.brain
    encoded = encode(model, subject.images, region)
    code = predict_encoded(model, [encoded], [region], voxels=voxels)[0]
    flair = decode(model, code, subject.images, region)
    said = _describe(model, about)
    volume = to_native(flair, subject)
    write_volume(out, volume.array, volume.geometry.affine)
    sidecar = {
        "Description": f"Synthetic FLAIR, predicted from {', '.join(model.sequences)}",
        "Sources": [str(path) for path in paths.values()],
        "SkullStripped": model.region == "brain",
        "Model": said,
        "Warnings": list(subject.warnings),
    }
    write_json(bids.sidecar(out), sidecar)
    if page is not None:
        write_page(Path(page), subject, flair, {"model": _tell(said)}, f"{out.name}")
    return volume, subject.warnings


def _load(files: SessionFiles) -> Subject:
    """Reads a prepared session, and refuses it if what it holds cannot be what it says."""
    subject = load_session(files)
    volumes = {
        name: Volume(subject.images[..., channel], subject.geometry)
        for channel, name in enumerate(subject.sequences)
    }
    for finding in check_volumes(volumes):
        if finding.severity == "stop":
            raise InputError(f"{files.root}: the {finding.sequence} of {files.name} {finding.what}")
    return subject


def _describe(model: Model, about: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"Method": model.fitted.name, "Sequences": list(model.sequences), **(about or {})}


def _tell(said: Mapping[str, Any]) -> str:
    values = (", ".join(v) if isinstance(v, list) else v for v in said.values())
    return "; ".join(f"{name.lower()} {value}" for name, value in zip(said, values, strict=True))
