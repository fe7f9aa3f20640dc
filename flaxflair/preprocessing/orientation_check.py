"""Orientation, checked: whether the axes of a header are those of the anatomy.

Headers of all scans of a session may be wrong alike, as after a conversion that exchanged axes; the
template then fits the head badly as it is, and well once its axes are exchanged back. A mirrored
head cannot be told: left and right are too alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from flaxflair.core.records import Array, InputError, Volume
from flaxflair.preprocessing.similarity import Comparison

# Share of the template that a head tells: 0.095 to 0.166 of 6 heads, 0.028 to 0.054 of 8 whose axes
# were exchanged. Above the first no other orientation is looked at.
_WELL = 0.075
# Another orientation counts if the head tells so many times more by it.
_BETTER = 1.4
# The starts of each: pitch, degrees; mm up; size of the head against the template's.
_PITCHES, _UP, _SIZES = (-15, 0, 15), (-25, 0, 25), (0.85, 0.95)
_STEPS = (6.0, 6.0, 6.0, 6.0, 0.04)  # of the descent: pitch, right, forward, up, size
_PATIENCE = {"maxfev": 150, "xatol": 0.2, "fatol": 3e-4}


def expect_orientation(comparison: Comparison, found: Array, scan: Volume) -> None:
    """Refuses a head whose anatomy contradicts its header.

    Args:
      comparison: of the scan, laid on the template.
      found: float64[4, 4], mm of the template to mm of the scan, the best by the header's axes.
      scan: its axes right, anterior and superior, by its header.

    Raises:
      InputError: the template fits far better with other axes.
    """
    share = comparison.share(found)
    if share >= _WELL:
        return
    # About the middle of the head as the fit by the header has it.
    best = max(_turns(), key=lambda turn: _fit(comparison, turn, scan)[0])
    other, matrix = _fit(comparison, best, scan, descend=True)
    if other >= _BETTER * share and other >= _WELL:
        axes = _name_axes(matrix)
        raise InputError(
            f"the anatomy contradicts the header: right, anterior and superior of the head are "
            f"{axes} by the header; write the headers of the session anew, from DICOM"
        )


def _turns() -> Iterator[Array]:
    """Yields every rotation that exchanges axes, float64[3, 3], but none at all."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.eye(3)[list(order)] * np.array(signs)
            if np.linalg.det(turn) > 0 and not np.array_equal(turn, np.eye(3)):
                yield turn


def _fit(
    comparison: Comparison, turn: Array, scan: Volume, *, descend: bool = False
) -> tuple[float, Array]:
    """Returns how much a turned head tells of the template, and the matrix by which it does."""
    middle = comparison.points.mean(axis=0)

    def place(guess: Array) -> Array:
        pitch, right, forward, up, size = guess
        matrix = np.eye(4)
        pitched = Rotation.from_euler("x", pitch, degrees=True).as_matrix()
        matrix[:3, :3] = size * turn @ pitched
        aside = turn @ np.array([right, forward, up])
        matrix[:3, 3] = scan.geometry.centre + aside - matrix[:3, :3] @ middle
        return matrix

    starts = itertools.product(_PITCHES, (0,), (0,), _UP, _SIZES)
    best = max((np.array(s, float) for s in starts), key=lambda s: comparison.share(place(s)))
    if descend:
        simplex = np.vstack([best, best + np.diag(_STEPS)])
        options = {"initial_simplex": simplex, **_PATIENCE}
        miss = lambda guess: -comparison.share(place(guess))  # noqa: E731
        best = minimize(miss, best, method="Nelder-Mead", options=options).x
    return comparison.share(place(best)), place(best)


def _name_axes(matrix: Array) -> str:
    """Returns where a head's right, anterior and superior are, in words."""
    names = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))
    onto = np.abs(matrix[:3, :3]).argmax(axis=0)
    words = [names[axis][int(matrix[axis, n] < 0)] for n, axis in enumerate(onto)]
    return f"{words[0]}, {words[1]} and {words[2]}"
