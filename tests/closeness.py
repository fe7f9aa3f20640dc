"""Closeness of arrays that float32 arithmetic computed in different orders."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike


def assert_near(found: ArrayLike, expected: ArrayLike, tolerance: float = 1e-5) -> None:
    """Asserts that the largest error is at most `tolerance` of the expected values' spread.

    The spread is the standard deviation, or the largest magnitude of fewer than ten values.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    spread = expected.std() if expected.size > 9 else np.abs(expected).max()
    error = np.abs(found - expected).max()
    assert error <= tolerance * spread, f"{error:.3g} of {spread:.3g}, {error / spread:.3g}"
