"""Simulation of one subject: a head with lesions, scanned by six sequences, and then prepared.

Combines anatomy, lesions, relaxation and scanner. Independent of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.imaging.resampling import resample
from flaxflair.simulation import scanner
from flaxflair.simulation.anatomy import (
    HEAD_HIGH,
    HEAD_LOW,
    MEDIUM,
    Person,
    build_head,
    draw_person,
    soften,
)
from flaxflair.simulation.fields import Lattice, interpolate, stream
from flaxflair.simulation.lesions import LesionMaps, draw_lesions, render_lesions
from flaxflair.simulation.relaxation import PROTOCOLS, TISSUES, signal
from flaxflair.simulation.rigid import rigid
from flaxflair.simulation.tissue_maps import build_maps, image_signal

# For each sequence: the tissue and the image units it has, and the noise's SD in the same units.
# The noise is that of a 3 T scan at full resolution, whatever the scale.
GAINS: Mapping[str, tuple[str, float, float]] = {
    "T1": ("white", 700.0, 26.0),
    "T1SE": ("white", 450.0, 16.0),
    "T2": ("white", 250.0, 11.0),
    "PD": ("white", 800.0, 28.0),
    "DIR": ("grey", 260.0, 13.0),
    "FLAIR": ("white", 350.0, 13.0),
}
# Bias field: a component of the coil common to all scans, as coefficients of Legendre polynomials
# (lower in the middle of the head and at the top); a component of the session; and a component of
# each acquisition; the last two as SDs of a logarithm. In four clinical sessions of one scanner, N4
# found fields that vary by 5 % in white matter. Those of T1 and T2, whose anatomical contrasts are
# opposite, correlated with 0.93 to 0.96; after subtraction of N4's error, they differed by 1 %, and
# each sequence's field differed by 1 % to 2 % between sessions.
COIL: Mapping[tuple[int, int, int], float] = {
    (0, 0, 1): -0.17,
    (2, 0, 0): 0.18,
    (0, 2, 0): 0.18,
    (0, 0, 2): 0.22,
}
SESSION, ACQUISITION = 0.03, 0.025
# Labels of the tissue segmentation.
LABELS: Mapping[int, str] = {
    1: "cerebrospinal fluid",
    2: "cortical grey matter",
    3: "white matter",
    4: "deep grey matter",
    5: "ventricles",
    6: "lesion",
}


@dataclass(frozen=True)
class Scan:
    """One acquired image and the parameters of its simulation.

    Attributes:
      volume: the magnitude image on its own grid.
      motion: float64[4, 4], world mm of tissue during the FLAIR to world mm during this scan.
      bias: coefficients of `scanner.bias_field`.
      gain: image units of a signal of 1.
      sigma: SD of the noise in image units.
    """

    volume: Volume
    motion: Array
    bias: Array
    gain: float
    sigma: float


@dataclass(frozen=True)
class Truth:
    """Ground truth, on the FLAIR's grid.

    Attributes:
      lesion: bool[x, y, z]; at least half of the voxel is lesion.
      brain: bool[x, y, z]; inside the skull.
      nawm: bool[x, y, z]; normal-appearing white matter fills at least 60 % of the voxel.
      ventricles: bool[x, y, z].
      labels: uint8[x, y, z], see `LABELS`; 0 outside the brain.
      noisefree: float32[x, y, z]; expectation of the FLAIR over its noise.
    """

    lesion: Array
    brain: Array
    nawm: Array
    ventricles: Array
    labels: Array
    noisefree: Array


@dataclass(frozen=True)
class Simulation:
    """One subject, scanned.

    Attributes:
      scans: sequence -> scan.
      truth: on the FLAIR's grid.
    """

    scans: Mapping[str, Scan]
    truth: Truth


@dataclass(frozen=True)
class Prepared:
    """One image after good preprocessing.

    Attributes:
      volume: on the FLAIR's grid.
      correction: float32[x, y, z] on the grid of the scan, factor applied to the raw image.
      residual_motion: float64[4, 4], error of registration, world mm.
      residual_bias: coefficients of the remaining bias field.
    """

    volume: Volume
    correction: Array
    residual_motion: Array
    residual_bias: Array


def simulation_lattice(scale: float) -> Lattice:
    """Returns the lattice of head space on which signals are computed.

    A voxel of the FLAIR contains an integer number of points. The lattice extends further down than
    the FLAIR, like the volume sequences.
    """
    flair = scanner.acquisition_grid(TARGET, scale, np.eye(4))
    size = np.array(flair.voxel_size)
    wanted = np.clip(0.45 / scale, 1.0, 2.0)
    parts = np.maximum(np.ceil(size / wanted - 1e-6), 1).astype(int)
    spacing = size / parts
    half = np.array(flair.shape) * size / 2
    below = np.ceil(np.clip(-half - np.array(HEAD_LOW), 0, None) / size).astype(int) * parts
    above = np.ceil(np.clip(np.array(HEAD_HIGH) - half, 0, None) / size).astype(int) * parts
    # Lateral to the head there is only air, which larger volumes get from the border.
    below[:2] = above[:2] = 0
    origin = -half + spacing / 2 - below * spacing
    x, y, z = (int(n) for n in np.array(flair.shape) * parts + below + above)
    sx, sy, sz = (float(s) for s in spacing)
    return Lattice((x, y, z), (sx, sy, sz), (float(origin[0]), float(origin[1]), float(origin[2])))


def _place(seed: int, subject: int) -> Array:
    """Draws the position of the head in the scanner: float64[4, 4], head to world."""
    rng = stream(seed, subject, "pose")
    return rigid(rng.normal(0, (2.5, 1.5, 1.5)), rng.normal(0, (2.0, 4.0, 5.0)))


def _address(sequence: str) -> int:
    """Returns the part of a stream; T2 and PD are echoes of one acquisition and share it."""
    return list(SEQUENCES).index("T2" if sequence == "PD" else sequence)


def _move(seed: int, subject: int, sequence: str) -> Array:
    """Draws the motion since the FLAIR, at most 2 degrees and 2 mm along each axis."""
    if sequence == TARGET:
        return np.eye(4)
    rng = stream(seed, subject, "motion", _address(sequence))
    degrees, shift = rng.normal(0, 0.8, 3), rng.normal(0, 0.8, 3)
    return rigid(np.clip(degrees, -2, 2), np.clip(shift, -2, 2))


def _draw_field(rng: np.random.Generator, strength: float) -> Array:
    """Draws coefficients of a smooth field whose logarithm has about this SD over the head."""
    degrees = np.array([sum(term) for term in scanner.BIAS_TERMS])
    return strength * rng.standard_normal(len(degrees)) * np.array([0, 1.0, 0.8, 0.5])[degrees]


def _draw_bias(seed: int, subject: int, sequence: str) -> Array:
    """Draws coefficients of a scan's bias."""
    coil = np.array([COIL.get(term, 0.0) for term in scanner.BIAS_TERMS])
    session = _draw_field(stream(seed, subject, "session"), SESSION)
    scan = _draw_field(stream(seed, subject, "bias", _address(sequence)), ACQUISITION)
    return np.round(coil + session + scan, 6)


def _draw_residual_bias(seed: int, subject: int, sequence: str) -> Array:
    """Draws coefficients of the bias field that remains after a good correction."""
    part = list(SEQUENCES).index(sequence)
    return np.round(_draw_field(stream(seed, subject, "residual bias", part), 0.01), 6)


def simulate_subject(seed: int, subject: int, *, patient: bool, scale: float) -> Simulation:
    """Simulates the scans of one subject.

    Args:
      seed: of the data set.
      subject: index, from 0; the same person in every data set of this seed.
      patient: whether the subject has lesions.
      scale: in-plane voxels are 1/scale as wide as the paper's.
    """
    person = draw_person(seed, subject)
    lattice = simulation_lattice(scale)
    fractions = build_head(person, lattice)
    lesions = draw_lesions(seed, subject, person) if patient else []
    rendered = render_lesions(lesions, lattice)
    maps = build_maps(seed, subject, person, fractions, rendered, lattice)
    placement = _place(seed, subject)
    inverse = np.linalg.inv(placement)
    scans, noisefree = {}, np.empty(0)
    for part, (sequence, protocol) in enumerate(PROTOCOLS.items()):
        tissue, units, sigma = GAINS[sequence]
        normal = TISSUES[tissue]
        gains = stream(seed, subject, "gain", _address(sequence))
        gain = units / abs(float(signal(normal.t1, normal.t2, normal.pd, protocol)))
        gain *= float(np.exp(gains.normal(0, 0.015)))
        grid = scanner.acquisition_grid(sequence, scale, placement)
        motion = _move(seed, subject, sequence)
        field = image_signal(maps, protocol)
        if sequence == TARGET:
            clean = scanner.block_mean(field, lattice, grid, inverse)
        else:
            clean = resample(field, lattice.affine, grid, inverse @ np.linalg.inv(motion))
        bias = _draw_bias(seed, subject, sequence)
        clean *= np.float32(gain) * scanner.bias_field(bias, grid)
        image = scanner.add_rician_noise(stream(seed, subject, "noise", part), clean, sigma)
        if sequence == TARGET:
            noisefree = scanner.rician_mean(clean, sigma)
        # A scanner stores whole numbers of 12 bits.
        image = np.clip(np.rint(image), 0, 4095)
        scans[sequence] = Scan(Volume(image, grid), motion, bias, gain, sigma)
    flair = scans[TARGET].volume.geometry
    truth = _find_truth(person, fractions, rendered, lattice, flair, inverse, noisefree)
    return Simulation(scans, truth)


def _find_truth(
    person: Person,
    fractions: Mapping[str, Array],
    lesions: LesionMaps,
    lattice: Lattice,
    grid: Geometry,
    inverse: Array,
    noisefree: Array,
) -> Truth:
    """Averages tissue fractions over the FLAIR's voxels; each label is the largest fraction."""

    def mean(array: Array) -> Array:
        return scanner.block_mean(array, lattice, grid, inverse)

    white, grey, fluid = fractions["white"], fractions["grey"], fractions["csf"]
    intracranial, ventricle, deep = (
        interpolate(person.fields[name], MEDIUM, lattice)
        for name in ("intracranial", "ventricles", "deep")
    )
    # The ventricles' surface is accurate to a voxel of the template; fluid defines the boundary.
    ventricle = soften(ventricle - 2.0, 2.0)
    brain = mean(soften(intracranial, 1.0)) > 0.5
    lesion_part = mean(white * lesions.load)
    white_part = mean(white) - lesion_part
    classes = np.stack(
        [
            mean(fluid * (1 - ventricle)),
            mean(grey * (1 - deep)),
            white_part,
            mean(grey * deep),
            mean(fluid * ventricle),
            lesion_part,
        ]
    )
    lesion = brain & (lesion_part >= 0.5)
    labels = np.where(brain, classes.argmax(axis=0) + 1, 0).astype(np.uint8)
    labels[lesion] = 6
    labels[(labels == 6) & ~lesion] = 3
    nawm = brain & (white_part > 0.6) & ~lesion
    return Truth(lesion, brain, nawm, labels == 5, labels, noisefree)


def prepare_subject(seed: int, subject: int, simulation: Simulation) -> dict[str, Prepared]:
    """Returns sequence -> image on the FLAIR's grid after good preprocessing.

    A residual bias of one or two per cent and registration errors of a few tenths of a millimetre
    and degree remain; every image is interpolated once, linearly, from the grid of the scan.
    """
    target = simulation.scans[TARGET].volume.geometry
    out = {}
    for part, (sequence, scan) in enumerate(simulation.scans.items()):
        residual = _draw_residual_bias(seed, subject, sequence)
        grid = scan.volume.geometry
        correction = scanner.bias_field(residual - scan.bias, grid)
        flat = scan.volume.array * correction
        if sequence == TARGET:
            out[sequence] = Prepared(Volume(flat, grid), correction, np.eye(4), residual)
            continue
        rng = stream(seed, subject, "registration", part)
        error = rigid(rng.normal(0, 0.1, 3), rng.normal(0, 0.12, 3))
        image = resample(flat, grid.affine, target, error @ scan.motion)
        out[sequence] = Prepared(Volume(image, target), correction, error, residual)
    return out
