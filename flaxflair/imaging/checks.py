"""Checks: what would stop a session, or make its FLAIR worthless, found before any computing.

Knows images and grids; knows nothing of file names but to repeat them, and nothing of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu, threshold_triangle

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.intensities import check_copies, check_intensities
from flaxflair.imaging.resampling import subsample

# A head and its brain differ more than two sequences of either do.
SAME_EXTENT = 0.75
# A scan has fewer voxels that are exactly zero; a brain alone has more.
MOST_ZEROS = 0.7
# Slices that a brain needs at least, and mm that it is high.
FEWEST_SLICES, LOWEST_SLAB = 5, 60.0
# mm, between which the longest edge of a field of view is; beyond, its unit is another.
LEAST_VIEW, MOST_VIEW = 5.0, 1000.0
# Part of the smaller field of view that two sequences must share.
LEAST_OVERLAP = 0.5
# Voxels this much larger or smaller than the model's are another problem than it was trained on.
MOST_RATIO = 2.0
# The T1's `tail` is this many times the T2's only if the two are exchanged.
SURELY = 1.5
# The `tail` of T2: 3.8 to 7.2 on ten real ones, 4.8 on a phantom; of FLAIR, PD and DIR up to 1.1.
LEAST_T2_TAIL = 2.0
COARSE = 3.0  # mm
HIGHEST = 1e15  # sums of the squares of larger values do not fit into 32 bits
FEW = 10_000  # voxels, all of which are looked at
# mm below the head's surface at which there is brain and fluid and no scalp.
DEPTH = 22.0


def check_volumes(
    volumes: Mapping[str, Volume], voxel_size: tuple[float, float, float] | None = None
) -> list[Finding]:
    """Returns what is wrong with the scans of a session, those that stop it first.

    Args:
      volumes: sequence -> scan, on grids of their own or on one.
      voxel_size: mm, of the model's training images; None if there is no model.
    """
    found: list[Finding] = []
    for name, volume in volumes.items():
        found += _check_one(name, volume)
    if voxel_size is not None:
        found += _check_resolution(volumes, voxel_size)
    stopped = {finding.sequence for finding in found if finding.severity == "stop"}
    usable = {name: subsample(v, COARSE) for name, v in volumes.items() if name not in stopped}
    for name, some in usable.items():
        whole = volumes[name]
        found += check_intensities(name, whole, whole if whole.array.size <= FEW else some)
    found += check_copies(usable)
    found += _check_overlap(volumes)
    found += _check_extent(usable)
    found += _check_contrast(usable)
    return sorted(found, key=lambda finding: finding.severity != "stop")


def _check_one(name: str, volume: Volume) -> list[Finding]:
    found = []
    shape, size = volume.geometry.shape, volume.geometry.voxel_size
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        return [Finding("stop", name, f"every voxel is {low:g}; replace the image")]
    if max(-low, high) > HIGHEST:
        what = f"has values up to {max(-low, high):.3g}, which no scanner makes; convert it again"
        return [Finding("stop", name, what)]
    if min(shape) < FEWEST_SLICES:
        grid = "×".join(map(str, shape))
        found.append(
            Finding("stop", name, f"has {grid} voxels, no volume; give the whole stack of slices")
        )
    extent = np.array(shape) * np.array(size)
    if not LEAST_VIEW <= extent.max() <= MOST_VIEW:
        view = "×".join(f"{edge:.3g}" for edge in extent)
        what = "its header's voxel size or unit (xyzt_units) is wrong, so write it anew"
        return [Finding("stop", name, f"shows {view} mm, which is no head's size; {what}")]
    if min(shape) >= FEWEST_SLICES and extent.min() < LOWEST_SLAB:
        found.append(
            Finding(
                "warn", name, f"reaches over {extent.min():.0f} mm only, less than a brain is high"
            )
        )
    return found


def _check_resolution(
    volumes: Mapping[str, Volume], voxel_size: tuple[float, float, float]
) -> list[Finding]:
    """Warns of scans that are coarser than what a model learnt from, or all of them finer.

    One that is finer is averaged over the voxels of the reference; if all are, so is the reference.
    """
    ratios = {n: np.sort(v.geometry.voxel_size) / np.sort(voxel_size) for n, v in volumes.items()}
    all_finer = all(ratio.min() < 1 / MOST_RATIO for ratio in ratios.values())
    theirs = "×".join(f"{edge:.2g}" for edge in voxel_size)
    found = []
    for name, ratio in ratios.items():
        if all_finer or ratio.max() > MOST_RATIO:
            own = "×".join(f"{edge:.2g}" for edge in volumes[name].geometry.voxel_size)
            what = f"has voxels of {own} mm, the model learnt from {theirs} mm"
            found.append(Finding("warn", name, what))
    return found


def _corners(geometry: Geometry) -> Array:
    """Returns the centres of a grid of blocks that fills the field of view, world mm [n, 3]."""
    axes = [(np.arange(12) + 0.5) / 12 * n - 0.5 for n in geometry.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]


def _inside(points: Array, geometry: Geometry) -> Array:
    back = np.linalg.inv(geometry.affine)
    index = points @ back[:3, :3].T + back[:3, 3]
    return np.all((index > -0.5) & (index < np.array(geometry.shape) - 0.5), axis=1)


def _check_overlap(volumes: Mapping[str, Volume]) -> list[Finding]:
    found = []
    for (one, a), (other, b) in combinations(volumes.items(), 2):
        shared = max(
            float(_inside(_corners(a.geometry), b.geometry).mean()),
            float(_inside(_corners(b.geometry), a.geometry).mean()),
        )
        if shared == 0:
            found.append(
                Finding(
                    "stop",
                    other,
                    f"does not overlap with the {one}; check that both are of one session and that "
                    "their headers are right",
                )
            )
        elif shared < LEAST_OVERLAP:
            found.append(
                Finding("warn", other, f"overlaps with the {one} in {100 * shared:.0f} % only")
            )
    return found


def _check_extent(volumes: Mapping[str, Volume]) -> list[Finding]:
    """Finds images of a brain among images of a head, by how wide they are slice for slice.

    Only what is exactly zero nearly everywhere can have been extracted: how much of a head's fat
    shows differs from sequence to sequence, and air has noise.
    """
    areas = {name: _area(volume, _support(volume)) for name, volume in volumes.items()}
    widest = max(areas, key=areas.__getitem__, default="")
    return [
        Finding(
            "stop",
            name,
            f"shows a brain where the {widest} shows a head; give all with the skull, or all "
            "without",
        )
        for name, volume in volumes.items()
        if areas[name] < SAME_EXTENT * areas[widest] and (volume.array == 0).mean() > MOST_ZEROS
    ]


def _support(volume: Volume) -> Array:
    """Returns where an image is not zero, or, if that is nearly everywhere, not air."""
    if (volume.array == 0).mean() > MOST_ZEROS:
        shown = volume.array != 0
    else:
        shown = volume.array > threshold_triangle(volume.array.astype(np.float64))
    return ndimage.binary_opening(np.asarray(ndimage.binary_fill_holes(shown)))


def _area(volume: Volume, shown: Array) -> float:
    """Returns the area of a large axial section, mm²."""
    axis = int(np.argmax(np.abs(volume.geometry.affine[2, :3])))
    size = volume.geometry.voxel_size
    sections = shown.sum(axis=tuple(k for k in range(3) if k != axis))
    return float(np.percentile(sections, 80) * np.prod(size) / size[axis])


def tail(volume: Volume) -> float:
    """Returns how far the brightest tissue deep in a head stands out, against the darkest.

    Fluid is far the brightest on T2 and far the darkest on T1. On four raw and two extracted real
    sessions it was 4 to 7 on T2 and 0.2 to 0.4 on T1; on heads with much fat deep below the skin,
    as the phantom has, up to 2.7 on T1.
    """
    size = volume.geometry.voxel_size
    bright = volume.array > 0.5 * threshold_otsu(volume.array.astype(np.float64))
    head = np.asarray(ndimage.binary_fill_holes(bright), bool)
    depth = np.asarray(ndimage.distance_transform_edt(head, sampling=size))
    deep = volume.array[depth > min(DEPTH, 0.5 * float(depth.max()))]
    low, middle, high = np.percentile(deep, (2, 50, 98))
    return float((high - middle) / max(middle - low, 1e-6 * abs(high), 1e-30))


def _extent(volume: Volume | None) -> float:
    """Returns the shortest edge of a field of view, mm; 0 for none."""
    if volume is None:
        return 0.0
    return float((np.array(volume.geometry.shape) * volume.geometry.voxel_size).min())


def _check_contrast(volumes: Mapping[str, Volume]) -> list[Finding]:
    tails = {name: tail(volume) for name, volume in volumes.items() if name in ("T1", "T2")}
    if len(tails) == 2 and tails["T1"] >= SURELY * tails["T2"]:
        return [
            Finding(
                "stop",
                name,
                f"looks like a {other}: fluid is {how} on a {name}, against the {other}; exchange "
                "the two files",
            )
            for name, other, how in (("T1", "T2", "darkest"), ("T2", "T1", "brightest"))
        ]
    if _extent(volumes.get("T2")) >= LOWEST_SLAB and tails["T2"] < LEAST_T2_TAIL:
        what = (
            "does not look like a T2, on which fluid is far brighter than tissue, but like a "
            "FLAIR, PD, DIR or T1; give the T2"
        )
        return [Finding("stop", "T2", what)]
    return []
