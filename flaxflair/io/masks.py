"""Selection of the masks that are aligned with the scans of a session, by file names only.

Masks of other spaces, other images and other data types are excluded. No image is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flaxflair.core.sequences import SEQUENCES
from flaxflair.io.bids import Image

# A mask with any other entity belongs to a part of the head, or to another scan.
_ENTITIES = {"sub", "ses", "space", "res", "acq", "run", "rec", "desc", "label"}
_NATIVE = {None, "orig", "scanner"}


def choose_masks(
    masks: Iterable[Image], images: Sequence[Image], generated: frozenset[str]
) -> tuple[list[Image], list[str]]:
    """Selects one mask of each kind that is aligned with the session's scans.

    Args:
      masks: masks of the session, in order of preference.
      images: images of the session, without derivatives.
      generated: names of the folders in `derivatives` that this package wrote.

    Returns:
      The selected masks, and one sentence for every other brain mask or labelled mask with the
      reason why it is not used.
    """
    spaces = _session_spaces(images)
    chosen: dict[tuple[str | None, str | None], Image] = {}
    notes = []
    for mask in masks:
        kind = mask.entities.get("desc"), mask.entities.get("label")
        if kind[0] != "brain" and kind[1] is None:
            continue
        kind = (None, kind[1]) if kind[1] is not None else kind
        reason = _find_conflict(mask, spaces, generated)
        if reason is None and kind in chosen:
            if not chosen[kind].relative.startswith("derivatives/"):
                continue  # masks of the data set always precede those of derivatives
            reason = f"{chosen[kind].relative} is"
        if reason is None:
            chosen[kind] = mask
        else:
            notes.append(f"{mask.relative}: is not used: {reason}")
    return list(chosen.values()), notes


def _session_spaces(images: Sequence[Image]) -> set[str | None]:
    """Returns the `space` labels of masks that are aligned with the scans of a session."""
    scans = [image for image in images if image.sequence is not None]
    spaces = {image.entities.get("space") for image in scans}
    if None in spaces or spaces & {spec.suffix for spec in SEQUENCES.values()}:
        spaces |= _NATIVE | {image.suffix for image in scans}
    return spaces


def _find_conflict(mask: Image, spaces: set[str | None], generated: frozenset[str]) -> str | None:
    """Returns why a mask is not of the session's scans, or None."""
    parts = mask.relative.split("/")
    if mask.fault is not None:
        return mask.fault.removeprefix(f"{mask.relative}: ")
    if parts[0] == "derivatives" and parts[1] in generated:
        return "this program wrote it; to use a mask, copy it to another derivative"
    if mask.datatype != "anat":
        return f"it is in {mask.datatype}, not in anat"
    if other := sorted(mask.entities.keys() - _ENTITIES):
        return f"{other[0]}-{mask.entities[other[0]]} marks it as the mask of another image"
    if (space := mask.entities.get("space")) not in spaces:
        return f"it is in the space {space or 'of the scanner'}, and the session's scans are not"
    return None
