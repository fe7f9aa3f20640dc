"""Files of the lesions of a session, beside its synthetic FLAIR: a probability map and a table.

Independent of networks and of how the lesions were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxflair.core.atomic_files import expect_name, write_json
from flaxflair.core.notice import NOTICE, NOTICE_KEY
from flaxflair.core.records import Array, Subject
from flaxflair.core.text_files import read_text
from flaxflair.io import bids
from flaxflair.io.derivatives import Destination, describe_origin, stem_of, write_image
from flaxflair.io.nifti import expect_image_output

_MAP, _TABLE = "_desc-lesion_probseg", "_desc-lesions_morph"
# Endings of the files of every session, for its receipt.
ENDINGS = (f"{_MAP}.nii.gz", f"{_TABLE}.tsv")


def map_path(image: Path) -> Path:
    """Returns the path of the lesion probability map beside a synthetic FLAIR.

    `sub-01_desc-synth_FLAIR.nii.gz` -> `sub-01_desc-lesion_probseg.nii.gz`, and `F.nii` ->
    `F_desc-lesion_probseg.nii.gz`.
    """
    return image.with_name(f"{stem_of(image)}{_MAP}.nii.gz")


def table_path(image: Path) -> Path:
    """Returns the path of the table of lesions beside a synthetic FLAIR."""
    return image.with_name(f"{stem_of(image)}{_TABLE}.tsv")


def expect_lesion_files(image: Path, inputs: Iterable[Path]) -> None:
    """Checks the files of the lesions before any computation.

    Args:
      image: synthetic FLAIR to write.
      inputs: files that are read.

    Raises:
      WriteError: see `expect_output`.
    """
    expect_image_output(map_path(image), list(inputs))
    for path in (bids.sidecar(map_path(image)), table_path(image), _columns_path(image)):
        expect_name(path, f"a file of the lesions of {image.name}")


def write_lesions(
    destination: Destination,
    subject: Subject,
    probability: Array,
    columns: Mapping[str, Mapping[str, Any]],
    rows: Iterable[tuple[str, ...]],
    model: Mapping[str, Any],
) -> None:
    """Writes the probability map on the grid of the subject's files, the table, and their sidecars.

    Args:
      destination: output paths of the FLAIR.
      subject: subject of the lesions.
      probability: float32[x, y, z] on the subject's grid, in [0, 1].
      columns: column -> its description, as in BIDS.
      rows: cells of each lesion, in the order of the columns.
      model: facts on the model for the sidecar.

    Raises:
      WriteError: a file cannot be written.
    """
    made_from = {
        **describe_origin(subject, destination.scheme),
        "Model": model,
        NOTICE_KEY: NOTICE,
        "Warnings": list(subject.warnings),
    }
    named = ", ".join(subject.sequences)
    path = map_path(destination.image)
    write_image(path, probability, subject, NOTICE)
    description = f"Probability that a voxel is lesion, predicted from {named}"
    write_json(bids.sidecar(path), {"Description": description, **made_from})
    table = table_path(destination.image)
    description = f"Lesions of the probability map {path.name}"
    about = {"Description": description, **made_from}
    bids.write_tsv(table, tuple(columns), iter(rows))
    # `Table` is no column: BIDS has no other place for facts on a whole table.
    write_json(_columns_path(destination.image), {**columns, "Table": about})


def read_table(path: Path) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Returns the columns and rows of a table that `write_lesions` wrote.

    Raises:
      InputError: the file cannot be read.
    """
    remedy = "predict the session again with --lesions"
    lines = read_text(path, remedy).splitlines() or [""]
    columns, *rows = (tuple(line.split("\t")) for line in lines)
    return columns, tuple(rows)


def _columns_path(image: Path) -> Path:
    return table_path(image).with_suffix(".json")
