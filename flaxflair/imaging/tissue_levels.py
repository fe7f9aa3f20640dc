"""Tissue levels: the intensities of fluid, grey and white matter in each sequence of a session.

`fit_tissue_levels` estimates them jointly from all sequences, using intensities and the depth below
the brain's surface. `to_standard` maps an image piecewise linearly so that its levels become those
of `STANDARD`, and `from_standard` is its inverse. Independent of files, registration and networks.

Model: a Gaussian mixture of three pure tissues and of their partial volumes, whose means lie on
lines between the three levels (Santago and Gage, IEEE Trans. Med. Imaging 12:566, 1993), and a
uniform component for everything else: lesions, vessels, meninges. It is fitted by expectation
maximisation (Dempster et al., J. R. Stat. Soc. B 39:1, 1977) to a fixed number of voxels, sampled
evenly from the brain. The prior probability of a tissue at a depth is that of the ICBM152 maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, InputError, strides
from flaxflair.imaging.landmarks import match_landmarks

TISSUES = ("fluid", "grey", "white")


@dataclass(frozen=True)
class Levels:
    """Intensity of the pure tissues in one sequence, in units of the image.

    Attributes:
      fluid: cerebrospinal fluid.
      grey: cortical grey matter.
      white: white matter without lesions.
    """

    fluid: float
    grey: float
    white: float


@dataclass(frozen=True)
class Contrast:
    """Tissue contrast of a pulse sequence.

    Attributes:
      standard: levels of standardised images.
      order: tissues whose levels are landmarks of the sequence, darkest first. Fluid is omitted if
        its rank among the tissues depends on the timing.
      spread: SD of fluid and of the third tissue among scanners, relative to their level.
      start: percentiles of the brain's intensities at which fluid, grey and white are initialised.
      reference: tissue relative to which the others are given, `grey` or `white`.
    """

    standard: Levels
    order: tuple[str, ...]
    spread: tuple[float, float]
    start: tuple[float, float, float]
    reference: str = "white"


# T1, T2 and FLAIR: rounded means over eleven real sessions of eight patients (3D at 1 mm, 2D at 3
# and 4 mm), in eroded classes of an atlas-based segmentation (ANTs Atropos); see
# `docs/normalization.md`. T1SE, PD and DIR: spin-echo and double-inversion signals at 3 T, see the
# phantom; for DIR, the residual signal of the two nulled tissues.
CONTRASTS: Mapping[str, Contrast] = {
    "T1": Contrast(Levels(0.34, 0.77, 1.0), TISSUES, (0.30, 0.12), (4, 35, 78)),
    "T1SE": Contrast(Levels(0.45, 0.84, 1.0), TISSUES, (0.25, 0.06), (4, 35, 78)),
    "T2": Contrast(Levels(3.0, 1.44, 1.0), ("white", "grey", "fluid"), (0.20, 0.10), (97, 65, 25)),
    "PD": Contrast(Levels(1.2, 1.20, 1.0), ("white", "grey"), (0.12, 0.05), (80, 70, 20)),
    "DIR": Contrast(
        Levels(0.15, 1.0, 0.15), ("white", "grey"), (0.50, 0.50), (12, 75, 15), reference="grey"
    ),
    "FLAIR": Contrast(
        Levels(0.31, 1.21, 1.0), ("fluid", "white", "grey"), (0.50, 0.07), (3, 75, 35)
    ),
}
STANDARD: Mapping[str, Levels] = {name: each.standard for name, each in CONTRASTS.items()}

VOXELS = 15_000  # maximum number of voxels of a fit
_RIM = 3.0  # voxels at most this deep (mm) are excluded: meninges, errors of the mask
_STEPS = 40
_TOLERANCE = 1e-3  # change of a level at which the iteration ends
_FAINTEST = 0.04  # minimum level of a tissue relative to the brightest, for noise
# Minimum gap between two landmarks relative to the standard gap: noise is at most doubled.
_LEAST_GAP = 0.5
_OUTLIERS = 0.03  # prior share of voxels that are no tissue
_EXTENT = (33.5, 40.7, 31.5)  # SD of x, y, z in the brain of the ICBM152 template, mm
# Weight of the prior covariance (noise) of each tissue, as a share of the voxels. Pure fluid is
# rare: its class would otherwise spread over meninges and dark vessels.
_COVARIANCE_PRIOR = (0.05, 0.01, 0.01)
_PRIOR = 0.02  # weight of `CONTRASTS` relative to the voxels, which are spatially correlated

# Share of fluid and white matter by depth (mm) below the brain's surface: ICBM152 maps of nilearn.
_DEPTH = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 7, 9, 11, 13.5, 17.5, 22.5, 27.5, 32.5, 37.5, 42.5, 47.5)
_FLUID = (
    *(0.656, 0.361, 0.181, 0.117, 0.094, 0.085, 0.080, 0.077, 0.070),
    *(0.063, 0.058, 0.056, 0.069, 0.087, 0.112, 0.158, 0.216),
)
_WHITE = (
    *(0.009, 0.030, 0.065, 0.105, 0.172, 0.235, 0.279, 0.319, 0.359),
    *(0.404, 0.467, 0.516, 0.513, 0.517, 0.541, 0.547, 0.547),
)

# Components of the mixture: shares of fluid, grey and white, and the range of shares covered by
# each.
_SHARES = np.array(
    [[3, 0, 0], [0, 3, 0], [0, 0, 3], [0, 1.5, 1.5], [2, 1, 0], [1, 2, 0], [2, 0, 1], [1, 0, 2]]
) / 3  # fmt: skip
_RANGE = (0, 0, 0, 0.5, 1 / 3, 1 / 3, 1 / 3, 1 / 3)
_PURE = 3


@dataclass(frozen=True)
class TissueLevels:
    """Tissue levels of one session.

    Attributes:
      levels: sequence -> levels, in the order of the channels.
    """

    levels: Mapping[str, Levels]

    def __getitem__(self, sequence: str) -> Levels:
        """Returns the levels of a sequence."""
        return self.levels[sequence]


def fit_tissue_levels(
    images: Array,
    sequences: Sequence[str],
    brain: Array,
    voxel_size: tuple[float, float, float] | None = None,
    *,
    voxels: int = VOXELS,
) -> TissueLevels:
    """Estimates the levels of fluid, grey and white matter jointly in all sequences.

    Args:
      images: [x, y, z, m], bias-corrected intensities, zero outside the field of view.
      sequences: names of the m channels, keys of `CONTRASTS`.
      brain: bool[x, y, z].
      voxel_size: mm; None for the size at which the brain has the template's extent on each axis.
      voxels: maximum number of voxels of the fit.

    Raises:
      InputError: the brain has fewer than 100 voxels with a positive signal in all sequences, or a
        sequence has no contrast.
      ValueError: the number of names is not the number of channels.
    """
    if images.shape[-1] != len(sequences):
        raise ValueError(f"{images.shape[-1]} channels and {len(sequences)} names of sequences")
    values, depth = _draw_voxels(images, brain, voxel_size or _guess_voxel_size(brain), voxels)
    if len(values) < 100:
        raise InputError(
            f"the brain has {len(values)} voxels with a positive signal in {', '.join(sequences)}; "
            "at least 100 are needed to estimate tissue levels: give unprocessed intensities and "
            "a mask of the brain"
        )
    scale = np.median(values, axis=0)
    contrasts = [CONTRASTS[name] for name in sequences]
    flat = np.ptp(np.percentile(values / scale, (5, 95), axis=0), axis=0) < 0.01
    if flat.any():
        name = sequences[int(np.argmax(flat))]
        raise InputError(f"the {name} has no contrast in the brain; give unprocessed intensities")
    found = _fit_mixture(values / scale, _mixing_prior(depth), contrasts)
    found = (found * scale).T
    return TissueLevels(
        {name: separate_levels(row, name) for name, row in zip(sequences, found, strict=True)}
    )


def to_standard(image: Array, levels: Levels, sequence: str) -> Array:
    """Returns an image with tissue levels `STANDARD`; float32, of the same shape.

    The map is linear between 0 and the landmarks of the sequence, and extrapolated beyond them.

    Args:
      image: of any shape.
      levels: tissue levels of the image.
      sequence: sequence of the image, a key of `CONTRASTS`.
    """
    return match_landmarks(image, landmarks(levels, sequence), standard_landmarks(sequence))


def from_standard(image: Array, levels: Levels, sequence: str) -> Array:
    """Undoes `to_standard`."""
    return match_landmarks(image, standard_landmarks(sequence), landmarks(levels, sequence))


def separate_levels(levels: Sequence[float] | Array, sequence: str) -> Levels:
    """Returns levels with minimum gaps between the landmarks, in the order of the sequence.

    Args:
      levels: of fluid, grey and white matter; any positive values.
      sequence: sequence, a key of `CONTRASTS`.
    """
    apart = np.maximum(levels, _FAINTEST * np.max(levels))
    contrast = CONTRASTS[sequence]
    order = [TISSUES.index(name) for name in contrast.order]
    standard = [getattr(contrast.standard, name) for name in TISSUES]
    scale = apart[TISSUES.index(contrast.reference)] / getattr(
        contrast.standard, contrast.reference
    )
    for darker, brighter in pairwise(order):
        gap = _LEAST_GAP * scale * (standard[brighter] - standard[darker])
        apart[brighter] = max(apart[brighter], apart[darker] + gap)
    fluid, grey, white = (float(value) for value in apart)
    return Levels(fluid, grey, white)


def landmarks(levels: Levels, sequence: str) -> Array:
    """Returns 0 and the levels that are landmarks of a sequence, float64[k], increasing."""
    return np.array([0.0, *(getattr(levels, name) for name in CONTRASTS[sequence].order)])


def standard_landmarks(sequence: str) -> Array:
    """Returns 0 and the landmarks of a sequence in `STANDARD`, float64[k], increasing."""
    return landmarks(STANDARD[sequence], sequence)


def _guess_voxel_size(brain: Array) -> tuple[float, float, float]:
    """Returns the voxel size in mm at which a brain has the extent of the template's."""
    mm = []
    for axis, extent in enumerate(_EXTENT):
        counts = brain.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        at = np.arange(len(counts))
        total = max(counts.sum(), 1.0)
        variance = (counts * (at - counts @ at / total) ** 2).sum() / total
        mm.append(extent / float(np.sqrt(variance + 1 / 12)))  # 1/12: variance within a voxel
    return mm[0], mm[1], mm[2]


def _draw_voxels(
    images: Array, brain: Array, voxel_size: tuple[float, float, float], voxels: int
) -> tuple[Array, Array]:
    """Samples voxels of the brain: intensities, float64[n, m], and depths in mm, float64[n]."""
    step = strides(voxel_size, 2.0)
    coarse = np.pad(brain[tuple(slice(s // 2, None, s) for s in step)], 1)
    spacing = [size * s for size, s in zip(voxel_size, step, strict=True)]
    below = np.asarray(ndimage.distance_transform_edt(coarse, sampling=spacing))
    inside = np.flatnonzero(brain)
    chosen = inside[np.linspace(0, inside.size - 1, min(voxels, inside.size)).astype(int)]
    at = np.unravel_index(chosen, brain.shape)
    # Voxels beyond the last coarse one are at the mask's edge: depth 0, in the padding.
    depth = below[tuple(i // s + 1 for i, s in zip(at, step, strict=True))]
    values = np.asarray(images[at], np.float64)
    usable = (values > 0).all(axis=1) & (depth > _RIM)
    return values[usable], depth[usable]


def _mixing_prior(depth: Array) -> Array:
    """Returns the prior of each component and of outliers at each depth, float64[k + 1, n]."""
    fluid, white = (np.interp(depth, _DEPTH, shares) for shares in (_FLUID, _WHITE))
    pure = np.stack([fluid, 1 - fluid - white, white])
    mixed = [2 * np.prod(pure[share > 0], axis=0) for share in _SHARES[_PURE:]]
    return np.stack([*pure, *mixed, np.full(len(depth), _OUTLIERS)])


def _fit_mixture(values: Array, prior: Array, contrasts: Sequence[Contrast]) -> Array:
    """Returns the levels, float64[3, m], of intensities, [n, m], with medians of 1."""
    channels = values.shape[1]
    start = [np.percentile(values[:, m], c.start) for m, c in enumerate(contrasts)]
    levels = np.stack(start, axis=1)
    low, high = np.percentile(values, (0.1, 99.9), axis=0)
    outlier = np.full((1, len(values)), -np.log(high - low).sum())
    noise = [np.diag((0.1 * np.maximum(row, 0.2)) ** 2) for row in levels]
    weight = np.ones(len(prior))
    for _ in range(_STEPS):
        covariances = _covariances(levels, noise)
        log = [
            _log_normal(values, mean, covariance)
            for mean, covariance in zip(_SHARES @ levels, covariances, strict=True)
        ]
        log = np.concatenate([np.stack(log), outlier + 0.5 * channels * np.log(2 * np.pi)])
        share = prior * weight[:, None]
        log += np.log(share / share.sum(axis=0))
        responsibilities = np.exp(log - log.max(axis=0))
        responsibilities /= responsibilities.sum(axis=0)
        expected = (prior / share.sum(axis=0)).sum(axis=1)
        weight = responsibilities.sum(axis=1) / expected
        weight = np.clip(weight / weight[2], 0.02, 5)
        previous, levels = (
            levels,
            _update_levels(values, responsibilities, covariances, levels, contrasts),
        )
        noise = _update_noise(values, responsibilities, levels)
        if np.abs(levels - previous).max() < _TOLERANCE:
            break
    return levels


def _covariances(levels: Array, noise: Sequence[Array]) -> list[Array]:
    """Returns each component's covariance, float64[m, m]: noise plus spread of its shares."""
    covariances = []
    for share, width in zip(_SHARES, _RANGE, strict=True):
        covariance = sum(part * each for part, each in zip(share, noise, strict=True))
        if width:
            first, second = levels[share > 0]
            covariance = covariance + np.outer(first - second, first - second) * width**2 / 12
        covariances.append(np.asarray(covariance))
    return covariances


def _log_normal(values: Array, mean: Array, covariance: Array) -> Array:
    """Returns the logarithm of a normal density up to a constant, float64[n]."""
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    deviation = (values - mean) @ root.T
    return -0.5 * np.einsum("nm,nm->n", deviation, deviation) + np.log(np.diag(root)).sum()


def _update_levels(
    values: Array,
    responsibilities: Array,
    covariances: Sequence[Array],
    levels: Array,
    contrasts: Sequence[Contrast],
) -> Array:
    """Returns levels by least squares over all components, with the prior of `CONTRASTS`."""
    counts = responsibilities[:-1].sum(axis=1)
    sums = responsibilities[:-1] @ values
    updated = np.empty_like(levels)
    for m, contrast in enumerate(contrasts):
        precision = 1 / np.array([covariance[m, m] for covariance in covariances])
        normal = (_SHARES * (counts * precision)[:, None]).T @ _SHARES
        moment = _SHARES.T @ (sums[:, m] * precision)
        standard = np.array([getattr(contrast.standard, name) for name in TISSUES])
        reference = TISSUES.index(contrast.reference)
        others = [tissue for tissue in (0, 1, 2) if tissue != reference]
        for tissue, spread in zip(others, contrast.spread, strict=True):
            ratio = standard[tissue] / standard[reference]
            row = np.zeros(3)
            row[tissue], row[reference] = 1, -ratio
            sd = spread * max(ratio, 0.3) * levels[reference, m]
            normal += np.outer(row, row) * _PRIOR * len(values) * 0.01 / sd**2
        updated[:, m] = np.linalg.solve(normal, moment)
    return np.maximum(updated, 0.005)


def _update_noise(values: Array, responsibilities: Array, levels: Array) -> list[Array]:
    """Returns each tissue's covariance, float64[m, m], with a prior of 8 % noise."""
    noise = []
    for level, prior, member in zip(
        levels, _COVARIANCE_PRIOR, responsibilities[:_PURE], strict=True
    ):
        deviation = values - level
        scatter = (deviation * member[:, None]).T @ deviation
        usual = np.diag((0.08 * np.maximum(level, 0.3)) ** 2)
        count = prior * len(values)
        noise.append((scatter + count * usual) / (member.sum() + count))
    return noise
