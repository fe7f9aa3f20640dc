"""Explanations of differences between reproduced and published figures."""

from __future__ import annotations

from typing import Any

_LESS_REDUNDANCY = (
    "On the phantom a removed sequence is harder to replace: T1, T2 and proton density share 0.8 "
    "of their variance within a tissue (without shared variance, removing T2 costs as much as "
    "removing DIR), noise is a sixth of the FCN's error, and no artefact of the protocol is common "
    "to two sequences."
)
_DIR_COSTS_MORE = (
    "Without DIR the error of the networks rises by a third, more than in the paper; that of the "
    "forest rises as in the paper."
)

# (part, metric, row) -> explanation.
_EXPLANATIONS: dict[tuple[str, str, Any], str] = {
    ("table1", "MSE", 32): (
        "Voxels of 3.6 mm hold less texture than those of 0.9 mm, and training is short: width "
        "does not limit here."
    ),
    ("table2", "MSE", "propagation"): (
        "It copies single voxels of other brains, including their noise, and relaxation times "
        "differ between the phantom's brains."
    ),
    ("table2", "SSIM", "propagation"): (
        "The zero background is included in SSIM, so that all ratios of SSIM are closer to one."
    ),
    ("lesions", "agreement", "fcn"): (
        "On voxels of 3.6 mm a lesion is a few voxels, most of them at its rim; the rule's "
        "Dice against the true mask is 0.69 even on the true FLAIR."
    ),
    ("table4a", "MSE", "T1"): _LESS_REDUNDANCY,
    ("table4a", "MSE", "T2"): _LESS_REDUNDANCY,
    ("table4a", "MSE", "DIR"): _LESS_REDUNDANCY,
    ("table4a", "MSE", "T1SE"): (
        "T1 and T1SE carry nearly the same information; over these subjects there is no difference."
    ),
    ("table4b", "MSE", "forest"): _DIR_COSTS_MORE,
    ("table4b", "MSE", "mlp"): _DIR_COSTS_MORE,
    ("table4b", "MSE", "unet"): _DIR_COSTS_MORE,
    ("table4c", "MSE", ("T1", "DIR")): _LESS_REDUNDANCY,
    ("table4c", "MSE", ("T2", "DIR")): _LESS_REDUNDANCY,
}


# With fewer pairs than this, a signed-rank test cannot reach 0.05.
FEWEST_PAIRS = 6


def describe_uncertainty(subjects: int) -> str:
    """Returns a remark on the smallest possible p of few subjects; empty for enough subjects."""
    if subjects >= FEWEST_PAIRS:
        return ""
    return (
        f"With {subjects} subjects this cannot be significant: the smallest possible p is "
        f"{2.0 ** (1 - subjects):.2g}."
    )


def explain(part: str, metric: str, key: Any) -> str:
    """Returns why, on the phantom, a row of a table contradicts the paper; empty if unknown.

    Args:
      part: key of `studies.PARTS`.
      metric: heading of the table's values.
      key: key of the row in the `TableComparison`.
    """
    return _EXPLANATIONS.get((part, metric, key), "")
