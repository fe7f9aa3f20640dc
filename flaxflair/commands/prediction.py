"""Commands that apply a model: prediction and saliency."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from rich.table import Table

from flaxflair.commands.shared import (
    expect_tile_voxels,
    find_by_flags,
    read_patterns,
    read_preparation,
    sequence_files,
)
from flaxflair.console import (
    conclude,
    console,
    show_inspection,
    show_plan,
)
from flaxflair.core.atomic_files import expect_writable
from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.io import bids, derivatives, lesion_files
from flaxflair.io.session_files import name_files
from flaxflair.models import model as models
from flaxflair.models.model import AnyModel, choose_inputs, wanted_inputs
from flaxflair.models.saliency import shares
from flaxflair.models.saving import load_model
from flaxflair.models.universal import UniversalModel
from flaxflair.pipelines import quality_table
from flaxflair.pipelines.extras import Extras
from flaxflair.pipelines.predict import predict_cohort, predict_session
from flaxflair.preprocessing.dataset import load_subject
from flaxflair.preprocessing.inspection import inspect_files
from flaxflair.runtime.compilation_cache import enable_compilation_cache
from flaxflair.runtime.progress import show_bar

_TILE_VOXELS = 3_000_000  # of a tile, by default, for models of a cohort


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
    expect_tile_voxels(args)
    enable_compilation_cache()
    model = load_model(args.model, args.fold)
    _extras(args).expect_model(model)
    if args.out is None:
        _predict_cohort(args, model)
    else:
        _predict_files(args, model)


def _predict_cohort(args: argparse.Namespace, model: AnyModel) -> None:
    if args.dry_run:
        found = find_by_flags(args, args.bids_dir, wanted_inputs(model))
        show_plan(found, args.out_dir, args.reference, flair=False)
        return
    with show_bar(console, "predict", None, 0) as bar:
        report = predict_cohort(
            model,
            args.bids_dir,
            args.out_dir,
            raw=False if args.prepared else None,
            options=read_preparation(args),
            patterns=read_patterns(args),
            participants=args.participant_label,
            sessions=args.session_label,
            tile_voxels=_choose_tile_voxels(args, model),
            workers=args.workers,
            overwrite=args.overwrite,
            pages=not args.no_page,
            wanted=_extras(args),
            about=_about(args),
            on_done=bar.advance,
        )
    counts = quality_table.count_verdicts(args.out_dir)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    console.print(f"verdicts: {verdicts}; see {args.out_dir / quality_table.NAME}", soft_wrap=True)
    conclude(report, "predicted")


def _predict_files(args: argparse.Namespace, model: AnyModel) -> None:
    paths = sequence_files(args)
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
        None if args.prepared else read_preparation(args),
        brain=args.brain,
        tile_voxels=_choose_tile_voxels(args, model),
        page=page,
        wanted=_extras(args),
        about=_about(args),
    )
    for sentence in warnings:
        print(f"flaxflair: warning: {sentence}", file=sys.stderr)
    grid = "×".join(map(str, volume.geometry.shape))
    beside = "" if page is None else f"; look at it in {page}"
    if args.lesions:
        beside = f", and lesions in {lesion_files.table_path(args.out)}{beside}"
    row = quality_table.read_verdict(bids.sidecar(args.out))
    verdict = ": ".join((row.verdict, *row.reasons[:1]))
    console.print(f"{args.out}: written, {grid} voxels{beside}; verdict: {verdict}", soft_wrap=True)


def saliency(args: argparse.Namespace) -> None:
    """Writes a saliency map for each sequence."""
    enable_compilation_cache()
    expect_tile_voxels(args)
    model = load_model(args.model, args.fold)
    models.expect_gradient(model)
    paths = sequence_files(args)
    if TARGET not in paths:
        raise InputError("saliency requires the true FLAIR; give --flair")
    named = name_files(paths, wanted_inputs(model), flair="needed", brain=args.brain)
    files = choose_inputs(model, named)
    expect_writable(next(p for p in (args.out, *args.out.absolute().parents) if p.exists()))
    maps_of = {name: args.out / f"{name}_p3s.nii.gz" for name in files.inputs}
    if args.out.is_dir():
        for path in maps_of.values():
            derivatives.expect_image_output(path, [*paths.values(), args.brain])
    options = read_preparation(args)
    options = replace(options, reference=options.reference or TARGET)
    subject = load_subject(files, None if args.prepared else options, model.voxel_size)
    maps = models.saliency_maps(model, subject, tile_voxels=_choose_tile_voxels(args, model))
    args.out.mkdir(parents=True, exist_ok=True)
    share = shares(maps, {"brain": subject.masks.brain})["brain"]
    table = Table("sequence", "share of the saliency in the brain", "map")
    for channel, name in enumerate(subject.sequences):
        derivatives.write_image(maps_of[name], maps[..., channel], subject)
        table.add_row(name, f"{share[channel]:.3f}", str(maps_of[name]))
    console.print(table)


def _about(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.model is None else {"Run": str(args.model.resolve()), "Fold": args.fold}


def _extras(args: argparse.Namespace) -> Extras:
    """Returns what is wanted beside a FLAIR."""
    coverage = None if args.uncertainty is None else args.uncertainty / 100
    return Extras(args.lesions, coverage)


def _choose_tile_voxels(args: argparse.Namespace, model: AnyModel) -> int:
    """Returns the voxels of a tile: as given, or the default of the kind of model."""
    if args.tile_voxels is not None:
        return args.tile_voxels
    return 0 if isinstance(model, UniversalModel) else _TILE_VOXELS
