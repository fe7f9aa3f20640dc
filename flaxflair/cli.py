"""The command `flaxflair`: subcommands and dispatch, no more.

Nothing heavy is imported before a subcommand runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flaxflair.memory import start_with_huge_pages
from flaxflair.sequences import SEQUENCES, TARGET
from flaxflair.volume import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status; `argv` are the program's own by default."""
    args = _parser().parse_args(argv)
    if argv is None and args.run is _predict:
        start_with_huge_pages()
    try:
        args.run(args)
    except (InputError, OSError) as error:
        print(f"flaxflair: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flaxflair: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flaxflair",
        description="The FLAIR that was not scanned, synthesised from the sequences that were.",
        epilog="To train: python -m flaxflair.main --config=configs/fcn64.py:quick",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    phantom = commands.add_parser("phantom", help="write a simulated MS data set, as BIDS")
    phantom.add_argument("out", type=Path, help="folder to make")
    phantom.add_argument("--subjects", type=int, default=24, help="how many (24)")
    phantom.add_argument("--healthy", type=int, default=4, help="how many without lesions (4)")
    phantom.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    phantom.add_argument(
        "--layout",
        choices=("raw", "prepared"),
        default="prepared",
        help="each sequence on its own grid, or all on the FLAIR's (prepared)",
    )
    phantom.add_argument(
        "--scale", type=float, default=1.0, help="1 is 208×256×40 voxels; less is coarser (1)"
    )
    phantom.set_defaults(run=_phantom)

    montage = commands.add_parser("montage", help="draw all sequences of one subject")
    montage.add_argument("root", type=Path, help="BIDS data set")
    montage.add_argument("out", type=Path, help="PNG to write")
    montage.add_argument("--participant", default="01", help="label of the subject (01)")
    montage.set_defaults(run=_montage)

    predict = commands.add_parser(
        "predict",
        help="synthesise the FLAIRs of a prepared data set, or of single files",
        description="A prepared data set, as a BIDS App: BIDS_DIR OUT_DIR participant --model RUN. "
        "Or one session's files: --model RUN --t1 T1.nii.gz ... --out FLAIR.nii.gz.",
    )
    predict.add_argument("--model", type=Path, required=True, help="folder of a finished run")
    predict.add_argument("--fold", type=int, default=0, help="which of its models (0)")
    predict.add_argument(
        "--voxels",
        type=int,
        default=3_000_000,
        help="computed at a time, about 1 kB of memory each for 64 filters; 0 for all (3,000,000)",
    )
    whole = predict.add_argument_group("a data set")
    whole.add_argument("bids_dir", type=Path, nargs="?", metavar="BIDS_DIR", help="to read")
    whole.add_argument("out_dir", type=Path, nargs="?", metavar="OUT_DIR", help="to write")
    whole.add_argument("level", nargs="?", choices=("participant",), help="of the analysis")
    for label, what in (("participant", "sub-"), ("session", "ses-")):
        whole.add_argument(
            f"--{label}-label",
            nargs="+",
            metavar="LABEL",
            help=f"only these, with or without {what} (all)",
        )
    whole.add_argument(
        "--workers", type=int, default=2, help="threads that read, and as many that write (2)"
    )
    single = predict.add_argument_group("single files")
    for name, sequence in SEQUENCES.items():
        if name != TARGET:
            single.add_argument(f"--{name.lower()}", type=Path, help=f"{sequence.title} image")
    single.add_argument("--brain", type=Path, help="brain mask, if the model needs one")
    single.add_argument("--out", type=Path, help="FLAIR to write")
    predict.set_defaults(run=_predict)
    return parser


def _phantom(args: argparse.Namespace) -> None:
    from rich.console import Console

    from flaxflair.phantom import write_phantom
    from flaxflair.screen import show_bar

    done: list[int] = []
    with show_bar(Console(), "phantom", args.subjects, 0) as bar:

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


def _montage(args: argparse.Namespace) -> None:
    from flaxflair.figures import montage

    montage(args.root, args.participant, args.out)


def _predict(args: argparse.Namespace) -> None:
    places = {"BIDS_DIR": args.bids_dir, "OUT_DIR": args.out_dir, "participant": args.level}
    labels = {
        "--participant-label": args.participant_label,
        "--session-label": args.session_label,
    }
    names = [name.lower() for name in SEQUENCES if name != TARGET]
    files = {f"--{name}": getattr(args, name) for name in (*names, "brain", "out")}
    of_set, of_files = (
        [name for name, value in given.items() if value is not None]
        for given in (places | labels, files)
    )
    if of_set and of_files:
        raise InputError(
            f"{of_set[0]} is of a data set and {of_files[0]} of single files; "
            "give the arguments of one of them"
        )
    if None in places.values() and args.out is None:
        raise InputError(
            "give BIDS_DIR OUT_DIR participant to predict a data set, "
            "or the sequences' files and --out to predict those"
        )
    from flaxflair.compilation import keep_compilations

    keep_compilations()
    if args.out is None:
        _predict_cohort(args)
    else:
        _predict_files(args)


def _predict_cohort(args: argparse.Namespace) -> None:
    from rich.console import Console

    from flaxflair import load_model, predict_cohort
    from flaxflair.screen import show_bar

    model = load_model(args.model, args.fold)
    with show_bar(Console(), "predict", None, 0) as bar:
        report = predict_cohort(
            model,
            args.bids_dir,
            args.out_dir,
            participants=args.participant_label,
            sessions=args.session_label,
            voxels=args.voxels,
            workers=args.workers,
            about={"Run": str(args.model.resolve()), "Fold": args.fold},
            on_done=bar.advance,
        )
    if report.failures:
        total = len(report.written) + len(report.failures)
        lines = [f"  {name}: {sentence}" for name, sentence in report.failures.items()]
        raise InputError(
            "\n".join([f"{len(lines)} of {total} sessions could not be predicted", *lines])
        )


def _predict_files(args: argparse.Namespace) -> None:
    from flaxflair import load_model, predict_files

    given = {name: getattr(args, name.lower()) for name in SEQUENCES if name != TARGET}
    inputs = {name: path for name, path in given.items() if path is not None}
    model = load_model(args.model, args.fold)
    predict_files(model, inputs, args.out, brain=args.brain, voxels=args.voxels)


if __name__ == "__main__":
    sys.exit(main())
