"""Tissue levels: the intensities of fluid, grey and white matter in each sequence of a session.

`fit_tissue_levels` finds them in all sequences together, from intensities and the depth below the
brain's surface; `to_standard` maps an image piecewise linearly so that its levels become those of
`STANDARD`, and `from_standard` undoes it. Knows nothing of files, registration or networks.

Model: a Gaussian mixture of three pure tissues and of their partial volumes, whose means lie on
lines between the three levels (Santago and Gage, IEEE Trans. Med. Imaging 12:566, 1993), and a
uniform component for whatever is no tissue: lesions, vessels, meninges. It is fitted by expectation
maximisation (Dempster et al., J. R. Stat. Soc. B 39:1, 1977) to a fixed number of voxels, evenly
taken from the brain. The share of a tissue at a depth is that of the ICBM152 maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, InputError, strides
from flaxflair.imaging.landmarks import bend

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
    """What a pulse sequence makes of the tissues.

    Attributes:
      standard: levels to which images are brought.
      order: tissues whose levels are landmarks of the sequence, darkest first. Fluid is none where
        it may be darker or brighter than another tissue, which depends on the timing.
      reference: the tissue that the others are compared with, `grey` or `white`.
      spread: SD of fluid and of the third tissue among scanners, as a share of their level.
      start: percentiles of the brain's intensities near fluid, grey and white.
    """

    standard: Levels
    order: tuple[str, ...]
    spread: tuple[float, float]
    start: tuple[float, float, float]
    reference: str = "white"


# T1, T2 and FLAIR: rounded means over eleven real sessions of eight patients (3D at 1 mm, 2D at 3
# and 4 mm), in eroded classes of an atlas-based segmentation (ANTs Atropos); see the page
# `docs/normalization.md`. T1SE, PD and DIR: spin-echo and double-inversion signals at 3 T, see the
# phantom; of a DIR, the residual signal of the two tissues that it nulls.
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

VOXELS = 15_000  # that a fit looks at
_RIM = 3.0  # mm below the mask's surface where meninges and errors of the mask are left out
_STEPS = 40
_TOLERANCE = 1e-3  # of a level, at which the steps end
_FAINTEST = 0.04  # level of a tissue as a share of the brightest: below, there is only noise
# Gap between two landmarks, at least so much of the standard one: noise is at most doubled.
_LEAST_GAP = 0.5
_OUTLIERS = 0.03  # share of voxels expected outside the tissues
_EXTENT = (33.5, 40.7, 31.5)  # SD of x, y, z in the brain of the ICBM152 template, mm
# Share of the voxels by which each tissue's covariance is held near that of noise. Pure fluid is
# rare: its class would otherwise spread over meninges and dark vessels.
_HELD = (0.05, 0.01, 0.01)
_PRIOR = 0.02  # weight of `CONTRASTS` against the voxels', of which neighbours say the same

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

# Components of the mixture: shares of fluid, grey and white, and the range of shares that each
# stands for.
_SHARES = np.array(
    [[3, 0, 0], [0, 3, 0], [0, 0, 3], [0, 1.5, 1.5], [2, 1, 0], [1, 2, 0], [2, 0, 1], [1, 0, 2]]
) / 3  # fmt: skip
_RANGE = (0, 0, 0, 0.5, 1 / 3, 1 / 3, 1 / 3, 1 / 3)
_PURE = 3


@dataclass(frozen=True)
class TissueLevels:
    """Levels of one session.

    Attributes:
      levels: sequence -> its levels, in the order of the channels.
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
) -> TissueLevels:
    """Returns the levels of fluid, grey and white matter in every sequence, found together.

    Args:
      images: [x, y, z, m], inhomogeneity-corrected intensities, zero where nothing was measured.
      sequences: names of the m channels, keys of `CONTRASTS`.
      brain: bool[x, y, z].
      voxel_size: in mm; None takes the brain to be as large as the template along every axis.

    Raises:
      InputError: the brain has too few voxels with a signal, or a sequence has no contrast.
      ValueError: there are not as many names as channels.
    """
    if images.shape[-1] != len(sequences):
        raise ValueError(f"{images.shape[-1]} channels and {len(sequences)} names of sequences")
    values, depth = _draw_voxels(images, brain, voxel_size or _guess_voxel_size(brain))
    if len(values) < 100:
        raise InputError(
            f"the brain has {len(values)} voxels with a positive signal in {', '.join(sequences)}; "
            "at least 100 are needed to find its tissues: give intensities as scanned and a mask "
            "of the brain"
        )
    scale = np.median(values, axis=0)
    contrasts = [CONTRASTS[name] for name in sequences]
    flat = np.ptp(np.percentile(values / scale, (5, 95), axis=0), axis=0) < 0.01
    if flat.any():
        name = sequences[int(np.argmax(flat))]
        raise InputError(f"the {name} has no contrast in the brain; give intensities as scanned")
    found = _fit_mixture(values / scale, _mixing_prior(depth), contrasts)
    found = (found * scale).T
    return TissueLevels(
        {name: separate(row, name) for name, row in zip(sequences, found, strict=True)}
    )


def to_standard(image: Array, own: Levels, sequence: str) -> Array:
    """Returns an image with its tissues at `STANDARD`; float32, of the same shape.

    The map is linear between 0 and the landmarks of the sequence, and beyond them.

    Args:
      image: of any shape.
      own: levels of the image.
      sequence: its name.
    """
    return bend(image, landmarks(own, sequence), standard_landmarks(sequence))


def from_standard(image: Array, own: Levels, sequence: str) -> Array:
    """Undoes `to_standard`."""
    return bend(image, standard_landmarks(sequence), landmarks(own, sequence))


def separate(levels: Sequence[float] | Array, sequence: str) -> Levels:
    """Returns levels whose landmarks rise and stand out of the noise.

    Args:
      levels: of fluid, grey and white matter, in any order of size.
      sequence: whose they are.
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
    """Returns 0 and the levels that are landmarks of a sequence, float64[k], rising."""
    return np.array([0.0, *(getattr(levels, name) for name in CONTRASTS[sequence].order)])


def standard_landmarks(sequence: str) -> Array:
    """Returns 0 and the landmarks of a sequence in `STANDARD`, float64[k], rising."""
    return landmarks(STANDARD[sequence], sequence)


def _guess_voxel_size(brain: Array) -> tuple[float, float, float]:
    """Returns the voxel size, in mm, with which a brain would have the extent of the template's."""
    mm = []
    for axis, extent in enumerate(_EXTENT):
        counts = brain.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        at = np.arange(len(counts))
        total = max(counts.sum(), 1.0)
        variance = (counts * (at - counts @ at / total) ** 2).sum() / total
        mm.append(extent / float(np.sqrt(variance + 1 / 12)))  # a voxel is one wide
    return mm[0], mm[1], mm[2]


def _draw_voxels(
    images: Array, brain: Array, voxel_size: tuple[float, float, float]
) -> tuple[Array, Array]:
    """Returns intensities, float64[n, m], and depths in mm, float64[n], of voxels of the brain."""
    step = strides(voxel_size, 2.0)
    coarse = np.pad(brain[tuple(slice(s // 2, None, s) for s in step)], 1)
    spacing = [size * s for size, s in zip(voxel_size, step, strict=True)]
    below = np.asarray(ndimage.distance_transform_edt(coarse, sampling=spacing))
    inside = np.flatnonzero(brain)
    chosen = inside[np.linspace(0, inside.size - 1, min(VOXELS, inside.size)).astype(int)]
    at = np.unravel_index(chosen, brain.shape)
    # A voxel of the brain beyond the last coarse one is at the mask's edge: depth 0, in the pad.
    depth = below[tuple(i // s + 1 for i, s in zip(at, step, strict=True))]
    values = np.asarray(images[at], np.float64)
    usable = (values > 0).all(axis=1) & (depth > _RIM)
    return values[usable], depth[usable]


def _mixing_prior(depth: Array) -> Array:
    """Returns how often each component, and an outlier, is found at a depth; float64[k + 1, n]."""
    fluid, white = (np.interp(depth, _DEPTH, shares) for shares in (_FLUID, _WHITE))
    pure = np.stack([fluid, 1 - fluid - white, white])
    mixed = [2 * np.prod(pure[share > 0], axis=0) for share in _SHARES[_PURE:]]
    return np.stack([*pure, *mixed, np.full(len(depth), _OUTLIERS)])


def _fit_mixture(values: Array, prior: Array, contrasts: Sequence[Contrast]) -> Array:
    """Returns levels, float64[3, m], of intensities, [n, m], whose medians are 1."""
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
        belongs = np.exp(log - log.max(axis=0))
        belongs /= belongs.sum(axis=0)
        expected = (prior / share.sum(axis=0)).sum(axis=1)
        weight = belongs.sum(axis=1) / expected
        weight = np.clip(weight / weight[2], 0.02, 5)
        previous, levels = levels, _update_levels(values, belongs, covariances, levels, contrasts)
        noise = _update_noise(values, belongs, levels)
        if np.abs(levels - previous).max() < _TOLERANCE:
            break
    return levels


def _covariances(levels: Array, noise: Sequence[Array]) -> list[Array]:
    """Returns each component's covariance, float64[m, m]: of its tissues, and of its shares."""
    covariances = []
    for share, width in zip(_SHARES, _RANGE, strict=True):
        covariance = sum(part * each for part, each in zip(share, noise, strict=True))
        if width:
            first, second = levels[share > 0]
            covariance = covariance + np.outer(first - second, first - second) * width**2 / 12
        covariances.append(np.asarray(covariance))
    return covariances


def _log_normal(values: Array, mean: Array, covariance: Array) -> Array:
    """Returns the logarithm of a normal density, but for a constant, float64[n]."""
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    deviation = (values - mean) @ root.T
    return -0.5 * np.einsum("nm,nm->n", deviation, deviation) + np.log(np.diag(root)).sum()


def _update_levels(
    values: Array,
    belongs: Array,
    covariances: Sequence[Array],
    levels: Array,
    contrasts: Sequence[Contrast],
) -> Array:
    """Returns levels by least squares over all components, drawn towards those of `CONTRASTS`."""
    counts = belongs[:-1].sum(axis=1)
    sums = belongs[:-1] @ values
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


def _update_noise(values: Array, belongs: Array, levels: Array) -> list[Array]:
    """Returns each tissue's covariance, float64[m, m], held near that of noise of 8 %."""
    noise = []
    for level, held, member in zip(levels, _HELD, belongs[:_PURE], strict=True):
        deviation = values - level
        scatter = (deviation * member[:, None]).T @ deviation
        usual = np.diag((0.08 * np.maximum(level, 0.3)) ** 2)
        count = held * len(values)
        noise.append((scatter + count * usual) / (member.sum() + count))
    return noise
