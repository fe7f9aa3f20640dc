"""Checks of the intensity histogram of a scan for storage errors.

A scanner's magnitude image has dark air, no gaps between values and few values near its maximum.
Offsets, z-scores, integer overflow, clipping and compression to few levels each violate one of
these. All thresholds are relative, so the checks are independent of gain.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from flaxflair.core.records import Array, Volume
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.orientation import to_ras

# Negative values beyond this share of the 99th percentile, in more than this share of the voxels,
# are not explained by the overshoot of an interpolation.
_NEGATIVE, _MOST_NEGATIVE = 0.1, 0.002
# Maximum gap between two neighbouring values relative to the range, and minimum share of the voxels
# on each side of it.
_WIDEST_GAP, _LEAST_SIDE = 0.4, 0.001
# Maximum intensity of air relative to the 99th percentile, and the percentile at which it is
# measured.
_BRIGHTEST_AIR, _DARKEST = 0.3, 0.5
# Maximum share of the bright voxels that equal the 99.9th percentile exactly.
_MOST_CLIPPED = 0.02
# Values above this share of the maximum, and the maximum share of voxels with them: at most 1e-5 in
# 28 real and 6 simulated scans, 8e-4 in a scan with integer overflow.
_END, _MOST_AT_END = 0.98, 1e-4
_FEW = 30  # voxels near the maximum that are ignored, for small images
# Maximum number of distinct values of a label map; steps of the range of an 8-bit image.
_LABELS, _STEPS = 32, 255
# Minimum correlation of two copies of one scan with different gains; repeated scans are below it.
_SAME = 0.99999


def check_intensities(name: str, volume: Volume, some: Volume) -> list[Finding]:
    """Checks the intensities of one scan.

    Args:
      name: its sequence.
      volume: the scan.
      some: its voxels subsampled to a few mm, for all statistics but the range.

    Returns:
      The findings; a finding that stops the session is the only one.
    """
    values = np.sort(some.array, axis=None)
    low, high = float(volume.array.min()), float(volume.array.max())
    top = float(values[int(0.99 * (values.size - 1))])
    negative = float(np.searchsorted(values, -_NEGATIVE * max(top, -low * 0.1)) / values.size)
    if negative > _MOST_NEGATIVE:
        what = (
            f"has {100 * negative:.0f} % of its voxels below zero, down to {low:g}, as after an "
            "offset, z-scoring or integer overflow; give unprocessed scanner intensities"
        )
        return [Finding("stop", name, what)]
    levels = np.unique(values)
    if levels.size <= _LABELS:
        what = f"has only {levels.size} distinct values, like a mask or label map; give the scan"
        return [Finding("stop", name, what)]
    if (gap := _find_gap(values)) is not None:
        what = (
            f"has no value between {gap[0]:g} and {gap[1]:g}, as after integer overflow; convert "
            "it again from DICOM"
        )
        return [Finding("stop", name, what)]
    found = []
    if (air := float(np.percentile(values, _DARKEST))) > _BRIGHTEST_AIR * top:
        what = f"has no dark air: the darkest voxels are {air:g} of {top:g}; was an offset added?"
        found.append(Finding("warn", name, what))
    bright = values[np.searchsorted(values, 0.5 * top) :]
    most = float(values[int(0.999 * (values.size - 1))])
    clipped = float((bright == most).mean())
    if clipped > _MOST_CLIPPED:
        what = f"is clipped: {100 * clipped:.0f} % of its bright voxels have exactly {most:g}"
        found.append(Finding("warn", name, f"{what}; give it unclipped"))
    elif values.size - np.searchsorted(values, _END * high) > max(_MOST_AT_END * values.size, _FEW):
        what = (
            f"has many voxels near its maximum of {high:g}, as after integer overflow or clipping"
        )
        found.append(Finding("warn", name, f"{what}; convert it again from DICOM"))
    if round((high - low) / float(np.diff(levels).min())) == _STEPS:
        what = "has 256 levels, like an image compressed to 8 bits; give the original image"
        found.append(Finding("warn", name, what))
    return found


def _find_gap(values: Array) -> tuple[float, float] | None:
    """Returns the values beside the widest gap of sorted values, or None if it is not too wide."""
    side = max(1, int(_LEAST_SIDE * values.size))
    inner = values[side - 1 : values.size - side + 1]
    steps = np.diff(inner)
    widest = int(np.argmax(steps))
    if steps[widest] <= _WIDEST_GAP * (inner[-1] - inner[0]):
        return None
    return float(inner[widest]), float(inner[widest + 1])


def check_copies(volumes: dict[str, Volume]) -> list[Finding]:
    """Finds scans that are copies of another, up to gain, offset and axis order.

    Args:
      volumes: sequence -> its voxels, subsampled to a few mm.
    """
    turned = {name: to_ras(volume).array for name, volume in volumes.items()}
    found = []
    for (one, a), (other, b) in combinations(turned.items(), 2):
        if a.shape == b.shape and np.corrcoef(a.ravel(), b.ravel())[0, 1] > _SAME:
            what = f"is a copy of the image given as {one}; give the scan of each sequence"
            found.append(Finding("stop", other, what))
    return found
