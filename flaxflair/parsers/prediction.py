"""Flags of the commands that apply a model: `commands.prediction`."""

from __future__ import annotations

from pathlib import Path

from flaxflair.parsers.options import (
    Commands,
    add_dataset,
    add_labels,
    add_machine,
    add_model,
    add_overwrite,
    add_preparation,
    add_sequences,
)


def add_commands(commands: Commands) -> None:
    """Adds the commands of this module."""
    _add_predict(commands)
    _add_saliency(commands)


def _add_predict(commands: Commands) -> None:
    predict = commands.add_parser(
        "predict",
        help="synthesise the FLAIRs of a data set, or of one session's files",
        description="A data set, as a BIDS App: BIDS_DIR OUT_DIR participant. Or one "
        "session's files: --t1w T1.nii.gz … --out FLAIR.nii.gz. Raw scans are "
        "prepared first: bias, registration, brain.",
    )
    add_model(predict)
    whole = predict.add_argument_group("a data set")
    add_dataset(whole, needed=False)
    add_labels(whole)
    whole.add_argument(
        "--workers",
        type=int,
        default=2,
        help="threads each for reading, prediction and writing (2)",
    )
    add_overwrite(whole)
    single = predict.add_argument_group("single files")
    add_sequences(single, flair=True)
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
    add_preparation(raw)
    predict.add_argument(
        "--lesions",
        action="store_true",
        help="also write a lesion probability map and a table of the lesions, with the inputs that "
        "each rests on (universal models only)",
    )
    predict.add_argument(
        "--uncertainty",
        type=float,
        metavar="PERCENT",
        help="also write the bounds between which the true FLAIR of 50, 80, 90 or 95 %% of the "
        "voxels lies (universal models only)",
    )
    predict.add_argument("--no-page", action="store_true", help="write no HTML page")
    predict.add_argument("--dry-run", action="store_true", help="print what would be done")
    add_machine(predict)


def _add_saliency(commands: Commands) -> None:
    saliency = commands.add_parser(
        "saliency", help="write saliency maps of each sequence (P3S), given a true FLAIR"
    )
    add_model(saliency)
    add_sequences(saliency, flair=True)
    saliency.add_argument("--brain", type=Path, help="brain mask (extracted by the template)")
    saliency.add_argument("--out", type=Path, required=True, help="folder to write the maps into")
    saliency.add_argument(
        "--prepared", action="store_true", help="the sequences are on one grid already"
    )
    add_preparation(saliency)
    add_machine(saliency)
