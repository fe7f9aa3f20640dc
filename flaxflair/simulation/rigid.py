"""Rigid motion: rotations and translations as matrices."""

from __future__ import annotations

import numpy as np

from flaxflair.core.records import Array


def rotation(degrees: Array) -> Array:
    """Returns float64[3, 3], the rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def rigid(degrees: Array, millimetres: Array) -> Array:
    """Returns float64[4, 4]: a rotation about the origin (x, then y, then z), then a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees)
    matrix[:3, 3] = millimetres
    return matrix
