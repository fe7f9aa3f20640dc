"""Measures of the quality of a session: registration, template, brain, images and resolution.

Named numbers, of which `evaluation.verdict` makes a grade. What the preparation has computed is not
computed again. A measure of one sequence is named `measure_SEQUENCE`. Independent of thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from flaxflair.core.records import Array, Geometry, InputError, Subject, Volume
from flaxflair.imaging.image_quality import flatten, image_quality
from flaxflair.imaging.resampling import subsample
from flaxflair.imaging.standard import COARSE, FINE
from flaxflair.imaging.tissue_levels import fit_tissue_levels
from flaxflair.preprocessing.session import Prepared
from flaxflair.preprocessing.similarity import Comparison, Sampling

_VOXELS = 5000  # of the estimate of tissue levels
_SAMPLING = Sampling(5.0, 1.5, 2.0)  # of the comparison with a mirrored scan
_VOXEL = 2.0  # mm, to which images are subsampled for it
_MIRRORED = "T2"  # the others are compared with it, or with the first sequence
_TERMINATION = {"maxfev": 25, "xatol": 0.3, "fatol": 1e-3}
_STEPS = (4.0, 4.0, 4.0)  # of the simplex: mm to the right, degrees of roll and of yaw


def preparation_quality(prepared: Prepared) -> dict[str, float]:
    """Returns the measures of a preparation: of the template and of the registrations."""
    rows: dict[str, dict[str, float]] = {}
    for name, found in prepared.alignments.items():
        moved = prepared.movements[name]
        rows[name] = {
            "registration_similarity": found.coefficient,
            "registration_ratio": found.ratio,
            "registration_shift": moved.shift,
            "registration_rotation": moved.rotation,
            "registration_stretch": 100 * moved.stretch,
        }
    rows = {
        name: {
            **rows.get(name, {}),
            "covered": prepared.covered[name],
            "bias": prepared.bias_spread[name],
        }
        for name in prepared.images
    }
    return {**prepared.template, **flatten(rows)}


def subject_quality(subject: Subject, anatomy: Mapping[str, float]) -> dict[str, float]:
    """Returns the measures of a subject's brain, images and resolution.

    Args:
      subject: with its images and brain.
      anatomy: from `anatomy_ratios`.
    """
    brain, geometry = subject.masks.brain, subject.geometry
    size = geometry.voxel_size
    if not subject.sequences:
        return _describe_brain(brain, geometry)
    rows: dict[str, dict[str, float]] = {name: {} for name in subject.sequences}
    for name in subject.sequences:
        if name in anatomy:
            rows[name]["anatomy_ratio"] = anatomy[name]
        edges = np.sort(np.maximum(subject.voxel_size(name), size))
        rows[name]["voxel_ratio"] = float(max(edges[1] / FINE[1], edges[2] / COARSE[1]))
    if len(subject.sequences) > 1:
        fixed = _MIRRORED if _MIRRORED in subject.sequences else subject.sequences[0]
        for name in subject.sequences:
            if name != fixed:
                rows[name]["mirror_ratio"] = _compare_mirrored(subject, name, fixed)
    try:
        levels = fit_tissue_levels(subject.images, subject.sequences, brain, size, voxels=_VOXELS)
    except InputError:  # the prediction of a universal model reports it
        images = {}
    else:
        images = image_quality(
            subject.images, subject.sequences, brain, size, levels, subject.scanned
        )
    rows = {name: {**row, **images.get(name, {})} for name, row in rows.items()}
    return {**_describe_brain(brain, geometry), **flatten(rows)}


def _describe_brain(brain: Array, geometry: Geometry) -> dict[str, float]:
    """Returns volume and shape of a brain mask."""
    size = np.array(geometry.voxel_size)
    extents = []
    for axis in range(3):
        counts = brain.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        share = np.cumsum(counts) / max(counts.sum(), 1.0)
        first, last = np.searchsorted(share, (0.005, 0.995))
        extents.append(float((last - first + 1) * size[axis]))
    width, length, height = extents
    return {
        "brain_volume": float(brain.sum() * np.prod(size) / 1000),
        "brain_length_to_width": length / width,
        "brain_height_to_width": height / width,
    }


def _compare_mirrored(subject: Subject, name: str, other: str) -> float:
    """Returns the similarity of two images after one is mirrored, relative to that before.

    The plane of the mirror is searched near the middle of the brain.
    """
    moving, fixed, brain = (
        subsample(Volume(array, subject.geometry), _VOXEL)
        for array in (
            subject.images[..., subject.sequences.index(name)],
            subject.images[..., subject.sequences.index(other)],
            subject.masks.brain,
        )
    )
    comparison = Comparison(moving, fixed, brain.array, _SAMPLING)
    direct = comparison.uncertainty_coefficient(np.eye(4))
    if not len(comparison.points) or direct <= 0:
        return float("nan")
    frame = subject.geometry.affine[:3, :3] / np.array(subject.geometry.voxel_size)
    centre = comparison.points.mean(axis=0)

    def mirrored(guess: Array) -> float:
        right, roll, yaw = guess
        normal = frame @ Rotation.from_euler("yz", (roll, yaw), degrees=True).apply([1.0, 0, 0])
        matrix = np.eye(4)
        matrix[:3, :3] -= 2 * np.outer(normal, normal)
        matrix[:3, 3] = 2 * normal * (normal @ centre + right)
        return comparison.uncertainty_coefficient(matrix)

    simplex = np.vstack([np.zeros(3), np.diag(_STEPS)])
    options = {"initial_simplex": simplex, **_TERMINATION}
    found = minimize(
        lambda guess: -mirrored(guess), np.zeros(3), method="Nelder-Mead", options=options
    )
    return float(-found.fun) / direct
