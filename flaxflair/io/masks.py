"""Selection of the masks that are aligned with the scans of a session, by file names only.

Masks of other spaces, other images and other data types are excluded. No image is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from flaxflair.core.sequences import SEQUENCES
from flaxflair.io.bids import Image

BRAIN = "brain"
MASK = "mask"  # BIDS suffix
# A mask with any other entity belongs to a part of the head, or to another scan.
_ENTITIES = {"sub", "ses", "space", "res", "acq", "run", "rec", "desc", "label"}
# A mask with one of these belongs to the scan of the session that has it too.
_OF_SCAN = ("acq", "run", "rec")
_NATIVE = {None, "orig", "scanner"}


def kind_of(mask: Image) -> str | None:
    """Returns `brain`, or the label of another region (`lesion`); None if the name has neither.

    A `label-` decides, because tools write masks of tissues as `desc-brain_label-GM_mask`.
    """
    if mask.suffix != MASK:
        return None
    if (label := mask.entities.get("label")) is not None:
        return None if label.lower() == BRAIN != label else label
    return BRAIN if mask.entities.get("desc") == BRAIN else None


def choose_masks(
    masks: Iterable[Image],
    images: Sequence[Image],
    wanted: Collection[str],
    generated: frozenset[str],
) -> tuple[list[Image], list[str]]:
    """Selects one mask of each kind that is aligned with the session's scans.

    Masks of the data set precede those of derivatives, and masks of all scans those of one.

    Args:
      masks: masks of the session, in order of preference.
      images: images of the session, without derivatives.
      wanted: names of the sequences that may be read.
      generated: names of the folders in `derivatives` that this package wrote.

    Returns:
      The selected masks, and one sentence for every other mask of `anat` with the reason why it is
      not used, except for masks of derivatives beside one of the data set.
    """
    scans = [image for image in images if image.sequence is not None]
    spaces, wanted_scans = _session_spaces(scans), [s for s in scans if s.sequence in wanted]
    chosen: dict[str, Image] = {}
    notes, unnamed = [], []
    for mask in sorted(masks, key=_preference):
        kind = kind_of(mask)
        if kind is None:
            unnamed.append(mask)
            continue
        reason = _find_conflict(mask, spaces, wanted_scans, generated)
        if reason is None and kind in chosen:
            if _is_derived(mask) and not _is_derived(chosen[kind]):
                continue
            reason = f"{chosen[kind].relative} is"
        if reason is None:
            chosen[kind] = mask
        else:
            notes.append(f"{mask.relative}: is not used: {reason}")
    notes += _describe_unnamed(unnamed, BRAIN in chosen, generated)
    return list(chosen.values()), notes


def _is_derived(mask: Image) -> bool:
    return mask.relative.startswith("derivatives/")


def _preference(mask: Image) -> tuple[bool, int]:
    return _is_derived(mask), sum(entity in mask.entities for entity in _OF_SCAN)


def _describe_unnamed(
    masks: Iterable[Image], has_brain: bool, generated: frozenset[str]
) -> Iterator[str]:
    """Yields one sentence for each mask that may be of the brain, but whose name does not say so.

    Beside a brain mask, masks with another description (`desc-ribbon`) are expected.
    """
    for mask in masks:
        may_be = not has_brain or BRAIN in mask.entities.get("desc", BRAIN).lower()
        if may_be and mask.datatype == "anat" and _generator(mask) not in generated:
            yield (
                f"{mask.relative}: is not used: its name does not say of what it is the mask; if "
                "it is of the brain, name it desc-brain_mask"
            )


def _generator(mask: Image) -> str:
    """Returns the folder in `derivatives` of a mask; empty for one of the data set."""
    return mask.relative.split("/")[1] if _is_derived(mask) else ""


def _session_spaces(scans: Sequence[Image]) -> set[str | None]:
    """Returns the `space` labels of masks that are aligned with the scans of a session."""
    spaces = {image.entities.get("space") for image in scans}
    if None in spaces or spaces & {spec.suffix for spec in SEQUENCES.values()}:
        spaces |= _NATIVE | {image.suffix for image in scans}
    return spaces


def _find_conflict(
    mask: Image,
    spaces: set[str | None],
    scans: Sequence[Image],
    generated: frozenset[str],
) -> str | None:
    """Returns why a mask is not of the session's scans, or None."""
    if mask.fault is not None:
        return mask.fault.removeprefix(f"{mask.relative}: ")
    if _generator(mask) in generated:
        return "this program wrote it; to use a mask, copy it to another derivative"
    if mask.datatype != "anat":
        return f"it is in {mask.datatype}, not in anat"
    if other := sorted(mask.entities.keys() - _ENTITIES):
        return f"{other[0]}-{mask.entities[other[0]]} marks it as the mask of another image"
    if (space := mask.entities.get("space")) not in spaces:
        return f"it is in the space {space or 'of the scanner'}, and the session's scans are not"
    own = {entity: mask.entities[entity] for entity in _OF_SCAN if entity in mask.entities}
    if own and not any(own.items() <= scan.entities.items() for scan in scans):
        names = "_".join(f"{entity}-{label}" for entity, label in own.items())
        return f"{names} marks it as the mask of another image than the scans that are read"
    return None
