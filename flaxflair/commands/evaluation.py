"""Commands on results: scores, pages and exported models."""

from __future__ import annotations

import argparse

import numpy as np
from rich.table import Table

from flaxflair.console import (
    console,
    format_number,
)
from flaxflair.core.atomic_files import WriteError, expect_output, write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.evaluation.scoring import score, score_truth
from flaxflair.io.datasets import read_onto
from flaxflair.io.session_files import name_files
from flaxflair.models.advice import compare, expect_inputs
from flaxflair.models.saving import export_model, load_model
from flaxflair.preprocessing.dataset import load_subject
from flaxflair.runtime.progress import show_bar
from flaxflair.visualization import session_page
from flaxflair.visualization.cohort_report import write_cohort_page


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


def report(args: argparse.Namespace) -> None:
    """Writes an HTML page of a run, of a predicted data set or of a predicted session."""
    expect_output(args.out, (), (".html",))
    is_run = (args.place / "folds.json").is_file()
    is_dataset = not is_run and (args.place / "dataset_description.json").is_file()
    if args.scores and not is_dataset:
        raise InputError(f"{args.place}: is no predicted data set, for which --scores is")
    if is_run:
        session_page.write_run_page(args.place, args.out, args.participant_label)
    elif is_dataset:
        with show_bar(console, "read", None, 0) as bar:
            write_cohort_page(
                args.place,
                args.out,
                args.participant_label,
                scores=args.scores,
                on_done=bar.advance,
            )
    elif args.participant_label:
        raise InputError(
            f"{args.place}: is neither a run nor a predicted data set, whose participants "
            "--participant-label chooses"
        )
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


def advise(args: argparse.Namespace) -> None:
    """Prints what is expected from sets of sequences."""
    have, could = (
        tuple(name.strip() for name in text.split(",") if name.strip())
        for text in (args.have, args.could)
    )
    expect_inputs(have)
    could = could or tuple(name for name in INPUTS if name not in have)
    table = Table(
        *("added", "error", "90 % interval", "lesions found", "of those found, true"),
        "error in patients",
    )
    for added, found in compare(have, could):
        observed = "" if found.observed is None else f"{found.observed:.2f} ({found.patients})"
        table.add_row(
            "+".join(added) or f"none ({'+'.join(found.sequences)})",
            f"{found.nmse:.2f}",
            f"{100 * found.width:.0f} %",
            f"{100 * found.recall:.0f} %",
            f"{100 * found.precision:.0f} %",
            observed,
        )
    console.print(table)
    console.print(
        "Errors are relative to the variance of the true FLAIR in the brain, widths to its "
        "normal-appearing white matter, lesions counted in voxels. All were measured on simulated "
        "heads, but the last column, the mean of as many patients as in brackets.",
        soft_wrap=True,
    )
