"""Verdict on a session: `good`, `look` or `unusable`, with reasons, from measures and warnings.

All thresholds are in `MEASURES`. Pure; independent of files and of how the measures were computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flaxflair.core.records import Grade, Verdict

GRADES: Mapping[Grade, str] = {
    "good": "no measure is unusual, and there is no warning",
    "look": "a measure is unusual, or there is a warning: look at the page of the session",
    "unusable": "a measure is far outside the range of usable sessions: do not use the FLAIR",
}
_INF = math.inf


class Measure(NamedTuple):
    """One measure and its thresholds.

    Attributes:
      title: what is measured.
      unit: unit; empty for a number without one.
      good: range without a reason.
      usable: range outside which the session is unusable; contains `good`.
      reason: sentence for a value outside `good`, with `{value}`, `{scan}` and `{limit}`, the
        limit that it violates.
      per_scan: whether each sequence has a value of its own, named `measure_SEQUENCE`.
    """

    title: str
    unit: str
    good: tuple[float, float]
    usable: tuple[float, float]
    reason: str
    per_scan: bool = True


# Measures with equal ranges have a warning of their own, which makes `look` at a tighter limit.
# To add a measure, add its row here and its value to `Subject.quality`. How the thresholds were
# chosen is in `docs/verdict.md`.
MEASURES: Mapping[str, Measure] = {
    "template_similarity": Measure(
        "uncertainty coefficient of the scan and the registered template",
        "",
        (0.09, _INF),
        (0.05, _INF),
        "the template head fits the scan poorly (similarity {value}, usually at least {limit}): "
        "check the orientation and the outline of the brain",
        per_scan=False,
    ),
    "template_ratio": Measure(
        "template similarity relative to its mean after shifts of 12 mm",
        "",
        (2.0, _INF),
        (1.3, _INF),
        "the template head is hardly better placed than 12 mm off ({value} times as similar, "
        "usually at least {limit}): check the outline of the brain",
        per_scan=False,
    ),
    "template_overlap": Measure(
        "Dice coefficient of the brain found and the registered template's",
        "",
        (0.9, _INF),
        (0.75, _INF),
        "the brain found differs from the template's (Dice {value}, usually at least {limit}): "
        "check its outline",
        per_scan=False,
    ),
    "brain_symmetry": Measure(
        "Dice coefficient of the brain and its mirror image",
        "",
        (0.94, _INF),
        (0.85, _INF),
        "the two halves of the brain differ (Dice {value}, usually at least {limit}): check that "
        "the whole head was scanned",
        per_scan=False,
    ),
    "head_symmetry": Measure(
        "correlation of the scan and its mirror image in the template's brain",
        "",
        (0.8, _INF),
        (0.4, _INF),
        "the two halves of the head differ in intensity (correlation {value}, usually at least "
        "{limit}): check that the whole head was scanned, and the orientation",
        per_scan=False,
    ),
    "brain_volume": Measure(
        "volume of the brain mask",
        "mL",
        (900.0, 1800.0),
        (600.0, 2300.0),
        "the brain has {value} mL, where {limit} mL is the limit of usual ones: check its outline "
        "and the voxel size",
        per_scan=False,
    ),
    "brain_length_to_width": Measure(
        "length of the brain relative to its width",
        "",
        (1.05, 1.5),
        (0.8, 1.9),
        "the brain is {value} times as long as it is wide, where {limit} is the limit of usual "
        "ones: check its outline and the voxel size",
        per_scan=False,
    ),
    "brain_height_to_width": Measure(
        "height of the brain relative to its width",
        "",
        (0.75, 1.2),
        (0.55, 1.5),
        "the brain is {value} times as high as it is wide, where {limit} is the limit of usual "
        "ones: check its outline and the voxel size",
        per_scan=False,
    ),
    "registration_similarity": Measure(
        "uncertainty coefficient of the registered scan and the reference",
        "",
        (0.03, _INF),
        (0.03, _INF),
        "the {scan} has too little in common with the reference after registration (similarity "
        "{value}, limit {limit}): check its header, or that both are of one session",
    ),
    "registration_ratio": Measure(
        "registration similarity relative to its mean after shifts of 12 mm",
        "",
        (1.15, _INF),
        (1.15, _INF),
        "the {scan} is not aligned with the reference ({value} times as similar as 12 mm off, "
        "limit {limit}): check its header",
    ),
    "registration_shift": Measure(
        "shift of the scan onto the reference",
        "mm",
        (0.0, 80.0),
        (0.0, 80.0),
        "the {scan} was moved by {value} mm onto the reference, limit {limit}: check its header",
    ),
    "registration_rotation": Measure(
        "rotation of the scan onto the reference",
        "degrees",
        (0.0, 60.0),
        (0.0, 60.0),
        "the {scan} was rotated by {value} degrees onto the reference, limit {limit}: check its "
        "header",
    ),
    "registration_stretch": Measure(
        "largest stretch of the scan onto the reference",
        "%",
        (0.0, 25.0),
        (0.0, 25.0),
        "the {scan} was stretched by {value} % onto the reference, limit {limit} %: check the "
        "voxel sizes",
    ),
    "anatomy_ratio": Measure(
        "similarity to the reference relative to its mean after shifts of 3 mm or a voxel",
        "",
        (1.25, _INF),
        (1.25, _INF),
        "the {scan} and the reference do not show the same anatomy ({value} times as similar as "
        "after a small shift, limit {limit}): check that both are of one session",
    ),
    "mirror_ratio": Measure(
        "similarity to the T2, or the first sequence, of the mirrored scan relative to the scan",
        "",
        (0.0, 0.75),
        (0.0, 1.1),
        "the {scan} fits the other scan {value} times as well after left and right are exchanged, "
        "usually at most {limit}: one of their headers exchanges left and right",
    ),
    "covered": Measure(
        "share of the brain inside the scan",
        "",
        (0.75, _INF),
        (0.75, _INF),
        "the {scan} covers only {value} of the brain, limit {limit}",
    ),
    "bias": Measure(
        "SD of the logarithm of the bias field that was removed, in the brain",
        "",
        (0.0, 0.15),
        (0.0, 0.45),
        "the {scan} has a strong bias field (SD {value}, usually at most {limit}): check that its "
        "brightness is even",
    ),
    "empty": Measure(
        "share of empty voxels in the brain",
        "",
        (0.0, 0.05),
        (0.0, 0.2),
        "a share of {value} of the brain is empty in the {scan}, usually at most {limit}: check "
        "for missing slices and for the outline of the brain",
    ),
    "empty_slice": Measure(
        "largest share of zeros in a slice of the brain",
        "",
        (0.0, 0.5),
        (0.0, 1.0),
        "a share of {value} of a slice of the brain is zero in the {scan}, usually at most "
        "{limit}: check for missing slices",
    ),
    "implausible": Measure(
        "share of the brain's voxels far outside the standard tissue levels",
        "",
        (0.0, 0.04),
        (0.0, 0.2),
        "a share of {value} of the brain in the {scan} is far brighter or darker than any tissue, "
        "usually at most {limit}",
    ),
    "bright": Measure(
        "share of voxels brighter than any tissue, more than 10 mm deep in the brain",
        "",
        (0.0, 0.006),
        (0.0, 0.1),
        "a share of {value} of the {scan} deep in the brain is brighter than any tissue, usually "
        "at most {limit}: check for a contrast agent",
    ),
    "level_deviation": Measure(
        "largest deviation of a tissue level from the standard, in SD among scanners",
        "SD",
        (0.0, 3.0),
        (0.0, 8.0),
        "the tissue levels of the {scan} deviate by {value} SD from those of its sequence, usually "
        "at most {limit}: check the sequence",
    ),
    "noise": Measure(
        "SD of the noise relative to white matter",
        "",
        (0.0, 0.12),
        (0.0, 0.25),
        "the {scan} is noisy (SD {value} of white matter, usually at most {limit})",
    ),
    "contrast_to_noise": Measure(
        "difference of grey and white matter relative to the SD of the noise",
        "",
        (2.0, _INF),
        (0.7, _INF),
        "grey and white matter hardly differ in the {scan} ({value} SD of the noise, usually at "
        "least {limit})",
    ),
    "sharpness": Measure(
        "mean squared differences at 2 mm relative to those at 8 mm",
        "",
        (0.16, _INF),
        (0.05, _INF),
        "the {scan} is blurred (sharpness {value}, usually at least {limit})",
    ),
    "slice_jump": Measure(
        "largest deviation of a slice's median from that of its neighbours, relative",
        "",
        (0.0, 0.25),
        (0.0, 0.6),
        "a slice of the {scan} differs by {value} of the median from its neighbours, usually at "
        "most {limit}: check for missing and shifted slices",
    ),
    "air": Measure(
        "median intensity outside the head relative to white matter",
        "",
        (0.0, 0.1),
        (0.0, 0.3),
        "the {scan} is bright outside the head ({value} of white matter, usually at most {limit}): "
        "check for ghosts and noise",
    ),
    # Voxels that are merely larger than in training are a warning of the model.
    "voxel_ratio": Measure(
        "largest voxel edge relative to the limit of the universal model's training data",
        "",
        (0.0, 4.0),
        (0.0, 4.0),
        "the voxels of the {scan} are {value} times as large as the largest in training, where "
        "{limit} is too large",
    ),
    # Grey matter is at about 1.2 of white matter.
    "flair_median": Measure(
        "median of the synthetic FLAIR in the brain relative to its white matter",
        "",
        (0.7, 1.5),
        (0.7, 1.5),
        "the synthetic FLAIR's median in the brain is {value} of its white matter's level, where "
        "0.7 to 1.5 are plausible; do not use it",
        per_scan=False,
    ),
}


def judge(quality: Mapping[str, float], warnings: Sequence[str] = ()) -> Verdict:
    """Returns the verdict on a session.

    Args:
      quality: measure, or `measure_SEQUENCE`, -> value; unknown ones and those that are not finite
        are not judged.
      warnings: warnings about the session, one sentence each; each makes at least `look`.
    """
    found: dict[Grade, list[str]] = {"unusable": [], "look": []}
    for name, value in quality.items():
        measure, scan = split_name(name)
        row = MEASURES.get(measure)
        if row is None or not math.isfinite(value):
            continue
        low, high = row.good
        if low <= value <= high:
            continue
        limit = low if value < low else high
        inside = row.usable[0] <= value <= row.usable[1]
        sentence = row.reason.format(value=f"{value:.3g}", limit=f"{limit:.3g}", scan=scan)
        found["look" if inside else "unusable"].append(sentence)
    # A warning may itself be the reason of a measure.
    reasons = tuple(dict.fromkeys((*found["unusable"], *found["look"], *warnings)))
    grade: Grade = "unusable" if found["unusable"] else "look" if reasons else "good"
    return Verdict(grade, reasons)


def split_name(name: str) -> tuple[str, str]:
    """Returns the measure and the sequence of a name such as `noise_T1`; empty without one."""
    measure, _, scan = name.rpartition("_")
    return (measure, scan) if measure in MEASURES and MEASURES[measure].per_scan else (name, "")


def describe_range(limits: tuple[float, float]) -> str:
    """Returns a range in words: `at least 0.9`, `at most 3`, or `900 to 1800`."""
    low, high = (f"{limit:g}" for limit in limits)
    if math.isinf(limits[1]):
        return f"at least {low}"
    return f"at most {high}" if limits[0] == 0 else f"{low} to {high}"
