"""Contrast, checked: whether images that lie on one grid show what their names say.

Where a T1 and a T2 lie on each other, tissue that is brighter on one is darker on the other; on PD,
FLAIR and DIR it is brighter on both. Grey matter lies below the brain's surface and white matter
deep in it: a T1 is brighter deep in the brain, and the other sequences are not. A contrast agent
leaves vessels on a T1 far brighter than any tissue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, strides
from flaxflair.imaging.findings import Finding

# mm below the brain's surface that is compared with the T2, and between voxels.
_DEPTH, _APART = 5.0, 2.0
# Of the T2: what is brighter is taken for fluid.
_FLUID = 85
# Correlation with the T2 in tissue: -0.79, -0.73 and -0.60 of two real T1 and a simulated one,
# -0.37 of a simulated spin-echo T1; of FLAIR, PD and DIR -0.01 to 0.89.
_MOST_LIKE_T2 = -0.2
# The 99.9th percentile of a T1, of the median: 1.3 to 1.6 of three without a contrast agent.
_VESSELS = 2.4
# mm below the surface: mostly grey matter, and mostly white matter.
_GREY, _WHITE = (4.0, 8.0), (14.0, 30.0)
# The 75th percentile of the latter, of the former. Prepared here: 1.11 to 1.17 of seven real T1,
# 1.09 to 1.7 of simulated T1 and T1SE, 0.90 to 1.00 of eight real and four simulated FLAIR, 0.7 to
# 0.97 of T2 and PD. Of others' T1, their bias uncorrected, 1.03 to 1.11, and of their FLAIR and T2
# 0.94 to 1.09.
_LEAST_T1, _USUAL_T1, _USUAL_OTHER, _MOST_OTHER = 1.0, 1.04, 1.1, 1.2
_T1_LIKE, _OTHERS = ("T1", "T1SE"), ("T2", "PD", "DIR")
# In voxels coarser than this, mm, tissues are not told apart; fewer voxels say nothing.
_COARSEST, _FEWEST = 5.5, 200


def check_contrasts(
    images: Mapping[str, Array], brain: Array, voxel_size: tuple[float, float, float]
) -> list[Finding]:
    """Returns which images do not show the contrast of their sequence, those that stop first.

    Args:
      images: sequence -> [x, y, z], on one grid; those that lie on each other well.
      brain: bool[x, y, z].
      voxel_size: mm.
    """
    steps = tuple(np.minimum(strides(voxel_size, _APART), brain.shape).tolist())
    spacing = [edge * step for edge, step in zip(voxel_size, steps, strict=True)]
    where = tuple(
        slice(step // 2, n // step * step, step) for n, step in zip(brain.shape, steps, strict=True)
    )
    inside = brain[where]
    depth = np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing))
    even = {name: _average(image, steps) for name, image in images.items()}
    found: list[Finding] = []
    if sorted(spacing)[1] <= _COARSEST:
        if {"T1", "T2"} <= set(even):
            found += _compare_with_t2(even["T1"], even["T2"], depth)
        told = {finding.sequence for finding in found}
        for name, image in even.items():
            found += [] if name in told else _compare_depths(name, image, depth)
    if "T1" in images:
        found += _look_for_vessels(images["T1"][where][depth > _DEPTH])
    return sorted(found, key=lambda finding: finding.severity != "stop")


def _average(image: Array, steps: tuple[int, ...]) -> Array:
    """Returns the means of blocks of voxels, float32."""
    shape = [n // step for n, step in zip(image.shape, steps, strict=True)]
    cut = image[tuple(slice(n * step) for n, step in zip(shape, steps, strict=True))]
    x, y, z = shape
    blocks = cut.reshape(x, steps[0], y, steps[1], z, steps[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _compare_with_t2(t1: Array, t2: Array, depth: Array) -> list[Finding]:
    deep = depth > _DEPTH
    if deep.sum() < _FEWEST:
        return []
    tissue = deep & (t2 < np.percentile(t2[deep], _FLUID))
    a, b = t1[tissue], t2[tissue]
    if a.size == 0 or a.std() == 0 or b.std() == 0:
        return []
    if float(np.corrcoef(a, b)[0, 1]) <= _MOST_LIKE_T2:
        return []
    what = (
        "does not look like a T1, on which tissue is dark that is bright on the T2, but like a PD, "
        "FLAIR or DIR; give the T1"
    )
    return [Finding("stop", "T1", what)]


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


def _look_for_vessels(deep: Array) -> list[Finding]:
    if deep.size < _FEWEST or np.median(deep) <= 0:
        return []
    if np.percentile(deep, 99.9) <= _VESSELS * np.median(deep):
        return []
    what = (
        "has vessels as bright as after a contrast agent; the model was trained on T1 without one"
    )
    return [Finding("warn", "T1", what)]
