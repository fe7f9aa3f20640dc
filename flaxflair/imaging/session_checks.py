"""Checks of the scans of a session before any computation.

Finds errors that make a session unusable or its synthetic FLAIR unreliable. Independent of files
and networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu, threshold_triangle

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.intensity_checks import check_copies, check_intensities
from flaxflair.imaging.resampling import subsample

# Minimum ratio of the axial areas of two sequences that both show the head, or both the brain.
SAME_EXTENT = 0.75
# Maximum share of voxels that are exactly zero in a scan of a head; extracted brains have more.
MOST_ZEROS = 0.7
# Minimum number of slices, and minimum height of a brain in mm.
FEWEST_SLICES, LOWEST_SLAB = 5, 60.0
# Range of the longest edge of a field of view, mm; beyond it, the header has another unit.
LEAST_VIEW, MOST_VIEW = 5.0, 1000.0
# Minimum overlap of two sequences, as a share of the smaller field of view.
LEAST_OVERLAP = 0.5
# Maximum ratio of voxel edges to those of the training images, or its inverse.
MOST_RATIO = 2.0
# Minimum ratio of the T1's `fluid_contrast` to the T2's at which the two are exchanged.
EXCHANGED_RATIO = 1.5
# Minimum `fluid_contrast` of T2. Measured: 3.8 to 7.2 (ten real T2), 4.8 (phantom); at most 1.1
# (FLAIR, PD and DIR).
LEAST_T2_CONTRAST = 2.0
COARSE = 3.0  # sampling distance in mm
HIGHEST = 1e15  # sums of squares of larger values overflow float32
FEW = 10_000  # images of at most this many voxels are not subsampled
# Depth below the head's surface beyond which there is brain and fluid but no scalp, mm.
DEPTH = 22.0


def check_volumes(
    volumes: Mapping[str, Volume], voxel_size: tuple[float, float, float] | None = None
) -> list[Finding]:
    """Checks the scans of a session.

    Args:
      volumes: sequence -> scan, on any grids.
      voxel_size: of the model's training images, mm; None without a model.

    Returns:
      The findings, those that stop the session first.
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
        what = f"has values up to {max(-low, high):.3g}, beyond any scanner's; convert it again"
        return [Finding("stop", name, what)]
    if min(shape) < FEWEST_SLICES:
        grid = "×".join(map(str, shape))
        found.append(
            Finding("stop", name, f"has only {grid} voxels; give the whole stack of slices")
        )
    extent = np.array(shape) * np.array(size)
    if not LEAST_VIEW <= extent.max() <= MOST_VIEW:
        view = "×".join(f"{edge:.3g}" for edge in extent)
        what = "correct the voxel size or unit (xyzt_units) in its header"
        return [Finding("stop", name, f"covers {view} mm, which is not the size of a head; {what}")]
    if min(shape) >= FEWEST_SLICES and extent.min() < LOWEST_SLAB:
        found.append(
            Finding(
                "warn", name, f"covers only {extent.min():.0f} mm, less than the height of a brain"
            )
        )
    return found


def _check_resolution(
    volumes: Mapping[str, Volume], voxel_size: tuple[float, float, float]
) -> list[Finding]:
    """Warns of voxels coarser than the training images', or finer in all scans.

    A single finer scan is no problem: it is averaged over the voxels of the reference.
    """
    ratios = {n: np.sort(v.geometry.voxel_size) / np.sort(voxel_size) for n, v in volumes.items()}
    all_finer = all(ratio.min() < 1 / MOST_RATIO for ratio in ratios.values())
    trained_size = "×".join(f"{edge:.2g}" for edge in voxel_size)
    found = []
    for name, ratio in ratios.items():
        if all_finer or ratio.max() > MOST_RATIO:
            found_size = "×".join(f"{edge:.2g}" for edge in volumes[name].geometry.voxel_size)
            what = f"has voxels of {found_size} mm; the model was trained on {trained_size} mm"
            found.append(Finding("warn", name, what))
    return found


def _sample_points(geometry: Geometry) -> Array:
    """Returns points on a regular grid in the field of view, float64[n, 3], world mm."""
    axes = [(np.arange(12) + 0.5) / 12 * n - 0.5 for n in geometry.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]


def _is_inside(points: Array, geometry: Geometry) -> Array:
    back = np.linalg.inv(geometry.affine)
    index = points @ back[:3, :3].T + back[:3, 3]
    return np.all((index > -0.5) & (index < np.array(geometry.shape) - 0.5), axis=1)


def _check_overlap(volumes: Mapping[str, Volume]) -> list[Finding]:
    found = []
    for (one, a), (other, b) in combinations(volumes.items(), 2):
        shared = max(
            float(_is_inside(_sample_points(a.geometry), b.geometry).mean()),
            float(_is_inside(_sample_points(b.geometry), a.geometry).mean()),
        )
        if shared == 0:
            found.append(
                Finding(
                    "stop",
                    other,
                    f"does not overlap with the {one}; check that both are of one session and that "
                    "their headers are correct",
                )
            )
        elif shared < LEAST_OVERLAP:
            found.append(
                Finding("warn", other, f"overlaps with the {one} by only {100 * shared:.0f} %")
            )
    return found


def _check_extent(volumes: Mapping[str, Volume]) -> list[Finding]:
    """Finds extracted brains among images of heads, by the area of axial sections.

    Only images that are mostly exactly zero are candidates, since the visible area of a head
    depends on the sequence (fat), and air has noise.
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
    """Returns the foreground, bool[x, y, z]: nonzero voxels if most are zero, otherwise non-air."""
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


def fluid_contrast(volume: Volume) -> float:
    """Returns the skew of intensities deep in the head: (p98 - p50) / (p50 - p2).

    Fluid is by far the brightest on T2 and the darkest on T1. Measured on four raw and two
    brain-extracted real sessions: 4 to 7 on T2 and 0.2 to 0.4 on T1; up to 2.7 on T1 of heads with
    much fat deep below the skin, such as the phantom's.
    """
    size = volume.geometry.voxel_size
    bright = volume.array > 0.5 * threshold_otsu(volume.array.astype(np.float64))
    head = np.asarray(ndimage.binary_fill_holes(bright), bool)
    depth = np.asarray(ndimage.distance_transform_edt(head, sampling=size))
    deep = volume.array[depth > min(DEPTH, 0.5 * float(depth.max()))]
    low, middle, high = np.percentile(deep, (2, 50, 98))
    return float((high - middle) / max(middle - low, 1e-6 * abs(high), 1e-30))


def _extent(volume: Volume | None) -> float:
    """Returns the shortest edge of the field of view, mm; 0 without a volume."""
    if volume is None:
        return 0.0
    return float((np.array(volume.geometry.shape) * volume.geometry.voxel_size).min())


def _check_contrast(volumes: Mapping[str, Volume]) -> list[Finding]:
    contrasts = {
        name: fluid_contrast(volume) for name, volume in volumes.items() if name in ("T1", "T2")
    }
    if len(contrasts) == 2 and contrasts["T1"] >= EXCHANGED_RATIO * contrasts["T2"]:
        return [
            Finding(
                "stop",
                name,
                f"looks like a {other}: fluid is {level} on a {name}, unlike on a {other}; "
                "exchange the two files",
            )
            for name, other, level in (("T1", "T2", "darkest"), ("T2", "T1", "brightest"))
        ]
    if _extent(volumes.get("T2")) >= LOWEST_SLAB and contrasts["T2"] < LEAST_T2_CONTRAST:
        what = (
            "does not look like a T2, on which fluid is far brighter than tissue, but like a "
            "FLAIR, PD, DIR or T1; give the T2"
        )
        return [Finding("stop", "T2", what)]
    return []
