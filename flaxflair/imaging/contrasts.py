"""Checks that registered images have the contrast of their sequence.

Within tissue, T1 and T2 are negatively correlated, and PD, FLAIR and DIR are not negatively
correlated with T2. Grey matter is near the brain's surface and white matter is deep, so a T1 is
brighter at depth and the other sequences are not. After a contrast agent, vessels on a T1 are far
brighter than any tissue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, strides
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.resampling import block_mean

# Minimum depth below the brain's surface for the comparison with the T2, and sampling distance; mm.
_DEPTH, _APART = 5.0, 2.0
# Percentile of the T2 above which voxels are excluded as fluid.
_FLUID = 85
# Maximum correlation of a T1 with the T2 in tissue. Measured: -0.79 and -0.73 (two real T1), -0.60
# (simulated T1), -0.37 (simulated spin-echo T1); -0.01 to 0.89 (FLAIR, PD and DIR).
_MOST_LIKE_T2 = -0.2
# Correlation with the T2 below which a T1 needs no comparison of depths.
_CLEARLY_T1 = -0.5
# Maximum ratio of the 99.9th percentile of a T1 to its median without a contrast agent. Measured on
# ten such T1: 1.2 to 1.8, and 2.5 of one whose vessels are bright by inflow.
_VESSELS = 2.4
# Depths of mostly grey and of mostly white matter, mm below the surface.
_GREY, _WHITE = (4.0, 8.0), (14.0, 30.0)
# Ratio of the 75th percentiles at the two depths, white to grey. Measured after preparation by this
# package: 1.11 to 1.17 (seven real T1), 1.09 to 1.7 (simulated T1 and T1SE), 0.90 to 1.00 (eight
# real and four simulated FLAIR), 0.7 to 0.97 (T2 and PD). Measured on four sessions prepared
# elsewhere, without bias correction: 1.03 to 1.13 (T1), 0.93 to 1.10 (FLAIR and T2).
_LEAST_T1, _USUAL_T1, _USUAL_OTHER, _MOST_OTHER = 1.0, 1.04, 1.1, 1.2
_LIKE_OTHERS = (
    "does not look like a T1, which is negatively correlated with the T2 in tissue, but like a PD, "
    "FLAIR or DIR; give the T1"
)
_T1_LIKE, _OTHERS = ("T1", "T1SE"), ("T2", "PD", "DIR")
# Maximum voxel edge in mm at which tissues can be separated; minimum number of voxels of a check.
_COARSEST, _FEWEST = 5.5, 200


def check_contrasts(
    images: Mapping[str, Array], brain: Array, voxel_size: tuple[float, float, float]
) -> list[Finding]:
    """Finds images without the contrast of their sequence.

    Args:
      images: sequence -> [x, y, z], registered and on one grid.
      brain: bool[x, y, z].
      voxel_size: mm.

    Returns:
      The findings, those that stop the session first.
    """
    steps = tuple(np.minimum(strides(voxel_size, _APART), brain.shape).tolist())
    spacing = [edge * step for edge, step in zip(voxel_size, steps, strict=True)]
    where = tuple(
        slice(step // 2, n // step * step, step) for n, step in zip(brain.shape, steps, strict=True)
    )
    inside = brain[where]
    depth = np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing))
    averaged = {name: block_mean(image, steps) for name, image in images.items()}
    found: list[Finding] = []
    if sorted(spacing)[1] <= _COARSEST:
        correlation = _correlate_with_t2(averaged, depth)
        if correlation > _MOST_LIKE_T2:
            found.append(Finding("stop", "T1", _LIKE_OTHERS))
        for name, image in averaged.items():
            if name == "T1" and correlation > _MOST_LIKE_T2:
                continue
            compared = _compare_depths(name, image, depth)
            if name == "T1" and correlation < _CLEARLY_T1:
                compared = [finding for finding in compared if finding.severity == "stop"]
            found += compared
    if "T1" in images:
        found += _check_enhancement(images["T1"][where][depth > _DEPTH])
    return sorted(found, key=lambda finding: finding.severity != "stop")


def _correlate_with_t2(averaged: Mapping[str, Array], depth: Array) -> float:
    """Returns the correlation of T1 and T2 in tissue; NaN if it cannot be measured."""
    if not {"T1", "T2"} <= set(averaged):
        return float("nan")
    t1, t2 = averaged["T1"], averaged["T2"]
    deep = depth > _DEPTH
    if deep.sum() < _FEWEST:
        return float("nan")
    tissue = deep & (t2 < np.percentile(t2[deep], _FLUID))
    a, b = t1[tissue], t2[tissue]
    if a.size == 0 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _compare_depths(name: str, image: Array, depth: Array) -> list[Finding]:
    grey, white = (image[(depth > low) & (depth <= high)] for low, high in (_GREY, _WHITE))
    if min(grey.size, white.size) < _FEWEST or name not in _T1_LIKE + _OTHERS:
        return []
    below, deep = (float(np.percentile(values, 75)) for values in (grey, white))
    if below <= 0:
        return []
    ratio = deep / below
    if name in _T1_LIKE and ratio < _USUAL_T1:
        what = (
            f"does not look like a {name}, which is brighter in white matter than in grey, but like"
            f" a T2, PD, FLAIR or DIR; give the {name}"
        )
        return [Finding("stop" if ratio < _LEAST_T1 else "warn", name, what)]
    if name in _OTHERS and ratio > _USUAL_OTHER:
        what = (
            f"does not look like a {name}, which is darker in white matter than in grey, but like a"
            f" T1; give the {name}"
        )
        return [Finding("stop" if ratio > _MOST_OTHER else "warn", name, what)]
    return []


def _check_enhancement(deep: Array) -> list[Finding]:
    if deep.size < _FEWEST or np.median(deep) <= 0:
        return []
    if np.percentile(deep, 99.9) <= _VESSELS * np.median(deep):
        return []
    what = (
        "has vessels as bright as after a contrast agent; the model was trained on T1 without one"
    )
    return [Finding("warn", "T1", what)]
