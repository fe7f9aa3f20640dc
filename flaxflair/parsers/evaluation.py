"""Flags of the commands on results: `commands.evaluation`."""

from __future__ import annotations

from pathlib import Path

from flaxflair.core.sequences import INPUTS
from flaxflair.parsers.options import Commands


def add_commands(commands: Commands) -> None:
    """Adds the commands of this module."""
    _add_evaluate(commands)
    _add_report(commands)
    _add_export(commands)
    _add_advise(commands)


def _add_evaluate(commands: Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="score a synthetic FLAIR against the true one")
    evaluate.add_argument("synthetic", type=Path, metavar="SYNTH", help="synthetic FLAIR")
    evaluate.add_argument("true", type=Path, metavar="TRUE", help="true FLAIR, on the same grid")
    evaluate.add_argument("--lesions", type=Path, help="lesion mask, for the lesion contrast")
    evaluate.add_argument("--t1w", type=Path, help="T1, for the segmentation of white matter")
    evaluate.add_argument("--brain", type=Path, help="brain mask (where the true FLAIR is not 0)")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="file to write the scores to")


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report", help="write an HTML page of a run, of a predicted data set or of its session"
    )
    report.add_argument(
        "place",
        type=Path,
        metavar="RUN|OUT_DIR|SUBJECT",
        help="folder of a run, of a data set that predict wrote, or OUT_DIR/sub-01[/ses-1]",
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="page (report.html)")
    report.add_argument(
        "--participant-label",
        nargs="+",
        metavar="LABEL",
        help="participants to show (of a run, the best, the middle and the worst; of a data set, "
        "all)",
    )
    report.add_argument(
        "--scores",
        action="store_true",
        help="of a data set: compare with the true FLAIRs of its source, each registered first if "
        "it is raw, which takes about 10 s",
    )


def _add_export(commands: Commands) -> None:
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


def _add_advise(commands: Commands) -> None:
    advise = commands.add_parser(
        "advise",
        help="compare what the model in the package makes of sets of sequences",
        description="Expected error, width of the 90 % interval and lesions found, from the "
        "sequences that there are and from each set that could be added.",
    )
    names = ",".join(INPUTS)
    advise.add_argument("--have", required=True, metavar="NAMES", help=f"some of {names}")
    advise.add_argument(
        "--could", default="", metavar="NAMES", help="sequences to add (all others)"
    )
