"""Ordinary least squares of each voxel, without neighbours: the simplest baseline.

`flair = a + Σ_m b_m · image_m`, with one set of coefficients for every voxel of every subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from flaxflair.core.arrays import Spec, expect_arrays
from flaxflair.core.records import Array


class LeastSquares(NamedTuple):
    """Coefficients [m + 1], one per sequence and the constant last."""

    coefficients: Array


class Equations(NamedTuple):
    """Normal equations of one subject, which add up over subjects.

    Attributes:
      gram: (m + 1) × (m + 1) numbers, products of the sequences and the constant.
      moment: m + 1 numbers, their products with the FLAIR.
    """

    gram: list[list[float]]
    moment: list[float]


def fit(examples: Iterable[tuple[Array, Array, Array]]) -> LeastSquares:
    """Solves the normal equations over all voxels of the regions.

    Args:
      examples: (images [x, y, z, m], flair [x, y, z], region bool[x, y, z]) of each subject, seen
        one at a time. Normalised images keep the equations well conditioned.
    """
    return solve(measure(example) for example in examples)


def measure(example: tuple[Array, Array, Array]) -> Equations:
    """Returns the normal equations of one subject, summed in float64; see `fit`."""
    images, flair, region = example
    design = _design(images[region])
    moment = design.T @ flair[region].astype(np.float64)
    return Equations((design.T @ design).tolist(), moment.tolist())


def solve(equations: Iterable[Equations]) -> LeastSquares:
    """Returns the solution of the equations of all subjects together."""
    gram, moment = np.zeros(()), np.zeros(())
    for left, right in equations:
        gram, moment = gram + np.array(left), moment + np.array(right)
    # lstsq, not solve: two inputs may be copies of each other.
    return LeastSquares(np.linalg.lstsq(gram, moment, rcond=None)[0])


def predict(model: LeastSquares, images: Array) -> Array:
    """Returns the prediction, x y z m -> x y z, float32."""
    shape = images.shape[:-1]
    flat = _design(images.reshape(-1, images.shape[-1])) @ model.coefficients
    return flat.reshape(shape).astype(np.float32)


def pack(model: LeastSquares) -> dict[str, Array]:
    """Returns the arrays to store."""
    return model._asdict()


def unpack(arrays: Mapping[str, Array], sequences: int) -> LeastSquares:
    """Undoes `pack`; `sequences` are the channels that it reads.

    Raises:
      InputError: the arrays are no coefficients of so many sequences.
    """
    expect_arrays(arrays, {"coefficients": Spec((sequences + 1,), ("float64",))})
    return LeastSquares(**arrays)


def _design(voxels: Array) -> Array:
    return np.concatenate([voxels.astype(np.float64), np.ones((len(voxels), 1))], axis=1)
