"""Commands: what each subcommand of `flaxflair` does, given its flags. See `cli` for those."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from flaxflair import bids, figures, pages
from flaxflair import model as models
from flaxflair.cohort import (
    SessionFiles,
    brain_of_stripped,
    choose_images,
    find_sessions,
    load_session,
    name_files,
)
from flaxflair.compilation import keep_compilations
from flaxflair.evaluate import score, score_truth
from flaxflair.files import expect_writable, write_json
from flaxflair.inspection import COLUMNS, Inspection, inspect_files, tabulate
from flaxflair.intake import load_raw, prepare_dataset
from flaxflair.model import Model, load_model
from flaxflair.nifti import read_volume, write_volume
from flaxflair.orientation import to_native, to_ras
from flaxflair.phantom import write_phantom
from flaxflair.pipeline import predict_cohort, predict_session
from flaxflair.prepare import Preparation, choose_reference
from flaxflair.saliency import shares
from flaxflair.screen import show_bar
from flaxflair.sequences import SEQUENCES, TARGET, identify, parse_patterns
from flaxflair.sessions import Report
from flaxflair.tissue import white_matter
from flaxflair.volume import Array, GeometryError, InputError, Masks, Subject

_console = Console()


def phantom(args: argparse.Namespace) -> None:
    """Writes a simulated data set."""
    done: list[int] = []
    with show_bar(_console, "phantom", args.subjects, 0) as bar:

        def count(index: int) -> None:
            done.append(index)
            bar.advance(len(done))

        write_phantom(
            args.out,
            subjects=args.subjects,
            healthy=args.healthy,
            seed=args.seed,
            layout=args.layout,
            scale=args.scale,
            on_subject=count,
        )


def montage(args: argparse.Namespace) -> None:
    """Draws all sequences of one subject."""
    figures.montage(args.root, args.participant, args.out)


def prepare(args: argparse.Namespace) -> None:
    """Prepares a raw data set."""
    if args.dry_run:
        _plan(_find(args, args.bids_dir), args.out_dir, args.reference, flair=True)
        return
    with show_bar(_console, "prepare", None, 0) as bar:
        report = prepare_dataset(
            args.bids_dir,
            args.out_dir,
            _preparation(args),
            patterns=_patterns(args),
            participants=args.participant_label,
            sessions=args.session_label,
            workers=args.workers,
            on_done=bar.advance,
        )
    _conclude(report, "prepared")


def check(args: argparse.Namespace) -> None:
    """Says what would stop a session, or make its FLAIR worthless."""
    size = None if args.model is None else load_model(args.model, args.fold).voxel_size
    unusable = []
    for name, paths in _sessions_to_check(args):
        inspection = inspect_files(paths, size)
        _show(name, inspection)
        if inspection.stops:
            unusable.append(name)
    if unusable:
        raise InputError(f"{', '.join(unusable)}: cannot be used as it is; see above")


def predict(args: argparse.Namespace) -> None:
    """Synthesises the FLAIRs of a data set, or of single files."""
    places = {"BIDS_DIR": args.bids_dir, "OUT_DIR": args.out_dir, "participant": args.level}
    labels = {
        "--participant-label": args.participant_label,
        "--session-label": args.session_label,
    }
    files = {f"--{s.flag}": getattr(args, s.flag) for s in SEQUENCES.values()}
    files |= {"--brain": args.brain, "--out": args.out}
    of_set, of_files = (
        [name for name, value in given.items() if value is not None]
        for given in (places | labels, files)
    )
    if of_set and of_files:
        raise InputError(
            f"{of_set[0]} is of a data set and {of_files[0]} of single files; "
            "give the arguments of one of them"
        )
    if None in places.values() and args.out is None:
        raise InputError(
            "give BIDS_DIR OUT_DIR participant to predict a data set, "
            "or the sequences' files and --out to predict those"
        )
    _check_device(args)
    keep_compilations()
    model = load_model(args.model, args.fold)
    if args.out is None:
        _predict_cohort(args, model)
    else:
        _predict_files(args, model)


def _predict_cohort(args: argparse.Namespace, model: Model) -> None:
    if args.dry_run:
        found = _find(args, args.bids_dir, model.sequences)
        _plan(found, args.out_dir, args.reference, flair=False)
        return
    with show_bar(_console, "predict", None, 0) as bar:
        report = predict_cohort(
            model,
            args.bids_dir,
            args.out_dir,
            raw=False if args.prepared else None,
            how=_preparation(args),
            patterns=_patterns(args),
            participants=args.participant_label,
            sessions=args.session_label,
            voxels=args.voxels,
            workers=args.workers,
            pages=not args.no_page,
            about=_about(args),
            on_done=bar.advance,
        )
    _conclude(report, "predicted")


def _predict_files(args: argparse.Namespace, model: Model) -> None:
    paths = _given(args)
    if args.dry_run:
        files = name_files(paths, model.sequences, brain=args.brain)
        _show(args.out.name, inspect_files(paths, model.voxel_size))
        _plan([files], args.out, args.reference, flair=args.reference == TARGET)
        return
    if args.prepared:
        models.predict_files(model, paths, args.out, brain=args.brain, voxels=args.voxels)
        _console.print(f"{args.out}: written")
        return
    page = (
        None if args.no_page else args.out.with_name(bids.strip_extension(args.out.name) + ".html")
    )
    volume, warnings = predict_session(
        model,
        paths,
        args.out,
        _preparation(args),
        brain=args.brain,
        voxels=args.voxels,
        page=page,
        about=_about(args),
    )
    for sentence in warnings:
        print(f"flaxflair: warning: {sentence}", file=sys.stderr)
    grid = "×".join(map(str, volume.geometry.shape))
    beside = "" if page is None else f"; look at it in {page}"
    _console.print(f"{args.out}: written, {grid} voxels{beside}")


def evaluate(args: argparse.Namespace) -> None:
    """Scores a synthetic FLAIR against the true one."""
    true = to_ras(read_volume(args.true))

    def read(path: Path) -> Array:
        volume = to_ras(read_volume(path))
        if not volume.geometry.matches(true.geometry):
            raise GeometryError(
                f"{path}: its grid differs from that of {args.true}; predict onto the true "
                "FLAIR's grid (--flair and --reference FLAIR), or resample it"
            )
        return volume.array

    synthetic = read(args.synthetic)
    if args.brain is None:
        brain = brain_of_stripped({"FLAIR": true.array})
        if brain is None:
            raise InputError(f"{args.true}: is not brain-extracted; give --brain")
    else:
        brain = read(args.brain) > 0.5
    lesion = None if args.lesions is None else read(args.lesions) > 0.5
    white = None if args.t1w is None else white_matter(read(args.t1w), brain, lesion)
    subject = Subject(
        participant=args.synthetic.name,
        session=None,
        group="",
        sequences=(),
        images=np.empty((*true.geometry.shape, 0), np.float32),
        flair=true.array,
        masks=Masks(brain, lesion, white),
        geometry=true.geometry,
    )
    own, truth = score(subject, synthetic), score_truth(subject)
    table = Table("metric", "synthetic", "true")
    for name, value in own.items():
        table.add_row(_TITLES[name], _number(value), _number(truth.get(name, np.nan)))
    _console.print(table)
    if lesion is None or white is None:
        _console.print("The lesions' contrast needs --lesions and --t1w.")
    if args.json is not None:
        write_json(args.json, {"synthetic": own, "true": truth})


_TITLES = {
    "mse": "MSE, whole volume",
    "nmse_brain": "MSE in the brain / its variance",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "ratio1": "Ratio 1: lesions / normal white matter",
    "ratio2": "Ratio 2: lesions / white matter around them",
}


def saliency(args: argparse.Namespace) -> None:
    """Maps what each sequence contributed."""
    _check_device(args)
    keep_compilations()
    model = load_model(args.model, args.fold)
    paths = _given(args)
    if TARGET not in paths:
        raise InputError("saliency is of the error against a true FLAIR; give --flair")
    files = name_files(paths, model.sequences, flair="needed", brain=args.brain)
    expect_writable(next(p for p in (args.out, *args.out.absolute().parents) if p.exists()))
    if args.prepared:
        subject = load_session(files)
    else:
        how = _preparation(args)
        how = replace(how, reference=how.reference or TARGET)
        subject = load_raw(files, how, model.voxel_size)
    maps = models.saliency_maps(model, subject, voxels=args.voxels)
    args.out.mkdir(parents=True, exist_ok=True)
    share = shares(maps, {"brain": subject.masks.brain})["brain"]
    table = Table("sequence", "share of the saliency in the brain", "map")
    for channel, name in enumerate(model.sequences):
        path = args.out / f"{name}_p3s.nii.gz"
        own = to_native(maps[..., channel], subject)
        write_volume(path, own.array, own.geometry.affine)
        table.add_row(name, f"{share[channel]:.3f}", str(path))
    _console.print(table)


def report(args: argparse.Namespace) -> None:
    """Makes a page to look at."""
    if (args.place / "folds.json").is_file():
        pages.write_run_page(args.place, args.out, args.participant_label)
    else:
        pages.write_session_page(args.place, args.out)
    _console.print(f"{args.out}: written; open it in a browser")


def _sessions_to_check(args: argparse.Namespace) -> Iterator[tuple[str, Mapping[str, Path]]]:
    """Yields the name of each session, and sequence -> its file."""
    given = _given(args)
    folders = [path for path in args.paths if path.is_dir()]
    if folders and (len(args.paths) > 1 or given):
        raise InputError(f"{folders[0]}: is a data set; give it alone, or files alone")
    if folders:
        for files in _find(args, folders[0]):
            yield files.name, _paths(files)
        return
    for path in args.paths:
        name = _identify(path)
        if name in given:
            raise InputError(f"{path}: is a second {name}, beside {given[name]}; give one of them")
        given[name] = path
    if not given:
        raise InputError("give a BIDS data set, or files")
    yield "the session", given


def _identify(path: Path) -> str:
    """Returns the sequence that a file's name says it holds, or else that name."""
    stem = bids.strip_extension(path.name)
    acquisition = next((p[4:] for p in stem.split("_") if p.startswith("acq-")), None)
    return identify(stem.split("_")[-1], acquisition) or stem


def _show(name: str, inspection: Inspection) -> None:
    # What is found names its file; a narrow screen has no room to name it twice.
    kept = [n for n, c in enumerate(COLUMNS) if c != "file" or _console.width >= _WIDE]
    table = Table(
        title=name,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for number in kept:
        table.add_column(COLUMNS[number], overflow="fold")  # never an ellipsis for a number
    for row in tabulate(inspection):
        row = (*row[:-1], f"[{_COLOURS[row[-1]]}]{row[-1]}[/]")
        table.add_row(*(row[number] for number in kept))
    _console.print(table)
    for finding in inspection.findings:
        kind = "warning" if finding.severity == "warn" else "stop"
        _console.print(f"[{_COLOURS[kind]}]{kind}[/]: ", end="")
        # Unbroken, for those who search what was said.
        _console.print(inspection.tell(finding), markup=False, highlight=False, soft_wrap=True)
    _console.print()


_WIDE = 110  # columns
_COLOURS = {"good": "green", "warning": "yellow", "stop": "red"}


def _find(args: argparse.Namespace, root: Path, inputs: Sequence[str] = ()) -> list[SessionFiles]:
    return find_sessions(
        root,
        inputs,
        flair="welcome",
        participants=args.participant_label,
        sessions=args.session_label,
        patterns=_patterns(args),
    )


def _plan(found: Sequence[SessionFiles], out: Path, reference: str, *, flair: bool) -> None:
    """Prints what would be done, and does nothing."""
    table = Table("session", "from", "on the grid of", title=f"to {out}", title_justify="left")
    for files in found:
        try:
            if files.inputs:
                choose_images(files)
            every = _paths(files)
            usable = {n: p for n, p in every.items() if flair or n != TARGET}
            grid = choose_reference(usable, reference)
            table.add_row(files.name, ", ".join(usable), grid)
        except InputError as error:
            table.add_row(files.name, f"[red]{error}[/]", "")
    _console.print(table)


def _paths(files: SessionFiles) -> dict[str, Path]:
    """Returns sequence -> file, of all that a session has.

    Raises:
      InputError: a sequence is there twice.
    """
    images = {name: files.image_of(name) for name in files.sequences}
    return {name: image.path for name, image in images.items() if image is not None}


def _given(args: argparse.Namespace) -> dict[str, Path]:
    """Returns sequence -> file, of the flags given."""
    flags = {name: getattr(args, sequence.flag, None) for name, sequence in SEQUENCES.items()}
    return {name: path for name, path in flags.items() if path is not None}


def _preparation(args: argparse.Namespace) -> Preparation:
    return Preparation(args.reference, args.dof, args.brain_by, args.bias_by)


def _patterns(args: argparse.Namespace) -> dict[str, str]:
    try:
        return parse_patterns(args.pattern)
    except ValueError as error:
        raise InputError(f"--pattern: {error}") from None


def _about(args: argparse.Namespace) -> dict[str, Any]:
    return {"Run": str(args.model.resolve()), "Fold": args.fold}


def _check_device(args: argparse.Namespace) -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"--device {args.device}: cannot be used here ({first})") from None


def _conclude(report: Report, what: str) -> None:
    """Prints what should be looked at, and raises what has failed."""
    for name, sentences in report.warnings.items():
        for sentence in sentences:
            print(f"flaxflair: warning: {name}: {sentence}", file=sys.stderr)
    if report.failures:
        lines = [f"  {name}: {sentence}" for name, sentence in report.failures.items()]
        total = len(report.written) + len(lines)
        first = f"{len(lines)} of {total} sessions could not be {what}"
        raise InputError("\n".join([first, *lines]))


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "–"
