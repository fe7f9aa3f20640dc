"""Implementation of the subcommands of `flaxflair`; their flags are defined in `cli`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from flaxflair.console import (
    conclude,
    console,
    format_number,
    show_inspection,
    show_plan,
    show_problems,
)
from flaxflair.core.atomic_files import WriteError, expect_output, expect_writable, write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES, TARGET, identify, parse_patterns
from flaxflair.evaluation.scoring import score, score_truth
from flaxflair.io import bids, derivatives
from flaxflair.io.datasets import read_onto
from flaxflair.io.session_files import SessionFiles, find_sessions, name_files, usable_images
from flaxflair.models import model as models
from flaxflair.models.model import AnyModel, choose_inputs, wanted_inputs
from flaxflair.models.saliency import shares
from flaxflair.models.saving import export_model, load_model
from flaxflair.models.universal import UniversalModel
from flaxflair.pipelines.predict import predict_cohort, predict_session
from flaxflair.preprocessing.dataset import load_subject, prepare_dataset
from flaxflair.preprocessing.inspection import inspect_files
from flaxflair.preprocessing.options import Preparation
from flaxflair.runtime.compilation_cache import enable_compilation_cache
from flaxflair.runtime.progress import show_bar
from flaxflair.simulation.generator.anatomies import load_library
from flaxflair.simulation.phantom import write_phantom
from flaxflair.visualization import session_page
from flaxflair.visualization.montage import montage as draw_montage
from flaxflair.visualization.sample_sheet import SHOWN, draw_sample_sheet

_TILE_VOXELS = 3_000_000  # of a tile, by default, for models of a cohort


def phantom(args: argparse.Namespace) -> None:
    """Writes a simulated data set."""
    done: list[int] = []
    with show_bar(console, "phantom", args.subjects, 0) as bar:

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
    expect_output(args.out, (), (".png",))
    draw_montage(args.root, args.participant, args.out)


def simulate(args: argparse.Namespace) -> None:
    """Draws samples of simulated training data, beside real sessions."""
    if args.samples < 1:
        raise InputError(f"--samples is {args.samples}; it must be at least 1")
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; it must be at least 0")
    expect_output(args.sheet, (), (".png",))
    found = [files for root in args.beside for files in find_sessions(root, SHOWN, flair="welcome")]
    beside = [
        load_subject(replace(files, inputs=tuple(n for n in SHOWN if n in files.sequences)), None)
        for files in found
        if set(SHOWN) & set(files.sequences)
    ]
    library = load_library(args.labels, args.lesions, args.masks)
    with show_bar(console, "simulate", args.samples, 0) as bar:
        draw_sample_sheet(
            library,
            args.seed,
            args.sheet,
            samples=args.samples,
            subjects=beside,
            on_sample=bar.advance,
        )


def prepare(args: argparse.Namespace) -> None:
    """Prepares a raw data set."""
    if args.dry_run:
        show_plan(_find(args, args.bids_dir), args.out_dir, args.reference, flair=True)
        return
    with show_bar(console, "prepare", None, 0) as bar:
        report = prepare_dataset(
            args.bids_dir,
            args.out_dir,
            _preparation(args),
            patterns=_patterns(args),
            participants=args.participant_label,
            sessions=args.session_label,
            workers=args.workers,
            overwrite=args.overwrite,
            on_done=bar.advance,
        )
    conclude(report, "prepared")


def check(args: argparse.Namespace) -> None:
    """Reports errors and possible problems of the images of sessions."""
    # The default model accepts any voxel size and any sequences.
    model = None if args.model is None else load_model(args.model, args.fold)
    size, inputs = (None, ()) if model is None else (model.voxel_size, wanted_inputs(model))
    unusable = []
    for name, paths, problems, notes in _sessions_to_check(args, inputs):
        inspection = inspect_files(paths, size)
        show_inspection(name, inspection)
        show_problems(name, problems, notes)
        if inspection.stops or problems:
            unusable.append(name)
    if unusable:
        raise InputError(f"{', '.join(unusable)}: cannot be used as it is; see above")


def predict(args: argparse.Namespace) -> None:
    """Synthesises the FLAIRs of a data set, or of single files."""
    folders = {"BIDS_DIR": args.bids_dir, "OUT_DIR": args.out_dir, "participant": args.level}
    labels = {
        "--participant-label": args.participant_label,
        "--session-label": args.session_label,
    }
    files = {f"--{s.flag}": getattr(args, s.flag) for s in SEQUENCES.values()}
    files |= {"--brain": args.brain, "--out": args.out}
    of_set, of_files = (
        [name for name, value in given.items() if value is not None]
        for given in (folders | labels, files)
    )
    if of_set and of_files:
        raise InputError(
            f"{of_set[0]} is for data sets and {of_files[0]} for single files; "
            "give the arguments of one of them"
        )
    if None in folders.values() and args.out is None:
        raise InputError(
            "give BIDS_DIR OUT_DIR participant to predict a data set, "
            "or files of sequences and --out to predict one session"
        )
    _expect_voxels(args)
    enable_compilation_cache()
    model = load_model(args.model, args.fold)
    if args.out is None:
        _predict_cohort(args, model)
    else:
        _predict_files(args, model)


def _predict_cohort(args: argparse.Namespace, model: AnyModel) -> None:
    if args.dry_run:
        found = _find(args, args.bids_dir, wanted_inputs(model))
        show_plan(found, args.out_dir, args.reference, flair=False)
        return
    with show_bar(console, "predict", None, 0) as bar:
        report = predict_cohort(
            model,
            args.bids_dir,
            args.out_dir,
            raw=False if args.prepared else None,
            options=_preparation(args),
            patterns=_patterns(args),
            participants=args.participant_label,
            sessions=args.session_label,
            tile_voxels=_tile_voxels(args, model),
            workers=args.workers,
            overwrite=args.overwrite,
            pages=not args.no_page,
            about=_about(args),
            on_done=bar.advance,
        )
    conclude(report, "predicted")


def _predict_files(args: argparse.Namespace, model: AnyModel) -> None:
    paths = _sequence_files(args)
    derivatives.expect_file(args.out, [*paths.values(), *([args.brain] if args.brain else [])])
    if args.dry_run:
        files = choose_inputs(model, name_files(paths, wanted_inputs(model), brain=args.brain))
        inspection = inspect_files(paths, model.voxel_size)
        show_inspection(args.out.name, inspection)
        inspection.volumes()
        show_plan([files], args.out, args.reference, flair=args.reference == TARGET)
        return
    page = (
        None if args.no_page else args.out.with_name(bids.strip_extension(args.out.name) + ".html")
    )
    volume, warnings = predict_session(
        model,
        paths,
        args.out,
        None if args.prepared else _preparation(args),
        brain=args.brain,
        tile_voxels=_tile_voxels(args, model),
        page=page,
        about=_about(args),
    )
    for sentence in warnings:
        print(f"flaxflair: warning: {sentence}", file=sys.stderr)
    grid = "×".join(map(str, volume.geometry.shape))
    beside = "" if page is None else f"; look at it in {page}"
    console.print(f"{args.out}: written, {grid} voxels{beside}", soft_wrap=True)


def evaluate(args: argparse.Namespace) -> None:
    """Scores a synthetic FLAIR against the true one."""
    if args.json is not None:
        read = (args.synthetic, args.true, args.t1w, args.brain, args.lesions)
        expect_output(args.json, read, (".json",))
    paths = {TARGET: args.true} | ({} if args.t1w is None else {"T1": args.t1w})
    inputs = tuple(name for name in paths if name != TARGET)
    files = name_files(paths, inputs, flair="needed", brain=args.brain, lesions=args.lesions)
    subject = load_subject(files, None)
    remedy = "predict onto the true FLAIR's grid (--flair and --reference FLAIR), or resample it"
    synthetic = read_onto(args.synthetic, "true FLAIR", subject.geometry, remedy)
    scores, truth = score(subject, synthetic), score_truth(subject)
    table = Table("metric", "synthetic", "true")
    for name, value in scores.items():
        table.add_row(_TITLES[name], format_number(value), format_number(truth.get(name, np.nan)))
    console.print(table)
    if subject.masks.lesion is None or subject.masks.white_matter is None:
        console.print("The lesions' contrast needs --lesions and --t1w.")
    if args.json is not None:
        write_json(args.json, {"synthetic": scores, "true": truth})


_TITLES = {
    "mse": "MSE, whole volume",
    "nmse_brain": "MSE in the brain / its variance",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "nmse_fit": "MSE in the brain / its variance, after the best gain and offset",
    "ssim_fit": "SSIM in the brain, after the best gain and offset",
    "lesion_rest": "Lesions / rest of the brain",
    "ratio1": "Ratio 1: lesions / normal white matter",
    "ratio2": "Ratio 2: lesions / white matter around them",
}


def saliency(args: argparse.Namespace) -> None:
    """Writes a saliency map for each sequence."""
    enable_compilation_cache()
    _expect_voxels(args)
    model = load_model(args.model, args.fold)
    models.expect_gradient(model)
    paths = _sequence_files(args)
    if TARGET not in paths:
        raise InputError("saliency requires the true FLAIR; give --flair")
    named = name_files(paths, wanted_inputs(model), flair="needed", brain=args.brain)
    files = choose_inputs(model, named)
    expect_writable(next(p for p in (args.out, *args.out.absolute().parents) if p.exists()))
    maps_of = {name: args.out / f"{name}_p3s.nii.gz" for name in files.inputs}
    if args.out.is_dir():
        for path in maps_of.values():
            derivatives.expect_image_output(path, [*paths.values(), args.brain])
    options = _preparation(args)
    options = replace(options, reference=options.reference or TARGET)
    subject = load_subject(files, None if args.prepared else options, model.voxel_size)
    maps = models.saliency_maps(model, subject, tile_voxels=_tile_voxels(args, model))
    args.out.mkdir(parents=True, exist_ok=True)
    share = shares(maps, {"brain": subject.masks.brain})["brain"]
    table = Table("sequence", "share of the saliency in the brain", "map")
    for channel, name in enumerate(subject.sequences):
        derivatives.write_image(maps_of[name], maps[..., channel], subject)
        table.add_row(name, f"{share[channel]:.3f}", str(maps_of[name]))
    console.print(table)


def report(args: argparse.Namespace) -> None:
    """Writes an HTML page of a run or of a predicted session."""
    expect_output(args.out, (), (".html",))
    if (args.place / "folds.json").is_file():
        session_page.write_run_page(args.place, args.out, args.participant_label)
    else:
        session_page.write_session_page(args.place, args.out)
    console.print(f"{args.out}: written; open it in a browser", soft_wrap=True)


def export(args: argparse.Namespace) -> None:
    """Writes a model as a single file."""
    if args.out.is_file() and args.run.resolve() in args.out.resolve().parents:
        raise WriteError(f"{args.out}: is a file of the run; name another file to write")
    model = load_model(args.run, args.fold)
    about = read_object(args.about, "give a JSON object of facts") if args.about else {}
    export_model(model, args.out, half=args.half, about=about)
    console.print(f"{args.out}: written; for --model, or flaxflair.load_model", soft_wrap=True)


_ToCheck = tuple[str, Mapping[str, Path], tuple[str, ...], tuple[str, ...]]


def _sessions_to_check(args: argparse.Namespace, inputs: Sequence[str]) -> Iterator[_ToCheck]:
    """Yields name, sequence -> file, errors and notes on unused files of each session."""
    given = _sequence_files(args)
    folders = [path for path in args.paths if path.is_dir()]
    if folders and (len(args.paths) > 1 or given):
        raise InputError(f"{folders[0]}: is a data set; give either one data set, or files")
    if folders:
        for files in _find(args, folders[0], inputs):
            images, problems = usable_images(files)
            paths = {name: image.path for name, image in images.items()}
            yield files.name, paths, problems, files.notes
        return
    for path in args.paths:
        name = _identify(path)
        if name in given:
            raise InputError(f"{path}: is a second {name}, beside {given[name]}; give one of them")
        given[name] = path
    if not given:
        raise InputError("give a BIDS data set, or files")
    yield "the session", given, (), ()


def _identify(path: Path) -> str:
    """Returns the sequence by the name of a file, or the name itself if it is unknown."""
    stem = bids.strip_extension(path.name)
    *parts, suffix = stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return identify(suffix, entities) or stem


def _find(args: argparse.Namespace, root: Path, inputs: Sequence[str] = ()) -> list[SessionFiles]:
    return find_sessions(
        root,
        inputs,
        flair="welcome",
        participants=args.participant_label,
        sessions=args.session_label,
        patterns=_patterns(args),
    )


def _sequence_files(args: argparse.Namespace) -> dict[str, Path]:
    """Returns sequence -> file, from the flags of sequences."""
    flags = {name: getattr(args, sequence.flag, None) for name, sequence in SEQUENCES.items()}
    return {name: path for name, path in flags.items() if path is not None}


def _expect_voxels(args: argparse.Namespace) -> None:
    if args.tile_voxels is not None and args.tile_voxels < 0:
        raise InputError(
            f"--tile-voxels is {args.tile_voxels}; it must be at least 1, or 0 for the whole volume"
        )


def _tile_voxels(args: argparse.Namespace, model: AnyModel) -> int:
    """Returns the voxels of a tile: as given, or the default of the kind of model."""
    if args.tile_voxels is not None:
        return args.tile_voxels
    return 0 if isinstance(model, UniversalModel) else _TILE_VOXELS


def _preparation(args: argparse.Namespace) -> Preparation:
    return Preparation(args.reference, args.dof, args.brain_by, args.bias_by)


def _patterns(args: argparse.Namespace) -> dict[str, str]:
    try:
        return parse_patterns(args.pattern)
    except ValueError as error:
        raise InputError(f"--pattern: {error}") from None


def _about(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.model is None else {"Run": str(args.model.resolve()), "Fold": args.fold}
