"""Anatomy check: comparison of the heads in scans on one grid.

The mutual information of two aligned scans of one head decreases strongly with a shift of a few
millimetres. For scans of two heads, or misaligned scans, it does not. Independent of files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.resampling import subsample
from flaxflair.preprocessing.similarity import Comparison, Sampling, translation

_SAMPLING = Sampling(4.0, 1.0, 2.0)
_VOXEL = 2.0  # mm, to which images are subsampled
_SHIFT = 3.0  # mm, or one voxel if that is larger
# Minimum ratio of the uncertainty coefficient to its mean after shifts: 1.6 to 2.3 for 16 pairs of
# real scans of seven sessions with 3 to 4 mm slices, 0.8 to 1.2 for 22 pairs of two patients; 2.2
# for a simulated T1 and T2 in 4.5 mm voxels, and 1.4 for two patients.
_MIN_RATIO = 1.42
_TOO_FLAT = "PD"  # its contrast is too low for this check
_MIN_POINTS = 200


def anatomy_ratios(
    images: Mapping[str, Array], reference: str, brain: Array, geometry: Geometry
) -> dict[str, float]:
    """Compares the heads in the images of one session with that in the reference.

    Args:
      images: sequence -> [x, y, z], zero outside the scan.
      reference: sequence that the others are compared with.
      brain: bool[x, y, z].
      geometry: of the grid.

    Returns:
      Sequence -> ratio of the uncertainty coefficient to its mean after shifts; without images of
      too low contrast or too few points.
    """
    others = [name for name in images if _TOO_FLAT not in (name, reference) and name != reference]
    if not others:
        return {}
    fixed = subsample(Volume(images[reference], geometry), _VOXEL)
    ratios = {name: _find_ratio(images[name], fixed, brain, geometry) for name in others}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def anatomy_warnings(ratios: Mapping[str, float], reference: str) -> tuple[str, ...]:
    """Returns one sentence for each image that seems to show another head than the reference.

    Args:
      ratios: from `anatomy_ratios`.
      reference: sequence that the others were compared with.
    """
    return tuple(
        f"the {name} and the {reference} differ in their anatomy, like scans of two persons or "
        "misaligned scans; check that both are of one session"
        for name, ratio in ratios.items()
        if ratio < _MIN_RATIO
    )


def _find_ratio(image: Array, fixed: Volume, brain: Array, geometry: Geometry) -> float | None:
    moving, region = (
        subsample(Volume(array, geometry), _VOXEL)
        for array in (image, (brain & (image != 0)).astype(np.float32))
    )
    comparison = Comparison(moving, fixed, region.array > 0.5, _SAMPLING)
    if len(comparison.points) < _MIN_POINTS:
        return None
    axes = geometry.affine[:3, :3] / np.array(geometry.voxel_size)
    steps = [max(_SHIFT, e) * axis for e, axis in zip(geometry.voxel_size, axes.T, strict=True)]
    aligned = comparison.uncertainty_coefficient(np.eye(4))
    shifted = [
        comparison.uncertainty_coefficient(translation(sign * step))
        for step in steps
        for sign in (1, -1)
    ]
    mean = float(np.mean(shifted))
    return aligned / mean if mean > 0 else None
