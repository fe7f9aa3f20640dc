"""Mean and standard deviation of voxels, pooled over images that need not be in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array


class Moments(NamedTuple):
    """Count, mean and scatter of one image's voxels; a few numbers that stand for the image.

    Attributes:
      voxels: number of voxels.
      mean: one value per channel, in the units of the image.
      scatter: sum of squared deviations from the mean, likewise, in squared units.
    """

    voxels: int
    mean: list[float]
    scatter: list[float]


def measure(image: Array) -> Moments:
    """Returns the moments of an image [..., m], by channel, in float64."""
    voxels = image.reshape(-1, image.shape[-1]).astype(np.float64)
    mean, scatter = voxels.mean(axis=0), voxels.var(axis=0) * len(voxels)
    return Moments(len(voxels), mean.tolist(), scatter.tolist())


def pool(moments: Iterable[Moments]) -> tuple[Array, Array]:
    """Returns mean and standard deviation over all voxels of all images, float64[m] each.

    Raises:
      ValueError: there is no image.
    """
    count, total, square = 0, np.zeros(()), np.zeros(())
    for size, mean, scatter in moments:
        # Merged means and squared deviations, not raw squares: no cancellation with large offsets.
        shift = np.array(mean) - total
        square = square + scatter + shift**2 * count * size / (count + size)
        total = total + shift * size / (count + size)
        count += size
    if count == 0:
        raise ValueError("statistics of no image")
    return total, np.sqrt(square / count)
