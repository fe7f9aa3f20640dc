"""Remarks: why a figure differs from the published one. Knows no figures."""

from __future__ import annotations

from typing import Any

_APART = (
    "On the phantom a sequence that is lost is harder to replace: T1, T2 and proton density share "
    "0.8 of their variation within a tissue (sharing nothing, T2 cost as much as DIR), noise is "
    "a sixth of the FCN's error, and no artefact of the protocol is common to two sequences."
)
_STEEP = (
    "The networks lose a third without DIR, more than the paper's; the forest loses what the "
    "paper's forest does."
)

# (part, metric, row) -> why.
_WHY: dict[tuple[str, str, Any], str] = {
    ("table1", "MSE", 32): (
        "Voxels of 3.6 mm hold less texture than those of 0.9 mm, and training is short: width "
        "does not limit here."
    ),
    ("table2", "MSE", "propagation"): (
        "It copies single voxels of other brains, noise included, and the phantom draws relaxation "
        "times anew for every brain."
    ),
    ("table2", "SSIM", "propagation"): (
        "The air around the brain is zero in every prediction and counts, so that all ratios of "
        "SSIM lie closer to one."
    ),
    ("lesions", "agreement", "fcn"): (
        "On voxels of 3.6 mm a lesion is a few voxels, most of them at its rim; the rule's "
        "Dice against the true mask is 0.69 even on the true FLAIR."
    ),
    ("table4a", "MSE", "T1"): _APART,
    ("table4a", "MSE", "T2"): _APART,
    ("table4a", "MSE", "DIR"): _APART,
    ("table4a", "MSE", "T1SE"): (
        "T1 and T1SE tell nearly the same, and over these subjects there is no difference."
    ),
    ("table4b", "MSE", "forest"): _STEEP,
    ("table4b", "MSE", "mlp"): _STEEP,
    ("table4b", "MSE", "unet"): _STEEP,
    ("table4c", "MSE", ("T1", "DIR")): _APART,
    ("table4c", "MSE", ("T2", "DIR")): _APART,
}


# With fewer pairs than this, a signed-rank test cannot reach 0.05.
FEWEST_PAIRS = 6


def doubt(subjects: int) -> str:
    """Returns what so few real subjects leave open; empty if they are many."""
    if subjects >= FEWEST_PAIRS:
        return ""
    return (
        f"{subjects} subjects cannot tell that from chance: their smallest p is "
        f"{2.0 ** (1 - subjects):.2g}."
    )


def explain(part: str, metric: str, key: Any) -> str:
    """Returns why, on the phantom, a row of a table tells another story than the paper's.

    Empty if it is not known.

    Args:
      part: key of `studies.PARTS`.
      metric: heading of the table's values.
      key: of the row, in the `Twin`.
    """
    return _WHY.get((part, metric, key), "")
