"""Flags of the commands on data: `commands.data`."""

from __future__ import annotations

from pathlib import Path

from flaxflair.parsers.options import (
    Commands,
    add_dataset,
    add_labels,
    add_machine,
    add_overwrite,
    add_patterns,
    add_preparation,
    add_sequences,
)


def add_commands(commands: Commands) -> None:
    """Adds the commands of this module."""
    _add_phantom(commands)
    _add_simulate(commands)
    _add_montage(commands)
    _add_prepare(commands)
    _add_check(commands)


def _add_phantom(commands: Commands) -> None:
    phantom = commands.add_parser("phantom", help="write a simulated MS data set, as BIDS")
    phantom.add_argument("out", type=Path, help="folder to create")
    phantom.add_argument("--subjects", type=int, default=24, help="number of subjects (24)")
    phantom.add_argument(
        "--healthy", type=int, default=4, help="number of subjects without lesions (4)"
    )
    phantom.add_argument("--seed", type=int, default=0, help="random seed (0)")
    phantom.add_argument(
        "--layout",
        choices=("raw", "prepared"),
        default="prepared",
        help="each sequence on a separate grid, or all on the FLAIR's (prepared)",
    )
    phantom.add_argument(
        "--scale", type=float, default=1.0, help="1 is 208×256×40 voxels; less is coarser (1)"
    )


def _add_simulate(commands: Commands) -> None:
    simulate = commands.add_parser(
        "simulate", help="draw samples of the simulated training data of universal models"
    )
    simulate.add_argument("--sheet", type=Path, required=True, help="PNG to write")
    simulate.add_argument("--labels", type=Path, required=True, help="folder of label maps")
    simulate.add_argument(
        "--lesions", type=Path, required=True, help="folder of lesion shapes and a prior map"
    )
    simulate.add_argument(
        "--masks", type=Path, required=True, help="folder of patients' lesion masks in MNI152 space"
    )
    simulate.add_argument("--samples", type=int, default=24, help="number of samples (24)")
    simulate.add_argument("--seed", type=int, default=0, help="random seed (0)")
    simulate.add_argument(
        "--beside",
        type=Path,
        nargs="*",
        default=[],
        help="prepared data sets to draw for comparison",
    )


def _add_montage(commands: Commands) -> None:
    montage = commands.add_parser("montage", help="draw all sequences of one subject")
    montage.add_argument("root", type=Path, help="BIDS data set")
    montage.add_argument("out", type=Path, help="PNG to write")
    montage.add_argument("--participant", default="01", help="label of the subject (01)")


def _add_prepare(commands: Commands) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="bring the sequences of raw sessions onto one grid",
        description="A BIDS App: inhomogeneity correction, registration, brain mask, and one "
        "interpolation, written as a BIDS derivative.",
    )
    add_dataset(prepare, needed=True)
    add_preparation(prepare)
    add_labels(prepare)
    prepare.add_argument(
        "--workers", type=int, default=1, help="parallel sessions, two threads each (1)"
    )
    add_machine(prepare)
    add_overwrite(prepare)
    prepare.add_argument("--dry-run", action="store_true", help="print what would be done")


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="report errors and possible problems of images before prediction",
        description="Single files, preferably with the flags of their sequences, or the sessions "
        "of a data set. The exit status is 1 if a session cannot be used.",
    )
    check.add_argument(
        "paths",
        type=Path,
        nargs="*",
        metavar="PATH",
        help="a BIDS data set, or files with BIDS suffixes (…_T1w.nii.gz)",
    )
    add_sequences(check, flair=True)
    check.add_argument("--model", type=Path, help="model of the prediction, for its voxel size")
    check.add_argument("--fold", type=int, default=0, help="fold of the run (0)")
    add_labels(check)
    add_patterns(check)
