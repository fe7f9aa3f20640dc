"""Orientation check: comparison of the axes in the header with the anatomy.

All headers of a session may be wrong in the same way, for example after a conversion that exchanged
axes. The template then fits the head poorly, and well after the axes are exchanged back. A mirrored
head cannot be detected: left and right are too similar.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from flaxflair.core.records import Array, InputError, Volume
from flaxflair.preprocessing.similarity import Comparison

# Uncertainty coefficient of a good fit: 0.12 to 0.17 in 6 clinical heads. With a template of 1 mm,
# 0.095 to 0.166, and 0.028 to 0.054 in 8 heads with exchanged axes. Above it, other orientations
# are not tried.
_GOOD_FIT = 0.075
_MIN_RATIO = 1.4  # of the coefficients, for another orientation to be accepted
# Starts for each orientation: pitch, degrees; mm up; size relative to the template.
_PITCHES, _UP, _SIZES = (-15, 0, 15), (-25, 0, 25), (0.85, 0.95)
_STEPS = (6.0, 6.0, 6.0, 6.0, 0.04)  # of the simplex: pitch, right, forward, up, size
_TERMINATION = {"maxfev": 150, "xatol": 0.2, "fatol": 3e-4}


def expect_orientation(comparison: Comparison, found: Array, scan: Volume) -> None:
    """Refuses a head whose anatomy contradicts its header.

    Args:
      comparison: of the scan with the template.
      found: float64[4, 4], mm of the template to mm of the scan, the best with the header's axes.
      scan: in RAS order by its header.

    Raises:
      InputError: the template fits far better with other axes.
    """
    fit = comparison.uncertainty_coefficient(found)
    if fit >= _GOOD_FIT:
        return
    best = max(_axis_rotations(), key=lambda rotation: _fit(comparison, rotation, scan)[0])
    other, matrix = _fit(comparison, best, scan, refine=True)
    if other >= _MIN_RATIO * fit and other >= _GOOD_FIT:
        axes = _name_axes(matrix)
        raise InputError(
            f"the anatomy contradicts the header: right, anterior and superior of the head are "
            f"{axes} by the header; write the headers of the session anew, from DICOM"
        )


def _axis_rotations() -> Iterator[Array]:
    """Yields every rotation that permutes axes, float64[3, 3], except the identity."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            rotation = np.eye(3)[list(order)] * np.array(signs)
            if np.linalg.det(rotation) > 0 and not np.array_equal(rotation, np.eye(3)):
                yield rotation


def _fit(
    comparison: Comparison, rotation: Array, scan: Volume, *, refine: bool = False
) -> tuple[float, Array]:
    """Returns the uncertainty coefficient of a rotated head and the template, and its transform."""
    centre = comparison.points.mean(axis=0)

    def to_matrix(guess: Array) -> Array:
        pitch, right, forward, up, size = guess
        matrix = np.eye(4)
        pitched = Rotation.from_euler("x", pitch, degrees=True).as_matrix()
        matrix[:3, :3] = size * rotation @ pitched
        shift = rotation @ np.array([right, forward, up])
        matrix[:3, 3] = scan.geometry.centre + shift - matrix[:3, :3] @ centre
        return matrix

    def similarity(guess: Array) -> float:
        return comparison.uncertainty_coefficient(to_matrix(guess))

    starts = itertools.product(_PITCHES, (0,), (0,), _UP, _SIZES)
    best = max((np.array(start, float) for start in starts), key=similarity)
    if refine:
        simplex = np.vstack([best, best + np.diag(_STEPS)])
        options = {"initial_simplex": simplex, **_TERMINATION}
        best = minimize(
            lambda guess: -similarity(guess), best, method="Nelder-Mead", options=options
        ).x
    return similarity(best), to_matrix(best)


def _name_axes(matrix: Array) -> str:
    """Returns the directions of a head's right, anterior and superior by the header, in words."""
    names = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))
    onto = np.abs(matrix[:3, :3]).argmax(axis=0)
    words = [names[axis][int(matrix[axis, n] < 0)] for n, axis in enumerate(onto)]
    return f"{words[0]}, {words[1]} and {words[2]}"
