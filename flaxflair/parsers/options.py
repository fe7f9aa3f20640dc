"""Flags that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from flaxflair.core.sequences import SEQUENCES, TARGET

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_MODEL = "folder of a finished run, or a file written by export (the model in the package)"
# Name of a device -> JAX platform.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


class _Renamed(argparse.Action):
    """An option of earlier versions, refused by its present name, `const`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is now {self.const}; use that name")


def add_dataset(parser: argparse._ActionsContainer, *, needed: bool) -> None:
    """Adds BIDS_DIR, OUT_DIR, the level and patterns; required if `needed`."""
    count = None if needed else "?"
    parser.add_argument(
        "bids_dir", type=Path, nargs=count, metavar="BIDS_DIR", help="input data set"
    )
    parser.add_argument(
        "out_dir", type=Path, nargs=count, metavar="OUT_DIR", help="output data set"
    )
    parser.add_argument("level", nargs=count, choices=("participant",), help="analysis level")
    add_patterns(parser)


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Adds `--overwrite`."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="recompute finished sessions (skipped if inputs, model and options are unchanged)",
    )


def add_labels(parser: argparse._ActionsContainer) -> None:
    """Adds `--participant-label` and `--session-label`."""
    for label, what in (("participant", "sub-"), ("session", "ses-")):
        parser.add_argument(
            f"--{label}-label",
            nargs="+",
            metavar="LABEL",
            help=f"labels to process, with or without {what} (all)",
        )


def add_patterns(parser: argparse._ActionsContainer) -> None:
    """Adds `--pattern`."""
    parser.add_argument(
        "--pattern",
        action="append",
        default=[],
        metavar="SEQUENCE=PATTERN",
        help="paths of a sequence relative to BIDS_DIR, if not identified by their names "
        "(T1SE='*_acq-tse_T1w.nii.gz'); may be repeated",
    )


def add_sequences(parser: argparse._ActionsContainer, *, flair: bool) -> None:
    """Adds a file for each sequence; for the FLAIR if `flair`."""
    for name, sequence in SEQUENCES.items():
        if flair or name != TARGET:
            use = ", the true one" if name == TARGET else ""
            parser.add_argument(
                f"--{sequence.flag}", type=Path, metavar="FILE", help=f"{sequence.title}{use}"
            )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, `--fold` and `--tile-voxels`."""
    parser.add_argument("--model", type=Path, help=_MODEL)
    parser.add_argument("--fold", type=int, default=0, help="fold of the run (0)")
    parser.add_argument("--voxels", action=_Renamed, const="--tile-voxels", help=argparse.SUPPRESS)
    parser.add_argument(
        "--tile-voxels",
        type=int,
        help="voxels computed at once, about 1 kB each for 64 filters; 0 for all (3,000,000; of a "
        "universal model, whose tiles overlap widely, 8,000,000)",
    )


def add_preparation(parser: argparse._ActionsContainer) -> None:
    """Adds the options of the preparation."""
    parser.add_argument(
        "--reference",
        choices=tuple(SEQUENCES),
        default="",
        help="sequence that defines the grid (FLAIR, otherwise T2, otherwise T1)",
    )
    parser.add_argument(
        "--dof",
        type=int,
        choices=(6, 12),
        default=12,
        help="degrees of freedom of the registration: 6 is rigid, 12 is affine (12)",
    )
    parser.add_argument(
        "--brain-by",
        choices=("template", "hdbet"),
        default="template",
        help="brain extraction without a mask: by the ICBM152 template, or by HD-BET (install "
        'with: pip install "flaxflair[hdbet]") (template)',
    )
    parser.add_argument(
        "--bias-by",
        choices=("session", "scan"),
        default="session",
        help="estimate the bias of a scan from the N4 fields of all scans of its session, or of "
        "that scan only (session)",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Adds `--device` and `--threads`."""
    parser.add_argument("--device", choices=tuple(PLATFORMS), help="device (the fastest available)")
    parser.add_argument("--threads", type=int, help="number of cores (all)")
