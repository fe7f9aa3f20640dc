"""Rule-based segmentation of white-matter lesions from a FLAIR and a T1, without training.

True and synthetic FLAIRs are segmented by the same rule, to measure how well a synthesis preserves
lesions. Independent of files, networks and the phantom's truth. Cortical lesions, and lesions
darker than grey matter, are not detected.

The threshold follows Souplet et al. 2008: the mode of grey matter plus a multiple of its spread. A
single threshold misses faint lesions or includes cortex, so each connected component at each of
`LEVELS` is classified by its rim: lesions are surrounded by white matter, cortex is not (compare
Roura et al. 2015), and brighter components need less white matter. The T1 within a component is
ignored, as lesions look like grey matter there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, InputError
from flaxflair.evaluation import metrics
from flaxflair.imaging.tissue import tissue_thresholds

# Thresholds, in spreads of grey matter above its mode.
LEVELS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0)
# Minimum share of the rim in white matter, for any brightness.
LEAST_WHITE = 0.2
# A component with more of its rim in fluid or outside the brain is choroid plexus, vessel or
# meninges.
MOST_FLUID = 0.3
# Quantile of a component's voxels that is taken as its peak.
PEAK_SHARE = 0.95
SMOOTHING_MM = 0.7
RIM_MM = 2.0
# May be less than one voxel, unlike the rim: on a coarse grid, one would double a small lesion.
REACH_MM = 2.0
SURROUND_MM = 15.0
# For normal values, the SD is 1.4826 times the median absolute deviation.
MAD_TO_SD = 1.4826
FWHM_TO_SD = 2 * (2 * np.log(2)) ** 0.5
TOUCHING = np.ones((3, 3, 3), bool)

VoxelSize = tuple[float, float, float]


@dataclass(frozen=True)
class SegmentationConfig:
    """Parameters of the segmentation.

    The defaults had the best weighted Dice of a patient with 1.3 mL of lesions (0.40), the same
    patient with 17 to 45 mL of lesions simulated from other patients' masks (0.64), and phantoms of
    3.6 mm (0.64) and 1.8×1.8×3 mm voxels (0.67). Half of the voxels segmented in the first are
    hyperintensity around the aqueduct, which is not a lesion.

    Attributes:
      seed: spreads above grey matter's mode that the brightest voxel of a component reaches.
      white: share of a component's rim that is white matter, for a component at the lowest
        level; in [0, 1].
      relief: decrease of `white` per spread by which a component's level is higher.
      edge: intensity of a lesion's boundary, from 0 (surrounding white matter) to 1 (its peak).
      volume: minimum volume of a lesion, mm³.
    """

    seed: float = 2.5
    white: float = 0.8
    relief: float = 0.125
    edge: float = 0.55
    volume: float = 10.0

    def __post_init__(self) -> None:
        for name in ("white", "edge"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share between 0 and 1")
        if self.volume < 0:
            raise ValueError(f"volume is {self.volume} mm³; give zero or more")


@dataclass(frozen=True)
class Case:
    """One scan with its lesion mask, for the choice of parameters.

    Attributes:
      flair: [x, y, z], in any unit.
      t1: [x, y, z], in any unit.
      brain: bool[x, y, z].
      voxel_size: edge lengths in mm.
      lesion: bool[x, y, z], the truth.
      weight: of its Dice in the mean.
    """

    flair: Array = field(repr=False)
    t1: Array = field(repr=False)
    brain: Array = field(repr=False)
    voxel_size: VoxelSize
    lesion: Array = field(repr=False)
    weight: float = 1.0


def segment(
    flair: Array,
    t1: Array,
    brain: Array,
    voxel_size: VoxelSize,
    config: SegmentationConfig | None = None,
) -> Array:
    """Returns a lesion mask, bool[x, y, z], invariant to the scale of the FLAIR and of the T1.

    The mask is empty if the T1 does not have three tissue classes, or the FLAIR does not vary in
    grey matter.

    Args:
      flair: [x, y, z], in any unit, true or synthetic.
      t1: [x, y, z], in any unit, inhomogeneity-corrected.
      brain: bool[x, y, z].
      voxel_size: edge lengths in mm. Distances are in mm, but at least one voxel.
      config: parameters; the defaults if None.

    Raises:
      InputError: the shapes differ.
    """
    mask = np.zeros(brain.shape, bool)
    evidence = _extract_evidence(flair, t1, brain, voxel_size)
    if evidence is not None:
        mask[evidence.box] = _classify(evidence, config or SegmentationConfig())
    return mask


def tune(
    cases: Sequence[Case],
    grid: Mapping[str, Sequence[float]],
    start: SegmentationConfig | None = None,
) -> SegmentationConfig:
    """Chooses the parameters with the highest weighted mean Dice over training cases.

    Coordinate search: each parameter in turn, in the order of the grid, is set to its best value
    while the others are fixed (the first of equals), until a whole round changes nothing.

    Args:
      cases: training cases; those without lesions in both truth and segmentation are ignored.
      grid: parameter -> values to try.
      start: initial parameters; the defaults if None.

    Raises:
      ValueError: a name in the grid is not a parameter.
    """
    if unknown := sorted(set(grid) - {f.name for f in fields(SegmentationConfig)}):
        raise ValueError(f"{unknown[0]} is no parameter of a segmentation")
    extracted = [
        _extract_evidence(case.flair, case.t1, case.brain, case.voxel_size) for case in cases
    ]

    def mean_dice(config: SegmentationConfig) -> float:
        total = weight = 0.0
        for case, evidence in zip(cases, extracted, strict=True):
            mask = np.zeros(case.brain.shape, bool)
            if evidence is not None:
                mask[evidence.box] = _classify(evidence, config)
            overlap = metrics.dice(mask, case.lesion)
            if np.isfinite(overlap):
                total, weight = total + case.weight * overlap, weight + case.weight
        return total / weight if weight else 0.0

    best = start or SegmentationConfig()
    score, tried = mean_dice(best), set[SegmentationConfig]()
    while True:
        before = best
        for name, values in grid.items():
            for candidate in [replace(best, **{name: value}) for value in values]:
                if candidate in tried:
                    continue
                tried.add(candidate)
                if (found := mean_dice(candidate)) > score:
                    best, score = candidate, found
        if best == before:
            return best


@dataclass(frozen=True)
class _Level:
    """The connected components above a threshold; index 0 of per-component arrays is background.

    Attributes:
      threshold: spreads above grey matter's mode.
      voxels: voxels above the threshold, as flat indices into the box.
      owner: component of each of these voxels, from 1.
      peak: maximum brightness of each component.
      volume: volume of each component, mm³.
      white: share of each component's rim in white matter.
      fluid: share in fluid or outside the brain.
    """

    threshold: float
    voxels: Array
    owner: Array
    peak: Array
    volume: Array
    white: Array
    fluid: Array


@dataclass(frozen=True)
class _Evidence:
    """Candidates of a scan, independent of the parameters.

    Attributes:
      box: bounding box of the arrays in the volume.
      brightness: float[x, y, z], the FLAIR in grey matter's spreads above its mode.
      around: float[x, y, z], the same of white matter nearby.
      levels: components, by increasing threshold.
      voxel_size: in mm.
    """

    box: tuple[slice, ...]
    brightness: Array
    around: Array
    levels: tuple[_Level, ...]
    voxel_size: VoxelSize


def _extract_evidence(
    flair: Array, t1: Array, brain: Array, voxel_size: VoxelSize
) -> _Evidence | None:
    """Returns the evidence, or None if the scan cannot be segmented."""
    for name, image in {"T1": t1, "brain mask": brain}.items():
        if image.shape != flair.shape:
            raise InputError(f"the {name} is {image.shape} and the FLAIR {flair.shape} voxels")
    box = next(iter(ndimage.find_objects(brain.astype(np.int8))), None)
    if box is None:
        return None
    brain, t1 = brain[box], t1[box]
    thresholds = tissue_thresholds(t1, brain)
    if thresholds is None:
        return None
    lower, upper = thresholds
    fluid, grey, white = t1 <= lower, brain & (t1 > lower) & (t1 <= upper), brain & (t1 > upper)

    smooth = _smooth(flair[box], brain, voxel_size, SMOOTHING_MM)
    level, spread = _mode(smooth[grey])
    if not spread > 0:
        return None
    brightness = np.where(brain, (smooth - level) / spread, -np.inf)
    usual, variation = _robust_stats(brightness[white])
    normal = white & (np.abs(brightness - usual) <= 2.5 * variation)
    around = usual + _smooth(brightness - usual, normal, voxel_size, SURROUND_MM)
    fluid |= ~brain
    levels = tuple(
        _components(brightness, white, fluid, threshold, voxel_size)
        for threshold in LEVELS
        if (brightness > threshold).any()
    )
    return _Evidence(box, brightness, around, levels, voxel_size)


def _components(
    brightness: Array, white: Array, fluid: Array, threshold: float, voxel_size: VoxelSize
) -> _Level:
    """Finds the components above a threshold, and the tissue shares of their rims."""
    labels, count = label_components(brightness > threshold)
    distance, nearest = nearest_voxels(labels == 0, voxel_size)
    rim = (distance > 0) & (distance <= max(RIM_MM, 1.001 * max(voxel_size)))
    owner = labels[tuple(axis[rim] for axis in nearest)]

    def share(tissue: Array) -> Array:
        part = np.bincount(owner, weights=tissue[rim], minlength=count + 1)
        return part / np.maximum(np.bincount(owner, minlength=count + 1), 1)

    voxels = np.flatnonzero(labels)
    label_of = labels.ravel()[voxels]
    peak = np.full(count + 1, -np.inf)
    np.maximum.at(peak, label_of, brightness.ravel()[voxels])
    volume = np.bincount(label_of, minlength=count + 1) * np.prod(voxel_size)
    return _Level(threshold, voxels, label_of, peak, volume, share(white), share(fluid))


def _classify(evidence: _Evidence, config: SegmentationConfig) -> Array:
    """Returns the lesions in the evidence's box."""
    brightness = evidence.brightness
    accepted = np.zeros(brightness.shape, bool)
    for level in evidence.levels:
        needed = config.white - config.relief * (level.threshold - LEVELS[0])
        lesion = (
            (level.peak >= config.seed)
            & (level.volume >= config.volume)
            & (level.white >= max(LEAST_WHITE, needed))
            & (level.fluid <= MOST_FLUID)
        )
        accepted.flat[level.voxels[lesion[level.owner]]] = True
    if not accepted.any():
        return accepted
    # A scan blurs a lesion's border, which therefore is at an intensity between peak and white
    # matter; it may be outside the component, if at a lower level the lesion merged with cortex.
    labels, count = label_components(accepted)
    _, nearest = nearest_voxels(~accepted, evidence.voxel_size)
    owner = labels[tuple(nearest)]
    peak = _peaks(brightness[accepted], labels[accepted], count)[owner]
    height = brightness - evidence.around
    high = height >= config.edge * (peak - evidence.around)
    lesion = high & accepted
    distance, _ = nearest_voxels(~lesion, evidence.voxel_size)
    lesion |= high & (distance <= REACH_MM)
    labels, _ = label_components(lesion)
    volume = np.bincount(labels.ravel()) * np.prod(evidence.voxel_size)
    return lesion & (volume >= config.volume)[labels]


def _peaks(brightness: Array, owner: Array, count: int) -> Array:
    """Returns the `PEAK_SHARE` quantile of each component's brightness; index 0 is background."""
    order = np.lexsort((brightness, owner))
    size = np.bincount(owner, minlength=count + 1)
    first = np.cumsum(size) - size
    chosen = first[1:] + (PEAK_SHARE * (size[1:] - 1)).astype(int)
    return np.concatenate([[0.0], brightness[order][chosen]])


def _smooth(image: Array, region: Array, voxel_size: VoxelSize, millimetres: float) -> Array:
    """Returns the Gaussian mean of an image's voxels in a region; zero far from all of them."""
    sigma = [millimetres / edge for edge in voxel_size]
    weight = ndimage.gaussian_filter(region.astype(np.float64), sigma)
    total = ndimage.gaussian_filter(np.where(region, image, 0).astype(np.float64), sigma)
    return total / np.maximum(weight, 1e-3)


def _robust_stats(values: Array) -> tuple[float, float]:
    """Returns the median, and a spread that equals the SD of normal values; NaN of no value."""
    if not values.size:
        return float("nan"), float("nan")
    median = float(np.median(values))
    return median, float(MAD_TO_SD * np.median(np.abs(values - median)))


def _mode(values: Array) -> tuple[float, float]:
    """Returns the mode, and the SD that normal values of the same width at half maximum have.

    As in Souplet et al. 2008: the T1's grey-matter class includes lesions and, with atrophy, more
    and more fluid; neither affects the peak of the histogram or its width there.
    """
    median, spread = _robust_stats(values)
    if not spread > 0:
        return median, spread
    count, edges = np.histogram(values, 200, (median - 4 * spread, median + 4 * spread))
    smooth = ndimage.gaussian_filter1d(count.astype(np.float64), 4)
    top = int(np.argmax(smooth))
    low = np.flatnonzero(smooth < smooth[top] / 2)
    first, last = low[low < top].max(initial=-1) + 1, low[low > top].min(initial=len(count)) - 1
    width = edges[last + 1] - edges[first]
    return float((edges[top] + edges[top + 1]) / 2), float(width / FWHM_TO_SD)


def label_components(mask: Array) -> tuple[Array, int]:
    """Returns the components of a mask whose voxels touch, int32 from 1, and their number."""
    labels, count = np.empty(mask.shape, np.int32), 0
    count = int(ndimage.label(mask, TOUCHING, output=labels))  # pyright: ignore[reportArgumentType]
    return labels, count


def nearest_voxels(outside: Array, voxel_size: VoxelSize) -> tuple[Array, Array]:
    """Returns each voxel's distance in mm to the nearest that is not outside, and its indices."""
    distance = np.empty(outside.shape, np.float64)
    indices = np.empty((3, *outside.shape), np.int32)
    ndimage.distance_transform_edt(
        outside, voxel_size, return_indices=True, distances=distance, indices=indices
    )
    return distance, indices
