"""The command `flaxflair`: subcommands, flags and dispatch.

Large libraries are imported when a subcommand runs, so that `--help` is fast, and so that threads
and devices are configured before any library is initialised.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from flaxflair.core.atomic_files import describe_error
from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.runtime.devices import VARIABLE, require_device
from flaxflair.runtime.huge_pages import start_with_huge_pages
from flaxflair.runtime.terminal import prepare_streams

_MODEL = "folder of a finished run, or a file written by export (the model in the package)"
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status; `argv` defaults to `sys.argv[1:]`."""
    prepare_streams()
    args = _parser().parse_args(argv)
    try:
        _configure_machine(args)
        if argv is None and args.command == "predict":
            start_with_huge_pages()
        require_device()
        from flaxflair import commands

        getattr(commands, args.command)(args)
    except (InputError, OSError) as error:
        print(f"flaxflair: {describe_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flaxflair: interrupted", file=sys.stderr)
        return 130
    return 0


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


def _configure_machine(args: argparse.Namespace) -> None:
    """Restricts cores and selects the device, before libraries are imported."""
    if (threads := getattr(args, "threads", None)) is not None:
        cores = sorted(os.sched_getaffinity(0))
        if not 1 <= threads <= len(cores):
            raise InputError(
                f"--threads is {threads}; give 1 to {len(cores)}, the cores of this machine"
            )
        os.sched_setaffinity(0, cores[:threads])
    if (device := getattr(args, "device", None)) is not None:
        os.environ[VARIABLE] = _PLATFORMS[device]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flaxflair",
        description="Synthesis of a FLAIR that was not scanned, from the sequences that were.",
        epilog="To train: python -m flaxflair.main --config=configs/fcn64.py:quick",
    )
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )

    _add_phantom(commands)
    _add_simulate(commands)
    _add_montage(commands)
    _add_prepare(commands)
    _add_check(commands)
    _add_predict(commands)
    _add_evaluate(commands)
    _add_saliency(commands)
    _add_report(commands)
    _add_export(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_phantom(commands: _Commands) -> None:
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


def _add_simulate(commands: _Commands) -> None:
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


def _add_montage(commands: _Commands) -> None:
    montage = commands.add_parser("montage", help="draw all sequences of one subject")
    montage.add_argument("root", type=Path, help="BIDS data set")
    montage.add_argument("out", type=Path, help="PNG to write")
    montage.add_argument("--participant", default="01", help="label of the subject (01)")


def _add_prepare(commands: _Commands) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="bring the sequences of raw sessions onto one grid",
        description="A BIDS App: inhomogeneity correction, registration, brain mask, and one "
        "interpolation, written as a BIDS derivative.",
    )
    _add_dataset(prepare, needed=True)
    _add_preparation(prepare)
    _add_labels(prepare)
    prepare.add_argument(
        "--workers", type=int, default=1, help="parallel sessions, two threads each (1)"
    )
    _add_machine(prepare)
    _add_overwrite(prepare)
    prepare.add_argument("--dry-run", action="store_true", help="print what would be done")


def _add_check(commands: _Commands) -> None:
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
    _add_sequences(check, flair=True)
    check.add_argument("--model", type=Path, help="model of the prediction, for its voxel size")
    check.add_argument("--fold", type=int, default=0, help="fold of the run (0)")
    _add_labels(check)
    _add_patterns(check)


def _add_predict(commands: _Commands) -> None:
    predict = commands.add_parser(
        "predict",
        help="synthesise the FLAIRs of a data set, or of one session's files",
        description="A data set, as a BIDS App: BIDS_DIR OUT_DIR participant. Or one "
        "session's files: --t1w T1.nii.gz … --out FLAIR.nii.gz. Raw scans are "
        "prepared first: bias, registration, brain.",
    )
    _add_model(predict)
    whole = predict.add_argument_group("a data set")
    _add_dataset(whole, needed=False)
    _add_labels(whole)
    whole.add_argument(
        "--workers",
        type=int,
        default=2,
        help="threads each for reading, prediction and writing (2)",
    )
    _add_overwrite(whole)
    single = predict.add_argument_group("single files")
    _add_sequences(single, flair=True)
    single.add_argument("--brain", type=Path, help="brain mask (extracted by the template)")
    single.add_argument(
        "--out", type=Path, help="FLAIR to write, with page and sidecar in the same folder"
    )
    raw = predict.add_argument_group("preparation")
    raw.add_argument(
        "--prepared",
        action="store_true",
        default=None,
        help="the sequences are on one grid already (if the data set is a derivative)",
    )
    _add_preparation(raw)
    predict.add_argument("--no-page", action="store_true", help="write no HTML page")
    predict.add_argument("--dry-run", action="store_true", help="print what would be done")
    _add_machine(predict)


def _add_evaluate(commands: _Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="score a synthetic FLAIR against the true one")
    evaluate.add_argument("synthetic", type=Path, metavar="SYNTH", help="synthetic FLAIR")
    evaluate.add_argument("true", type=Path, metavar="TRUE", help="true FLAIR, on the same grid")
    evaluate.add_argument("--lesions", type=Path, help="lesion mask, for the lesion contrast")
    evaluate.add_argument("--t1w", type=Path, help="T1, for the segmentation of white matter")
    evaluate.add_argument("--brain", type=Path, help="brain mask (where the true FLAIR is not 0)")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="file to write the scores to")


def _add_saliency(commands: _Commands) -> None:
    saliency = commands.add_parser(
        "saliency", help="write saliency maps of each sequence (P3S), given a true FLAIR"
    )
    _add_model(saliency)
    _add_sequences(saliency, flair=True)
    saliency.add_argument("--brain", type=Path, help="brain mask (extracted by the template)")
    saliency.add_argument("--out", type=Path, required=True, help="folder to write the maps into")
    saliency.add_argument(
        "--prepared", action="store_true", help="the sequences are on one grid already"
    )
    _add_preparation(saliency)
    _add_machine(saliency)


def _add_report(commands: _Commands) -> None:
    report = commands.add_parser(
        "report", help="write an HTML page of a run or of a predicted session"
    )
    report.add_argument(
        "place", type=Path, metavar="RUN|SUBJECT", help="folder of a run, or OUT_DIR/sub-01[/ses-1]"
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="page (report.html)")
    report.add_argument(
        "--participant-label",
        nargs="+",
        metavar="LABEL",
        help="participants of a run to show (the best, the middle and the worst)",
    )


def _add_export(commands: _Commands) -> None:
    export = commands.add_parser(
        "export",
        help="write a model as a single file",
        description="The file holds weights and normalisation, and no code; --model accepts it "
        "in place of a run.",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    export.add_argument("out", type=Path, metavar="OUT", help="file to write (….safetensors)")
    export.add_argument("--fold", type=int, default=0, help="fold of the run (0)")
    export.add_argument(
        "--half", action="store_true", help="round weights to float16, for half the file size"
    )
    export.add_argument(
        "--about",
        type=Path,
        metavar="JSON",
        help="facts on a universal model: Data, Licence, a Warning for all its FLAIRs, ...",
    )


def _add_dataset(parser: argparse._ActionsContainer, *, needed: bool) -> None:
    count = None if needed else "?"
    parser.add_argument(
        "bids_dir", type=Path, nargs=count, metavar="BIDS_DIR", help="input data set"
    )
    parser.add_argument(
        "out_dir", type=Path, nargs=count, metavar="OUT_DIR", help="output data set"
    )
    parser.add_argument("level", nargs=count, choices=("participant",), help="analysis level")
    _add_patterns(parser)


def _add_overwrite(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="recompute finished sessions (skipped if inputs, model and options are unchanged)",
    )


def _add_labels(parser: argparse._ActionsContainer) -> None:
    for label, what in (("participant", "sub-"), ("session", "ses-")):
        parser.add_argument(
            f"--{label}-label",
            nargs="+",
            metavar="LABEL",
            help=f"labels to process, with or without {what} (all)",
        )


def _add_patterns(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--pattern",
        action="append",
        default=[],
        metavar="SEQUENCE=PATTERN",
        help="paths of a sequence relative to BIDS_DIR, if not identified by their names "
        "(T1SE='*_acq-tse_T1w.nii.gz'); may be repeated",
    )


def _add_sequences(parser: argparse._ActionsContainer, *, flair: bool) -> None:
    for name, sequence in SEQUENCES.items():
        if flair or name != TARGET:
            use = ", the true one" if name == TARGET else ""
            parser.add_argument(
                f"--{sequence.flag}", type=Path, metavar="FILE", help=f"{sequence.title}{use}"
            )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help=_MODEL)
    parser.add_argument("--fold", type=int, default=0, help="fold of the run (0)")
    parser.add_argument("--voxels", action=_Renamed, const="--tile-voxels", help=argparse.SUPPRESS)
    parser.add_argument(
        "--tile-voxels",
        type=int,
        help="voxels computed at once, about 1 kB each for 64 filters; 0 for all (3,000,000; of a "
        "universal model, whose tiles overlap widely, 8,000,000)",
    )


def _add_preparation(parser: argparse._ActionsContainer) -> None:
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


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=tuple(_PLATFORMS), help="device (the fastest available)"
    )
    parser.add_argument("--threads", type=int, help="number of cores (all)")


if __name__ == "__main__":
    sys.exit(main())
