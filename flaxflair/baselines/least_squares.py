"""Ordinary least squares, voxel by voxel: the trivial rival. Knows nothing of neighbours.

`flair = a + Σ_m b_m · image_m`, with one set of coefficients for every voxel of every subject.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxflair.files import write_json
from flaxflair.volume import Array, InputError

FILE = "least_squares.json"


class LeastSquares(NamedTuple):
    """Coefficients [m + 1], one a sequence and the constant last."""

    coefficients: Array


def fit(examples: Iterable[tuple[Array, Array, Array]]) -> LeastSquares:
    """Solves the normal equations over all voxels that count.

    Args:
      examples: (images [x, y, z, m], flair [x, y, z], region bool[x, y, z]) of each subject, seen
        one at a time. Normalised images keep the equations well conditioned.
    """
    gram, moment = np.zeros(()), np.zeros(())
    for images, flair, region in examples:
        design = _design(images[region])
        gram = gram + design.T @ design
        moment = moment + design.T @ flair[region].astype(np.float64)
    # lstsq, not solve: two inputs may be copies of each other.
    return LeastSquares(np.linalg.lstsq(gram, moment, rcond=None)[0])


def predict(model: LeastSquares, images: Array) -> Array:
    """Returns the prediction, x y z m -> x y z, float32."""
    shape = images.shape[:-1]
    flat = _design(images.reshape(-1, images.shape[-1])) @ model.coefficients
    return flat.reshape(shape).astype(np.float32)


def save(model: LeastSquares, folder: Path) -> None:
    """Writes the coefficients into a folder."""
    write_json(folder / FILE, {"coefficients": model.coefficients.tolist()})


def load(folder: Path) -> LeastSquares:
    """Undoes `save`.

    Raises:
      InputError: the folder does not hold them.
    """
    path = folder / FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["coefficients"]
        return LeastSquares(np.array(stored, np.float64))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: holds no coefficients; fit the fold again") from None


def _design(voxels: Array) -> Array:
    return np.concatenate([voxels.astype(np.float64), np.ones((len(voxels), 1))], axis=1)
