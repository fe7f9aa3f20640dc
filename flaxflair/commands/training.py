"""Commands that train: adaptation of the universal model."""

from __future__ import annotations

import argparse

import numpy as np
from rich.table import Table

from flaxflair.commands.shared import read_patterns, read_preparation
from flaxflair.config.adaptation import Adaptation
from flaxflair.console import console, format_number
from flaxflair.core.records import InputError
from flaxflair.pipelines import adapt as adaptation
from flaxflair.pipelines.adapt import Outcome
from flaxflair.pipelines.adapt_sessions import Selection, choose_preparation
from flaxflair.runtime import entry_point


def adapt(args: argparse.Namespace) -> None:
    """Fine-tunes the universal model on own sessions."""
    entry_point.prepare()
    selection = Selection(
        args.data,
        choose_preparation(args.data, read_preparation(args), prepared=args.prepared),
        args.participant_label,
        args.session_label,
        read_patterns(args),
    )
    given = {"steps": args.steps, "seed": args.seed}
    config = Adaptation(**{name: value for name, value in given.items() if value is not None})
    outcome = adaptation.adapt(
        selection, args.out, console, source=args.model, config=config, workdir=args.workdir
    )
    before = "shipped" if args.model is None else "initial"
    if outcome.left_out:
        _show_errors(outcome, before)
    if not outcome.written:
        raise InputError(
            f"{args.out}: is not written, since the adapted model is not better than the {before} "
            "model on participants that were left out; use that model, or more participants"
        )
    console.print(
        f"{args.out}: written, with {outcome.share:.0%} of the fine-tuned weights and "
        f"{1 - outcome.share:.0%} of the {before} ones; for --model, or flaxflair.load_model",
        soft_wrap=True,
    )


def _show_errors(outcome: Outcome, before: str) -> None:
    """Prints the errors of participants left out, their means, and how the means compare."""
    table = Table(
        *("left out", before, "adapted", "least squares"),
        title="MSE in the brain / its variance, after the best gain and offset",
        title_justify="left",
    )
    for name, errors in outcome.left_out.items():
        row = errors.before, outcome.after[name], errors.least_squares
        table.add_row(name, *map(format_number, row))
    table.add_section()
    table.add_row("mean", *map(format_number, outcome.means))
    console.print(table)
    for error, other in (
        (outcome.means.before, f"the {before} model"),
        (outcome.means.least_squares, "least squares"),
    ):
        if np.isfinite(error):
            change = outcome.means.after / error - 1
            direction = "below" if change < 0 else "above"
            console.print(
                f"The mean error of the adapted model is {abs(change):.1%} {direction} that of "
                f"{other}.",
                soft_wrap=True,
            )
    if outcome.means.after > outcome.means.least_squares:
        console.print(
            "Least squares, which knows no neighbours, is better: more participants or --steps "
            "are needed",
            soft_wrap=True,
        )
