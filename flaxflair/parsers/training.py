"""Flags of the commands that train: `commands.training`."""

from __future__ import annotations

from pathlib import Path

from flaxflair.parsers.options import (
    Commands,
    add_labels,
    add_machine,
    add_patterns,
    add_preparation,
)


def add_commands(commands: Commands) -> None:
    """Adds the commands of this module."""
    _add_adapt(commands)


def _add_adapt(commands: Commands) -> None:
    adapt = commands.add_parser(
        "adapt",
        help="fine-tune the universal model on own sessions that have a FLAIR",
        description="Fine-tunes the model once without each participant, which shows the error "
        "before and after, and once on all. A model that is not better is not written. The same "
        "command resumes an interrupted one.",
    )
    adapt.add_argument(
        "data", type=Path, metavar="DATA", help="BIDS data set, raw or prepared, with FLAIRs"
    )
    adapt.add_argument(
        "--out", type=Path, required=True, help="model to write (….safetensors), for --model"
    )
    adapt.add_argument(
        "--model", type=Path, help="universal model to start from (the model in the package)"
    )
    adapt.add_argument("--steps", type=int, help="steps of each fine-tuning (120)")
    adapt.add_argument("--seed", type=int, help="random seed of the training windows (0)")
    adapt.add_argument(
        "--workdir",
        type=Path,
        help="folder of everything needed to resume, kept at the end (OUT.work, which is removed "
        "when the model has been written)",
    )
    add_labels(adapt)
    add_patterns(adapt)
    raw = adapt.add_argument_group("preparation")
    raw.add_argument(
        "--prepared",
        action="store_true",
        default=None,
        help="the sequences are on one grid already (if the data set is a derivative)",
    )
    add_preparation(raw)
    add_machine(adapt)
