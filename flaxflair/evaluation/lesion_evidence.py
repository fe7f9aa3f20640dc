"""Lesions of a predicted session: found in a probability map, measured, and traced to the inputs.

Every quantity is derived from the outputs of a network, and none is a measurement of a scan.
Independent of files and networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, Geometry
from flaxflair.evaluation.lesion_segmentation import (
    VoxelSize,
    label_components,
    nearest_voxels,
)
from flaxflair.imaging.brain_places import (
    Side,
    depth_below_surface,
    fit_midline,
    fluid_distance,
    name_side,
)


@dataclass(frozen=True)
class DetectionConfig:
    """Parameters of the detection; `tests.benchmarks.bench_lesions` measures others beside them.

    Attributes:
      threshold: minimum probability of a lesion's voxels.
      volume: minimum volume of a lesion, mm³.
      interval: lower and upper probability; the volumes at these thresholds are the ends of a
        lesion's interval of volume.
    """

    threshold: float = 0.7
    volume: float = 10.0
    interval: tuple[float, float] = (0.3, 0.9)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 < low <= self.threshold <= high < 1:
            raise ValueError(
                f"thresholds are {low}, {self.threshold} and {high}; give them in (0, 1), "
                "in increasing order"
            )
        if self.volume < 0:
            raise ValueError(f"volume is {self.volume} mm³; give zero or more")


DETECTION = DetectionConfig()


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes:
      number: from 1, by decreasing volume; its voxels in the label image.
      position: world mm (RAS+) of its voxel that is nearest to its centroid.
      side: side of that voxel.
      depth: of that voxel below the surface of the brain mask, mm.
      to_fluid: distance of the lesion's nearest voxel to fluid, mm; infinite if there is none.
      volume: mm³.
      volume_interval: mm³, volumes at the probabilities `DetectionConfig.interval`, smallest first.
      contrast: mean of the synthetic FLAIR, white matter at 1.
      mean: mean probability.
      peak: maximum probability.
      without: sequence -> mean probability if the network is given all other sequences.
    """

    number: int
    position: tuple[float, float, float]
    side: Side
    depth: float
    to_fluid: float
    volume: float
    volume_interval: tuple[float, float]
    contrast: float
    mean: float
    peak: float
    without: Mapping[str, float]


def find_lesions(
    probability: Array, voxel_size: VoxelSize, config: DetectionConfig = DETECTION
) -> Array:
    """Finds lesions in a probability map: components above a threshold, of a minimum volume.

    Voxels of a component touch by face, edge or corner.

    Args:
      probability: [x, y, z], probability that a voxel is lesion.
      voxel_size: mm.
      config: parameters.

    Returns:
      int32[x, y, z]: the number of the lesion, from 1 by decreasing volume; 0 outside of lesions.
    """
    labels, count = label_components(probability >= config.threshold)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    voxels[0] = 0
    order = np.argsort(-voxels, kind="stable")
    kept = order[: int((voxels * np.prod(voxel_size) >= max(config.volume, 1e-9)).sum())]
    number = np.zeros(count + 1, np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[labels]


def volume_intervals(
    labels: Array,
    probability: Array,
    voxel_size: VoxelSize,
    config: DetectionConfig = DETECTION,
) -> Array:
    """Returns the volumes of lesions at the two probabilities of an interval, float64[n, 2], mm³.

    The lower volume is that of a lesion's voxels at the higher probability. The upper volume
    includes voxels at the lower probability that are connected to a lesion, each counted for the
    nearest one.

    Args:
      labels: int[x, y, z], from `find_lesions`.
      probability: [x, y, z].
      voxel_size: mm.
      config: parameters.
    """
    low, high = config.interval
    count = int(labels.max(initial=0))
    certain = np.bincount(labels[probability >= high], minlength=count + 1)[1:]
    around, _ = label_components(probability >= low)
    connected = np.zeros(int(around.max(initial=0)) + 1, bool)
    connected[around[labels > 0]] = True
    connected[0] = False
    reached = connected[around]
    _, nearest = nearest_voxels(labels == 0, voxel_size)
    owner = labels[tuple(axis[reached] for axis in nearest)]
    possible = np.bincount(owner, minlength=count + 1)[1:]
    return np.stack([certain, possible], axis=1) * float(np.prod(voxel_size))


def measure_lesions(
    labels: Array,
    probability: Array,
    flair: Array,
    brain: Array,
    geometry: Geometry,
    without: Mapping[str, Array] | None = None,
    config: DetectionConfig = DETECTION,
) -> tuple[Lesion, ...]:
    """Measures lesions, and what is left of each without one of the inputs.

    Args:
      labels: int[x, y, z], from `find_lesions`.
      probability: [x, y, z].
      flair: [x, y, z], synthetic, white matter at 1.
      brain: bool[x, y, z].
      geometry: grid of all arrays, its x axis towards the right.
      without: sequence -> [x, y, z], probability if that sequence is left out.
      config: parameters of `find_lesions`.

    Returns:
      The lesions in the order of their numbers.
    """
    size = geometry.voxel_size
    found = ndimage.find_objects(labels)
    if not found:
        return ()
    intervals = volume_intervals(labels, probability, size, config)
    depth, to_fluid = depth_below_surface(brain, size), fluid_distance(flair, brain, size)
    midline = fit_midline(brain)
    lesions = []
    for number, box in enumerate(found, 1):
        inside = labels[box] == number
        voxels = np.argwhere(inside) + [part.start for part in box]
        offset = (voxels - voxels.mean(axis=0)) * size
        centre = voxels[int(np.argmin((offset**2).sum(axis=1)))]
        x, y, z = geometry.affine[:3, :3] @ centre + geometry.affine[:3, 3]
        certain, possible = intervals[number - 1]
        values = probability[box][inside]
        lesions.append(
            Lesion(
                number,
                (float(x), float(y), float(z)),
                name_side(centre, midline, size),
                float(depth[tuple(centre)]),
                float(to_fluid[box][inside].min()),
                volume=len(voxels) * float(np.prod(size)),
                volume_interval=(float(certain), float(possible)),
                contrast=float(flair[box][inside].mean()),
                mean=float(values.mean()),
                peak=float(values.max()),
                without={n: float(p[box][inside].mean()) for n, p in (without or {}).items()},
            )
        )
    return tuple(lesions)
