"""List of the lesions of a predicted session, as it is shown on its page."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flaxflair.core.records import Array, InputError, Subject
from flaxflair.evaluation.lesion_evidence import DETECTION
from flaxflair.evaluation.lesion_table import MISSING
from flaxflair.io import lesion_files
from flaxflair.io.derivatives import read_image
from flaxflair.visualization.niivue import Row, Table


class LesionList(NamedTuple):
    """Lesions of a predicted session, as in its table.

    Attributes:
      probability: [x, y, z], on the subject's grid.
      columns: names, from `lesion_table.describe_columns`.
      rows: cells of each lesion.
    """

    probability: Array
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tabulate(lesions: LesionList) -> Table:
    """Returns the list of lesions as displayed.

    Raises:
      KeyError: a column is missing.
      ValueError: a cell is not a number, or a row is too long.
    """
    inputs = [name for name in lesions.columns if name.startswith("without_")]
    rows = []
    for cells in lesions.rows:
        lesion = dict(zip(lesions.columns, cells, strict=True))
        x, y, z = (float(lesion[axis]) for axis in ("x", "y", "z"))
        low, volume, high = (
            f"{float(lesion[name]):.0f}" for name in ("volume_low", "volume", "volume_high")
        )
        shown = (
            lesion["index"],
            lesion["side"],
            *(_round(lesion[name], 0) for name in ("depth", "fluid_distance")),
            f"{x:.0f}, {y:.0f}, {z:.0f}",
            f"{volume} ({low} to {high})",
            *(_round(lesion[name], 2) for name in ("contrast", "probability_mean", *inputs)),
        )
        rows.append(Row(shown, (x, y, z)))
    columns = (
        "no.",
        "side",
        "depth (mm)",
        "to fluid (mm)",
        "x, y, z (mm)",
        "volume (mm³)",
        "contrast",
        "probability",
    )
    low, high = DETECTION.interval
    note = (
        f"Predicted, not seen by a reader: lesions may be missing or false. Components with a "
        f"probability of at least {DETECTION.threshold:g}; in brackets, their volumes at {high:g} "
        f"and {low:g}. Depth: below the surface of the brain. Contrast: synthetic FLAIR over its "
        "white matter."
    )
    if inputs:
        note += (
            " Without an input: mean probability in the same voxels, predicted from the others. "
            "What falls there rests on that input; what stays high without each of them is shown "
            "by several."
        )
    named = tuple(f"without {name.removeprefix('without_')}" for name in inputs)
    title = f"Lesions: {len(rows)}" if rows else "Lesions: none found, which does not exclude any"
    return Table(title, note + " Click a row to go there.", (*columns, *named), tuple(rows))


def _round(cell: str, digits: int) -> str:
    return cell if cell == MISSING else f"{float(cell):.{digits}f}"


def read_lesions(image: Path, subject: Subject) -> LesionList | None:
    """Returns the lesions beside a synthetic FLAIR; None if none were written.

    Args:
      image: the synthetic FLAIR.
      subject: its subject.

    Raises:
      InputError: a file of the lesions is missing or cannot be used.
    """
    table = lesion_files.table_path(image)
    if not table.is_file():
        return None
    columns, rows = lesion_files.read_table(table)
    lesions = LesionList(read_image(lesion_files.map_path(image), subject), columns, rows)
    try:
        tabulate(lesions)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{table}: has a missing or invalid column ({error}); predict the session again with "
            "--lesions --overwrite"
        ) from None
    return lesions
