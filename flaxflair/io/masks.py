"""Masks of a session, told from those of other spaces, other images and other sessions.

By names alone: no image is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flaxflair.core.sequences import SEQUENCES
from flaxflair.io.bids import Image

# A mask with any other entity is of a part of the head, or of another scan.
_ENTITIES = {"sub", "ses", "space", "res", "acq", "run", "rec", "desc", "label"}
_NATIVE = {None, "orig", "scanner"}


def choose_masks(
    masks: Iterable[Image], images: Sequence[Image], made_here: frozenset[str]
) -> tuple[list[Image], list[str]]:
    """Returns the masks that lie over a session's scans, one of a kind, and what is not used.

    Args:
      masks: of the session, those that are preferred first.
      images: the session's own.
      made_here: names of the folders in `derivatives` that this package wrote.

    Returns:
      The masks, and of every other brain mask or labelled mask a sentence that says why not.
    """
    spaces = _own_spaces(images)
    chosen: dict[tuple[str | None, str | None], Image] = {}
    said = []
    for mask in masks:
        kind = mask.entities.get("desc"), mask.entities.get("label")
        if kind[0] != "brain" and kind[1] is None:
            continue
        kind = (None, kind[1]) if kind[1] is not None else kind
        why = _why_not(mask, spaces, made_here)
        if why is None and kind in chosen:
            if not chosen[kind].relative.startswith("derivatives/"):
                continue  # the data set's own goes before those of derivatives, as it always does
            why = f"{chosen[kind].relative} is"
        if why is None:
            chosen[kind] = mask
        else:
            said.append(f"{mask.relative}: is not used: {why}")
    return list(chosen.values()), said


def _own_spaces(images: Sequence[Image]) -> set[str | None]:
    """Returns the `space` labels that say that a mask lies over the scans of a session."""
    scans = [image for image in images if image.sequence is not None]
    spaces = {image.entities.get("space") for image in scans}
    if None in spaces or spaces & {spec.suffix for spec in SEQUENCES.values()}:
        spaces |= _NATIVE | {image.suffix for image in scans}
    return spaces


def _why_not(mask: Image, spaces: set[str | None], made_here: frozenset[str]) -> str | None:
    parts = mask.relative.split("/")
    if mask.fault is not None:
        return mask.fault.removeprefix(f"{mask.relative}: ")
    if parts[0] == "derivatives" and parts[1] in made_here:
        return "this program wrote it; to keep a mask, copy it to a derivative of its own"
    if mask.datatype != "anat":
        return f"it lies in {mask.datatype}, not in anat"
    if other := sorted(mask.entities.keys() - _ENTITIES):
        return f"{other[0]}-{mask.entities[other[0]]} says that it is of another image"
    if (space := mask.entities.get("space")) not in spaces:
        return f"it lies in the space {space or 'of the scanner'}, the session's scans do not"
    return None
