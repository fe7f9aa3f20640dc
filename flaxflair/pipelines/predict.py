"""Prediction of sessions and of whole data sets in three steps: load, predict, write.

From a BIDS data set to a BIDS derivative, its sessions overlapping in time, or from the files of
one session to a FLAIR; raw or prepared. Independent of training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from flaxflair.core.records import Subject, Volume
from flaxflair.evaluation.verdict import Verdict, judge
from flaxflair.io import bids, derivatives
from flaxflair.io.fingerprints import fingerprint
from flaxflair.io.receipts import Receipts, run_unfinished
from flaxflair.io.session_files import SessionFiles, find_sessions, name_files
from flaxflair.models.model import (
    AnyModel,
    choose_inputs,
    level_warnings,
    method_name,
    wanted_inputs,
)
from flaxflair.models.saving import digest_model
from flaxflair.models.universal import UniversalModel, flair_quality, flair_warnings
from flaxflair.pipelines import extras
from flaxflair.pipelines.extras import NOTHING, Extras, Found
from flaxflair.pipelines.quality_table import write_quality_table
from flaxflair.preprocessing.dataset import load_subject
from flaxflair.preprocessing.options import DEFAULTS, Preparation
from flaxflair.runtime.sessions import Finished, Report, expect_workers
from flaxflair.runtime.stages import Stage
from flaxflair.visualization.session_page import write_page


def predict_cohort(
    model: AnyModel,
    root: str | Path,
    out: str | Path,
    *,
    raw: bool | None = None,
    options: Preparation = DEFAULTS,
    patterns: Mapping[str, str] | None = None,
    participants: Collection[str] | None = None,
    sessions: Collection[str] | None = None,
    tile_voxels: int = 0,
    workers: int = 2,
    pages: bool = False,
    wanted: Extras = NOTHING,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Synthesises the FLAIRs of a data set and writes them as a BIDS derivative.

    A session that cannot be used is reported, and the others continue. A finished session is
    skipped if its inputs, the model, the options and the version of this package are unchanged and
    its outputs are complete; otherwise it is overwritten. Several processes may share `out`, such
    as cluster jobs with one participant each. For a raw data set, the prepared images are written
    too. At the end, `quality.tsv` is written; see `quality_table`.

    Args:
      model: from `load_model`.
      root: BIDS data set.
      out: the derivative; created if missing.
      raw: whether sessions need preparation; None derives it from `dataset_description.json`.
      options: options of the preparation.
      patterns: see `bids.find_images`.
      participants: labels, with or without `sub-`; None for all.
      sessions: labels, with or without `ses-`; None for all.
      tile_voxels: see `predict`.
      workers: threads of each of the three stages; memory holds about three sessions per worker.
      pages: whether an HTML page for inspection is written for each session.
      wanted: what is written beside the FLAIRs.
      about: additional facts on the model for the sidecars.
      overwrite: whether finished sessions are recomputed.
      on_done: called with the number of sessions done and the total, first with zero done.

    Raises:
      InputError: `root` is no data set, has no such label, or is `out`; or `out` holds another data
        set; or the model does not have what is wanted.
    """
    root, out, inputs = Path(root), Path(out), wanted_inputs(model)
    expect_workers(workers)
    labels = {"participants": participants, "sessions": sessions, "patterns": patterns}
    found = find_sessions(root, inputs, flair="ignored", **labels)
    preparation = options if (not bids.is_derivative(root) if raw is None else raw) else None
    outputs = {"tile_voxels": tile_voxels, "pages": pages, "wanted": wanted, "about": about}
    steps = _cohort_steps(model, preparation, out, **outputs)
    derivatives.start(out, root)
    receipts = Receipts(out, _requests(model, preparation), pages, wanted.endings)
    stages = make_stages(steps, workers)
    report = run_unfinished(found, stages, receipts, on_done, overwrite=overwrite)
    write_quality_table(out, report)
    return report


def _cohort_steps(model: AnyModel, options: Preparation | None, out: Path, **outputs: Any) -> Steps:
    """Returns the steps of a data set, whose prepared images are written too if it is raw."""
    place = partial(derivatives.in_derivative, out)
    return make_steps(model, options, place, derivative=out if options else None, **outputs)


def _requests(
    model: AnyModel, options: Preparation | None
) -> Callable[[SessionFiles], Mapping[str, Any]]:
    """Returns a function from the files of a session to everything that its FLAIR depends on."""
    chosen = None if options is None else {**asdict(options), "workers": 0}
    made_by = {"version": version("flaxflair"), "model": digest_model(model), "how": chosen}
    sequences = {*model.sequences, *([] if options is None else [options.reference])}

    def request(files: SessionFiles) -> Mapping[str, Any]:
        return {**made_by, "read": fingerprint(files, sequences, sidecars=True)}

    return request


class Predicted(NamedTuple):
    """A predicted session.

    Attributes:
      subject: subject with the warnings of the prediction.
      flair: synthetic FLAIR on the subject's grid.
      found: what was predicted beside it.
    """

    subject: Subject
    flair: Volume
    found: Found = Found()


class Steps(NamedTuple):
    """The three steps from the files of a session to its FLAIR on disk.

    Attributes:
      load: files -> subject.
      predict: subject -> prediction.
      write: prediction -> output file and the volume written.
    """

    load: Callable[[SessionFiles], Subject]
    predict: Callable[[Subject], Predicted]
    write: Callable[[Predicted], tuple[Finished, Volume]]


def make_steps(
    model: AnyModel,
    options: Preparation | None,
    place: Callable[[Subject], derivatives.Destination],
    *,
    derivative: Path | None = None,
    tile_voxels: int = 0,
    pages: bool = False,
    wanted: Extras = NOTHING,
    about: Mapping[str, Any] | None = None,
) -> Steps:
    """Returns the steps of one model, for single sessions and whole data sets alike.

    Args:
      model: from `load_model`.
      options: options of the preparation; None if sessions are prepared already.
      place: subject -> destination of its FLAIR.
      derivative: see `load_subject`.
      tile_voxels: see `predict`.
      pages: whether an HTML page for inspection is written for each session.
      wanted: what is written beside the FLAIR.
      about: additional facts on the model for the sidecars.

    Raises:
      InputError: the model does not have what is wanted.
    """
    model_facts = {
        "Method": method_name(model),
        "Sequences": list(model.sequences),
        "Digest": digest_model(model),
        **(about or {}),
    }
    # Several threads may predict: one uses the device while the others encode and decode.
    device = Lock()

    def load(files: SessionFiles) -> Subject:
        chosen = choose_inputs(model, files)
        subject = load_subject(chosen, options, model.voxel_size, derivative=derivative)
        return replace(subject, warnings=(*subject.warnings, *level_warnings(model, subject)))

    wanted.expect_model(model)

    def synthesise(subject: Subject) -> Predicted:
        return _synthesise(model, subject, wanted, tile_voxels=tile_voxels, device=device)

    def write(predicted: Predicted) -> tuple[Finished, Volume]:
        subject, flair, found = predicted
        destination, verdict = place(subject), _judge(model, subject)
        extracted = model.region == "brain"
        written = derivatives.write_flair(
            destination, subject, flair, extracted=extracted, model=model_facts, verdict=verdict
        )
        shown = extras.write(destination, subject, found, model_facts)
        if pages:
            facts, page = {"model": _format_facts(model_facts)}, destination.page
            title, array = destination.title, flair.array
            write_page(page, subject, array, facts, title, *shown, verdict=verdict)
        return Finished(destination.image, subject.warnings), written

    return Steps(load, synthesise, write)


def _judge(model: AnyModel, subject: Subject) -> Verdict:
    """Returns the verdict on a subject; warnings that every FLAIR of the model has do not count."""
    of_model = model.warnings if isinstance(model, UniversalModel) else ()
    return judge(subject.quality, [text for text in subject.warnings if text not in of_model])


def _synthesise(model: AnyModel, subject: Subject, wanted: Extras, **computation: Any) -> Predicted:
    """Predicts a session; see `predict` for `computation`."""
    flair, found = extras.predict_session(model, subject, wanted, **computation)
    if isinstance(model, UniversalModel):
        quality = flair_quality(subject, flair)
        warnings = (*subject.warnings, *flair_warnings(quality))
        subject = replace(subject, warnings=warnings, quality={**subject.quality, **quality})
    return Predicted(subject, flair, found)


def make_stages(steps: Steps, workers: int = 2) -> tuple[Stage, ...]:
    """Returns the steps as concurrent stages from `SessionFiles` to `Finished`."""
    return (
        Stage("read", steps.load, workers),
        Stage("predict", steps.predict, workers),
        Stage("write", lambda predicted: steps.write(predicted)[0], workers),
    )


def predict_session(
    model: AnyModel,
    inputs: Mapping[str, str | Path],
    out: str | Path,
    options: Preparation | None = DEFAULTS,
    *,
    brain: str | Path | None = None,
    tile_voxels: int = 0,
    page: str | Path | None = None,
    wanted: Extras = NOTHING,
    about: Mapping[str, Any] | None = None,
) -> tuple[Volume, tuple[str, ...]]:
    """Synthesises a FLAIR from the files of one session, raw or prepared.

    Args:
      model: from `load_model`.
      inputs: sequence name -> file, at least the model's sequences (for a universal model, at least
        one of them), each on its own grid unless prepared; and a FLAIR, if it is the reference.
      out: `.nii` or `.nii.gz` to write, on the grid of the reference; its folder must exist. A
        sidecar, `.json`, is written beside it.
      options: options of the preparation, which is done in memory; None if the files are prepared.
      brain: file of the brain mask. Without one, the template finds the brain of raw files, and
        prepared ones have to be brain-extracted.
      tile_voxels: see `predict`.
      page: HTML page for inspection to write; None for none.
      wanted: what is written beside `out`, of a universal model only: lesions as
        `OUT_desc-lesion_probseg.nii.gz` and `OUT_desc-lesions_morph.tsv`, intervals as
        `OUT_desc-lower90_bound.nii.gz` and `OUT_desc-upper90_bound.nii.gz`.
      about: additional facts on the model for the sidecar.

    Returns:
      The FLAIR written, and warnings, one sentence each.

    Raises:
      InputError: a sequence is missing, or a file or the session cannot be used; or the model
        does not have what is wanted.
      GeometryError: the grids of prepared files differ.
      WriteError: `out` is not the name of an image, or its folder is missing, read-only or full; no
        partial file remains.
    """
    out = Path(out)
    paths = {name: Path(path) for name, path in inputs.items()}
    page = None if page is None else Path(page)
    read = [*paths.values(), *([Path(brain)] if brain else [])]
    derivatives.expect_file(out, read, page)
    wanted.expect_files(out, read)
    files = name_files(paths, wanted_inputs(model), brain=None if brain is None else Path(brain))
    destination = derivatives.at_file(out, page)
    steps = make_steps(
        model,
        options,
        lambda subject: destination,
        tile_voxels=tile_voxels,
        pages=page is not None,
        wanted=wanted,
        about=about,
    )
    finished, volume = steps.write(steps.predict(steps.load(files)))
    return volume, finished.warnings


def _format_facts(facts: Mapping[str, Any]) -> str:
    values = (", ".join(v) if isinstance(v, list) else v for v in facts.values())
    return "; ".join(f"{name.lower()} {value}" for name, value in zip(facts, values, strict=True))
