"""Commands on data: simulated data sets, pictures, preparation and checks.

JAX and Matplotlib are imported only by those that use them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flaxflair.commands.shared import find_by_flags, read_patterns, read_preparation, sequence_files
from flaxflair.console import (
    conclude,
    console,
    show_inspection,
    show_plan,
    show_problems,
)
from flaxflair.core.atomic_files import expect_output
from flaxflair.core.records import InputError
from flaxflair.core.sequences import identify
from flaxflair.io import bids
from flaxflair.io.session_files import find_sessions, usable_images
from flaxflair.preprocessing.dataset import load_subject, prepare_dataset
from flaxflair.preprocessing.inspection import inspect_files
from flaxflair.runtime.progress import show_bar
from flaxflair.simulation.generator.anatomies import load_library
from flaxflair.simulation.phantom import write_phantom


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
    from flaxflair.visualization.montage import montage as draw_montage

    expect_output(args.out, (), (".png",))
    draw_montage(args.root, args.participant, args.out)


def simulate(args: argparse.Namespace) -> None:
    """Draws samples of simulated training data, beside real sessions."""
    from flaxflair.visualization.sample_sheet import SHOWN, draw_sample_sheet

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
        show_plan(find_by_flags(args, args.bids_dir), args.out_dir, args.reference, flair=True)
        return
    with show_bar(console, "prepare", None, 0) as bar:
        report = prepare_dataset(
            args.bids_dir,
            args.out_dir,
            read_preparation(args),
            patterns=read_patterns(args),
            participants=args.participant_label,
            sessions=args.session_label,
            workers=args.workers,
            overwrite=args.overwrite,
            on_done=bar.advance,
        )
    conclude(report, "prepared")


def check(args: argparse.Namespace) -> None:
    """Reports errors and possible problems of the images of sessions."""
    size, inputs = _requirements(args)
    unusable = []
    for name, paths, problems, notes in _sessions_to_check(args, inputs):
        inspection = inspect_files(paths, size)
        show_inspection(name, inspection)
        show_problems(name, problems, notes)
        if inspection.stops or problems:
            unusable.append(name)
    if unusable:
        raise InputError(f"{', '.join(unusable)}: cannot be used as it is; see above")


def _requirements(
    args: argparse.Namespace,
) -> tuple[tuple[float, float, float] | None, tuple[str, ...]]:
    """Returns voxel size and inputs of the model named; the default model accepts any."""
    if args.model is None:
        return None, ()
    from flaxflair.models.model import wanted_inputs
    from flaxflair.models.saving import load_model

    model = load_model(args.model, args.fold)
    return model.voxel_size, wanted_inputs(model)


_ToCheck = tuple[str, Mapping[str, Path], tuple[str, ...], tuple[str, ...]]


def _sessions_to_check(args: argparse.Namespace, inputs: Sequence[str]) -> Iterator[_ToCheck]:
    """Yields name, sequence -> file, errors and notes on unused files of each session."""
    given = sequence_files(args)
    folders = [path for path in args.paths if path.is_dir()]
    if folders and (len(args.paths) > 1 or given):
        raise InputError(f"{folders[0]}: is a data set; give either one data set, or files")
    if folders:
        for files in find_by_flags(args, folders[0], inputs):
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
