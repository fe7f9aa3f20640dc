"""Fit of the registered template: how well it matches the head, and the shape of the brain found.

All on the template's grid, after registration. Independent of files and of how the template was
registered.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array
from flaxflair.evaluation.metrics import dice
from flaxflair.preprocessing.similarity import Comparison, translation

_SHIFT = 12.0  # mm
_SMOOTHING = 2.0  # voxels, SD of the Gaussian before the two halves of a head are compared


def template_quality(
    comparison: Comparison, to_scan: Array, head: Array, brain: Array, prior: Array
) -> dict[str, float]:
    """Returns measures of the fit of the template to a scan.

    Args:
      comparison: of the scan with the template's brain.
      to_scan: float64[4, 4], mm of the template to mm of the scan.
      head: [x, y, z], the scan on the template's grid, whose first axis runs left to right and is
        centred on the middle of the head.
      brain: bool[x, y, z], brain found in the scan.
      prior: bool[x, y, z], brain of the template.

    Returns:
      `template_similarity`: uncertainty coefficient, 0 to 1; `template_ratio`: its ratio to the
      mean after shifts of 12 mm; `template_overlap`: Dice coefficient of the two brains;
      `brain_symmetry`: Dice coefficient of the brain and its mirror image; `head_symmetry`:
      correlation of the scan and its mirror image in the template's brain.
    """
    fit = comparison.uncertainty_coefficient(to_scan)
    shifted = [
        comparison.uncertainty_coefficient(to_scan @ translation(_SHIFT * step))
        for step in (*np.eye(3), *-np.eye(3))
    ]
    smooth = ndimage.gaussian_filter(head.astype(np.float32, copy=False), _SMOOTHING)
    halves = smooth[prior], smooth[::-1][prior]
    flat = min(float(half.std()) for half in halves) == 0
    return {
        "template_similarity": fit,
        "template_ratio": fit / max(float(np.mean(shifted)), 1e-9),
        "template_overlap": dice(brain, prior),
        "brain_symmetry": dice(brain, brain[::-1]),
        "head_symmetry": 0.0 if flat else float(np.corrcoef(*halves)[0, 1]),
    }
