"""Contrasts: relaxation of a sample's tissues, and noise-free images of pulse sequences.

A new contrast is a line in `TIMINGS`. Independent of voxel size, noise and motion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from flaxflair.core.records import Array
from flaxflair.simulation.generator.classes import (
    CLASSES,
    CORTEX,
    FLUID,
    VENTRICLES,
    WHITE,
    members,
)
from flaxflair.simulation.generator.lesions import LesionFields
from flaxflair.simulation.generator.ranges import LesionRanges, TissueRanges
from flaxflair.simulation.generator.splines import apply_along, sampling_matrix, smooth_field
from flaxflair.simulation.generator.window import Window
from flaxflair.simulation.relaxation import PROTOCOLS, Protocol, signal


@dataclass(frozen=True)
class Relaxation:
    """Relaxation of the tissues of one sample.

    Attributes:
      t1: float64[classes], ms.
      t2: likewise.
      pd: likewise, water = 1.
      lesion: float64[3, 3], T1, T2 and proton density at severities 0, 1/2 and 1.
      texture: float32[3, x, y, z], deviations of the logarithms of T1, T2 and proton density.
      low_field: whether the field strength is 1.5 T; otherwise 3 T.
      field_factors: T1 and T2 of tissue at this field strength, relative to 3 T.
    """

    t1: Array
    t2: Array
    pd: Array
    lesion: Array
    texture: Array
    low_field: bool
    field_factors: tuple[float, float] = (1.0, 1.0)

    def at_high_field(self) -> Relaxation:
        """Returns the relaxation of the same tissues at 3 T."""
        t1_factor, t2_factor = self.field_factors
        water = members("fluid")
        return replace(
            self,
            t1=np.where(water, self.t1, self.t1 / t1_factor),
            t2=np.where(water, self.t2, self.t2 / t2_factor),
            lesion=self.lesion / np.array([[t1_factor], [t2_factor], [1.0]]),
            low_field=False,
            field_factors=(1.0, 1.0),
        )


def draw_relaxation(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    ranges: TissueRanges,
    lesions: LesionRanges,
) -> Relaxation:
    """Draws the relaxation of the tissues of one sample.

    Args:
      rng: random generator.
      shape: shape of the window.
      ranges: ranges of tissue relaxation.
      lesions: ranges of lesion relaxation.
    """
    low_field = bool(rng.random() < ranges.low_field_share)
    t1_factor = float(rng.uniform(*ranges.low_field_t1)) if low_field else 1.0
    t2_factor = float(rng.uniform(*ranges.low_field_t2)) if low_field else 1.0
    # The relaxation of fluid does not depend on the field strength.
    water = members("fluid")

    def vary(values: list[float], sd: float, factor: float) -> Array:
        spread = np.exp(sd * rng.standard_normal(len(values)))
        return np.array(values) * spread * np.where(water, 1.0, factor)

    t1_person, t2_person = np.exp(ranges.person_sd * rng.standard_normal(2))
    t1 = vary([c.t1 for c in CLASSES], ranges.t1_sd, t1_factor * t1_person)
    t2 = vary([c.t2 for c in CLASSES], ranges.t2_sd, t2_factor * t2_person)
    pd = vary([c.pd for c in CLASSES], ranges.pd_sd, 1.0)
    lesion = np.array([lesions.t1, lesions.t2, lesions.pd])
    sds = np.array([[ranges.t1_sd], [ranges.t2_sd], [ranges.pd_sd]])
    lesion = lesion * np.exp(sds * rng.standard_normal((3, 1)))
    # Scaled with white matter, so that T1 and T2 of lesions remain longer than white matter's.
    lesion *= np.array([[t1[WHITE] / CLASSES[WHITE].t1], [t2[WHITE] / CLASSES[WHITE].t2], [1.0]])
    texture = _draw_texture(rng, shape, ranges)
    return Relaxation(t1, t2, pd, lesion, texture, low_field, (t1_factor, t2_factor))


def _draw_texture(
    rng: np.random.Generator, shape: tuple[int, int, int], ranges: TissueRanges
) -> Array:
    """Draws correlated deviations of log T1, T2 and PD at three scales, float32[3, x, y, z]."""
    shares = rng.dirichlet(ranges.texture_shares)
    water = np.sqrt(rng.uniform(*ranges.water))
    rest = np.sqrt(1 - water**2)
    coarse, middle, fine = ranges.texture_mm
    smooth = [sampling_matrix(n, np.arange(n, dtype=float), sd=fine / 2) for n in shape]

    def draw() -> Array:
        noise = apply_along(smooth, rng.standard_normal(shape, np.float32))
        total = np.sqrt(shares[0]) * smooth_field(rng, shape, coarse)
        total += np.sqrt(shares[1]) * smooth_field(rng, shape, middle)
        total += np.sqrt(shares[2]) * noise / noise.std()
        return total

    common = water * draw()
    sds = (ranges.texture_t1_sd, ranges.texture_t2_sd, ranges.texture_pd_sd)
    out = np.empty((3, *shape), np.float32)
    for k, sd in enumerate(sds):
        out[k] = rng.uniform(*sd) * (common + rest * draw())
    return out


# Protocol of the target FLAIR. The echo time is below the nominal 125 ms, since echo trains weaken
# the T2 contrast.
CANONICAL = Protocol(9000, 100, (2450,), fat_saturated=True)


def _gradient_or_spin_echo_t1(rng: np.random.Generator, low_field: bool) -> Protocol:
    """T1-w: inversion-prepared (MPRAGE) in 60 %, else spin echo or spoiled gradient echo."""
    if rng.random() < 0.6:
        # Longer than nominal, since gradient-echo trains weaken the T1 contrast.
        inversion = rng.uniform(700, 1000) if low_field else rng.uniform(950, 1400)
        return Protocol(rng.uniform(1700, 2500), rng.uniform(2, 5), (inversion,))
    return Protocol(rng.uniform(380, 750), rng.uniform(3, 14))


def _double_inversion(rng: np.random.Generator, low_field: bool) -> Protocol:
    """DIR: two inversions that null fluid and white matter."""
    first, second = PROTOCOLS["DIR"].inversions
    if low_field:
        second *= 0.74
    return Protocol(
        rng.uniform(7000, 9000),
        rng.uniform(20, 60),
        (first * rng.uniform(0.95, 1.05), second * rng.uniform(0.93, 1.07)),
        fat_saturated=True,
    )


# Sequence -> function that draws the protocol of one scan.
TIMINGS: Mapping[str, Callable[[np.random.Generator, bool], Protocol]] = {
    "T1": _gradient_or_spin_echo_t1,
    "T1SE": lambda rng, low_field: Protocol(rng.uniform(400, 750), rng.uniform(8, 20)),
    "T2": lambda rng, low_field: Protocol(rng.uniform(3000, 6500), rng.uniform(70, 115)),
    "PD": lambda rng, low_field: Protocol(rng.uniform(2000, 5000), rng.uniform(8, 30)),
    "DIR": _double_inversion,
}


_FATTY = np.array([tissue.name in ("fat and soft tissue", "marrow") for tissue in CLASSES])
_FAT_LEFT = 0.15  # residual fat signal after saturation; soft tissue is not all fat
# Level of fluid in the target FLAIR, relative to white matter.
TARGET_FLUID = 0.25


@dataclass(frozen=True)
class Contrast:
    """A noise-free image and the levels of its tissues.

    Attributes:
      image: float32[x, y, z], magnitude.
      levels: fluid, grey and white matter.
    """

    image: Array
    levels: tuple[float, float, float]


def make_contrast(
    window: Window, relaxation: Relaxation, lesions: LesionFields, protocol: Protocol
) -> Contrast:
    """Returns the magnitude image of a pulse sequence by its signal equation."""
    table, lesion = _signals(relaxation, protocol), _lesion_signals(relaxation, protocol)
    return _compose(window, relaxation, lesions, protocol, table, lesion)


def _signals(relaxation: Relaxation, protocol: Protocol) -> Array:
    """Returns the signed signal of every class, float64[classes]."""
    table = signal(relaxation.t1, relaxation.t2, relaxation.pd, protocol)
    return np.where(_FATTY, _FAT_LEFT, 1.0) * table if protocol.fat_saturated else table


def _lesion_signals(relaxation: Relaxation, protocol: Protocol) -> Array:
    """Returns the signed signal of lesions at severities 0, 1/2 and 1, float64[3]."""
    t1, t2, pd = relaxation.lesion
    return signal(t1, t2, pd, protocol)


def make_target(window: Window, relaxation: Relaxation, lesions: LesionFields) -> Array:
    """Returns the noise-free target FLAIR, float32[x, y, z]: white matter 1, fluid 0.25.

    The scan is at 3 T whatever the field strength of the inputs, of which inputs at standard tissue
    levels show little. A perfect inversion would null fluid; flow and partial saturation leave
    residual signal.
    """
    relaxation = relaxation.at_high_field()
    table = _signals(relaxation, CANONICAL)
    table = np.where(members("fluid"), TARGET_FLUID * table[WHITE], table)
    lesion = _lesion_signals(relaxation, CANONICAL)
    contrast = _compose(window, relaxation, lesions, CANONICAL, table, lesion)
    # Point spread of a scan at 1 mm, which smooths the staircase of the label map.
    spread = [sampling_matrix(n, np.arange(n, dtype=float), sd=0.45) for n in window.shape]
    return apply_along(spread, contrast.image / np.float32(table[WHITE]))


def make_mixture(
    rng: np.random.Generator,
    window: Window,
    relaxation: Relaxation,
    lesions: LesionFields,
    protocol: Protocol,
    ranges: TissueRanges,
) -> Contrast:
    """Returns an image with randomised class means; the sign of lesion contrast is preserved."""
    sd = rng.uniform(*ranges.mixture_sd)
    table = _signals(relaxation, protocol)
    spread = np.exp(sd * rng.standard_normal(len(table)))
    # Fluid, grey and white matter vary less, since their order characterises a sequence.
    for index in (WHITE, CORTEX, FLUID, VENTRICLES):
        spread[index] = np.exp(0.2 * np.log(spread[index]))
    mixed = table * spread
    ratio = _lesion_signals(relaxation, protocol) / table[WHITE]
    lesion = mixed[WHITE] * np.abs(ratio) ** np.exp(rng.normal(0, 0.3)) * np.sign(ratio)
    return _compose(window, relaxation, lesions, protocol, mixed, lesion)


def _compose(
    window: Window,
    relaxation: Relaxation,
    lesions: LesionFields,
    protocol: Protocol,
    table: Array,
    lesion: Array,
) -> Contrast:
    image = window.mix(table)
    image *= _texture_factor(window, relaxation, protocol)
    load = lesions.load + (1 - lesions.load) * lesions.halo * np.float32(0.5)
    at = lesions.severity * 2
    low = np.clip(lesion[0] + (lesion[1] - lesion[0]) * at, *sorted(lesion[:2]))
    high = lesion[1] + (lesion[2] - lesion[1]) * (at - 1)
    within = np.where(at < 1, low, high).astype(np.float32)
    # Lesions replace the tissue fraction of a voxel only.
    image += load * (within - np.float32(table[WHITE]))
    image += lesions.fluid * (np.float32(table[FLUID]) - image)
    levels = np.abs(table[[FLUID, CORTEX, WHITE]])
    return Contrast(np.abs(image), (float(levels[0]), float(levels[1]), float(levels[2])))


def _texture_factor(window: Window, relaxation: Relaxation, protocol: Protocol) -> Array:
    """Returns the signal relative to uniform tissue, to first order, float32[x, y, z]."""
    total = np.zeros(window.shape, np.float32)
    for tissue, part in ((WHITE, window.white), (CORTEX, window.grey)):
        base = np.array([relaxation.t1[tissue], relaxation.t2[tissue], relaxation.pd[tissue]])
        change = np.zeros(window.shape, np.float32)
        for k, slope in enumerate(_log_slopes(base, protocol)):
            change += np.float32(slope) * relaxation.texture[k]
        total += part * change
    return np.exp(np.clip(total, -0.5, 0.5))


def _log_slopes(base: Array, protocol: Protocol) -> Array:
    """Returns d log signal / d log (T1, T2, PD), float64[3]."""
    step = 0.02
    shifted = base[:, None, None] * np.exp(step * np.stack([np.eye(3), -np.eye(3)])).T
    t1, t2, pd = shifted
    up, down = np.moveaxis(np.log(np.abs(signal(t1, t2, pd, protocol))), -1, 0)
    # Near a signal null the logarithm is steep and the expansion fails.
    return np.clip((up - down) / (2 * step), -3, 3)
