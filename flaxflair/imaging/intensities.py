"""Intensities: what a scan's values alone say of how they were stored.

A scanner's magnitude image has dark air, values without gaps and few at its upper end. An offset, a
z-score, integers that wrapped around, clipping and compression to few levels each break one of
these. Every threshold is relative: a gain makes no difference.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from flaxflair.core.records import Array, Volume
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.orientation import to_ras

# A value so far below zero, of the 99th percentile, is no overshoot of an interpolation, if so
# many voxels have one.
_NEGATIVE, _MOST_NEGATIVE = 0.1, 0.002
# Of the range: no scan has so wide a gap between two neighbouring values, each side of which has so
# many voxels.
_WIDEST_GAP, _LEAST_SIDE = 0.4, 0.001
# Air is darker than this, of the 99th percentile; it is looked for among the darkest voxels.
_BRIGHTEST_AIR, _DARKEST = 0.3, 0.5
# Share of the bright voxels that have exactly the value of the 99.9th percentile.
_MOST_CLIPPED = 0.02
# Share of the voxels that come so near the maximum: of 28 real and 6 simulated scans at most 1e-5;
# of one whose integers wrapped around, 8e-4.
_END, _MOST_AT_END = 0.98, 1e-4
_FEW = 10  # voxels that say nothing: the brightest of a small image
# A label map has no more different values; 8 bits make so many steps of the whole range.
_LABELS, _STEPS = 32, 255
# Two scans that are one, with another gain, correlate so well; two repetitions never do.
_SAME = 0.99999


def check_intensities(name: str, volume: Volume, some: Volume) -> list[Finding]:
    """Returns what is wrong with the values of one scan.

    Args:
      name: its sequence.
      volume: the scan.
      some: some of its voxels, a few mm apart, by which all but its range is judged.
    """
    values = np.sort(some.array, axis=None)
    low, high = float(volume.array.min()), float(volume.array.max())
    top = float(values[int(0.99 * (values.size - 1))])
    negative = float(np.searchsorted(values, -_NEGATIVE * max(top, -low * 0.1)) / values.size)
    if negative > _MOST_NEGATIVE:
        what = (
            f"has {100 * negative:.0f} % of its voxels below zero, down to {low:g}, as an offset, "
            "z-scores or integers that wrapped around leave them; give intensities as the scanner "
            "made them"
        )
        return [Finding("stop", name, what)]
    levels = np.unique(values)
    if levels.size <= _LABELS:
        what = f"has only {levels.size} different values, as a mask or label map; give the scan"
        return [Finding("stop", name, what)]
    if (gap := _find_gap(values)) is not None:
        what = (
            f"has no value between {gap[0]:g} and {gap[1]:g}, as where integers wrapped around; "
            "convert it again from DICOM"
        )
        return [Finding("stop", name, what)]
    found = []
    if (air := float(np.percentile(values, _DARKEST))) > _BRIGHTEST_AIR * top:
        what = f"has no air: its darkest voxels have {air:g}, of {top:g}; was an offset added?"
        found.append(Finding("warn", name, what))
    bright = values[np.searchsorted(values, 0.5 * top) :]
    most = float(values[int(0.999 * (values.size - 1))])
    clipped = float((bright == most).mean())
    if clipped > _MOST_CLIPPED:
        what = f"is clipped: {100 * clipped:.0f} % of its bright voxels have exactly {most:g}"
        found.append(Finding("warn", name, f"{what}; give it unclipped"))
    elif values.size - np.searchsorted(values, _END * high) > max(_MOST_AT_END * values.size, _FEW):
        what = f"ends abruptly at {high:g}, as integers that wrapped around or were cut do"
        found.append(Finding("warn", name, f"{what}; convert it again from DICOM"))
    if round((high - low) / float(np.diff(levels).min())) == _STEPS:
        what = "has 256 levels, as an image compressed to 8 bits; give the scanner's own"
        found.append(Finding("warn", name, what))
    return found


def _find_gap(values: Array) -> tuple[float, float] | None:
    """Returns the two neighbours of a gap that no scan has, of sorted values."""
    side = max(1, int(_LEAST_SIDE * values.size))
    inner = values[side - 1 : values.size - side + 1]
    steps = np.diff(inner)
    widest = int(np.argmax(steps))
    if steps[widest] <= _WIDEST_GAP * (inner[-1] - inner[0]):
        return None
    return float(inner[widest]), float(inner[widest + 1])


def check_copies(volumes: dict[str, Volume]) -> list[Finding]:
    """Returns which scans are another once more, its gain, offset and order of axes aside.

    Args:
      volumes: sequence -> some of its voxels, a few mm apart.
    """
    turned = {name: to_ras(volume).array for name, volume in volumes.items()}
    found = []
    for (one, a), (other, b) in combinations(turned.items(), 2):
        if a.shape == b.shape and np.corrcoef(a.ravel(), b.ravel())[0, 1] > _SAME:
            what = f"is the image that was given as {one}; give the scan of each sequence"
            found.append(Finding("stop", other, what))
    return found
