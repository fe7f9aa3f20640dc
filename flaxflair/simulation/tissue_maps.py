"""Tissue maps: relaxation at every point of a head, and its signal in a pulse sequence.

Independent of scanner grids, noise and files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from flaxflair.core.records import Array
from flaxflair.simulation.anatomy import (
    COARSE,
    MEDIUM,
    Person,
)
from flaxflair.simulation.fields import Lattice, interpolate, smooth_noise, stream
from flaxflair.simulation.lesions import LesionMaps
from flaxflair.simulation.relaxation import TISSUES, Protocol, signal

# Tissues subject to magnetisation transfer by the off-resonance pulses of long echo trains, and its
# relative variation: white matter is saturated throughout, so it varies less.
TRANSFER: Mapping[str, float] = {"white": 0.4, "grey": 1.0, "lesion": 1.0}
# Common share of the variance of T1, T2 and proton density, which all increase with water content
# (Gelman et al., Magn. Reson. Med. 45:71, 2001).
WATER = 0.8


# Selects the points with tissue from an array on the lattice.
Pick = Callable[[Array], Array]


@dataclass(frozen=True)
class Maps:
    """Relaxation and preparation where there is tissue, as flat arrays over `where`.

    Attributes:
      lattice: the lattice that `where` indexes.
      where: int[n], flat indices of points with tissue.
      tissues: tissue -> (rows of `where` it occurs in, fraction, T1, T2, PD), flat arrays.
      efficiency: float32[n], of inversion pulses.
      flow: float32[n], fraction of fluid that flowed in after the inversion, 0 to 1.
      transfer: float32[n], relative change of signal by magnetisation transfer; about 0.
      fat: float32[n], relative signal of fat after saturation.
    """

    lattice: Lattice
    where: Array
    tissues: Mapping[str, tuple[Array, Array, Array, Array, Array]]
    efficiency: Array
    flow: Array
    transfer: Array
    fat: Array


def build_maps(
    seed: int,
    subject: int,
    person: Person,
    fractions: Mapping[str, Array],
    lesions: LesionMaps,
    lattice: Lattice,
) -> Maps:
    """Draws relaxation at every point: tissue, subject, smooth variation, texture, pathology."""
    filled = np.sum(list(fractions.values()), axis=0)
    where = np.flatnonzero(filled > 0.01)

    def pick(array: Array) -> Array:
        return array.reshape(-1)[where]

    relax = _draw_relaxation(stream(seed, subject, "relaxation"), person, lesions, lattice, pick)
    white, load = pick(fractions["white"]), pick(lesions.load)
    parts = {name: pick(array) for name, array in fractions.items()}
    parts["white"], parts["lesion"] = white * (1 - load), white * load
    tissues = {}
    for name, part in parts.items():
        rows = np.flatnonzero(part > 0.003)
        tissues[name] = (rows, part[rows], *relax(name, rows))
    efficiency, transfer = _draw_inversion(stream(seed, subject, "inversion"), lattice, pick)
    pulse = pick(interpolate(person.fields["flow"], MEDIUM, lattice))
    flow = _draw_flow(stream(seed, subject, "flow"), pulse, lattice, pick)
    off = stream(seed, subject, "fat")
    left = off.uniform(0.06, 0.16) * np.exp(0.7 * smooth_noise(off, COARSE, 14.0))
    fat = np.clip(pick(interpolate(left, COARSE, lattice)), 0.02, 0.8)
    return Maps(lattice, where, tissues, efficiency, flow, transfer, fat)


def _draw_relaxation(
    rng: np.random.Generator,
    person: Person,
    lesions: LesionMaps,
    lattice: Lattice,
    pick: Pick,
) -> Callable[[str, Array], tuple[Array, Array, Array]]:
    """Returns a function of a tissue and of rows of points: their T1, T2 and PD."""

    def draw() -> tuple[Array, Array]:
        # On lattices of head space, so that tissue is the same at every scale.
        return smooth_noise(rng, COARSE, 11.0), smooth_noise(rng, MEDIUM, 1.3)

    water = draw()

    def variation(smooth: float, texture: float) -> Array:
        wide, fine = (_mix(common, single) for common, single in zip(water, draw(), strict=True))
        field = smooth * interpolate(wide, COARSE, MEDIUM) + texture * fine
        return np.exp(pick(interpolate(field, MEDIUM, lattice)))

    amounts = {"t1": (0.025, 0.02), "t2": (0.022, 0.02), "pd": (0.015, 0.015)}
    factor = {key: variation(*amount) for key, amount in amounts.items()}
    mottle = pick(interpolate(0.12 * smooth_noise(rng, MEDIUM, 1.8), MEDIUM, lattice))
    spread = np.array([0.025, 0.018, 0.012])
    factors = {name: np.exp(spread * _mix(rng.normal(), rng.normal(size=3))) for name in TISSUES}
    halo = pick(lesions.halo)
    names = ("deep", "iron", "ventricles")
    deep, iron, ventricles = (pick(interpolate(person.fields[n], MEDIUM, lattice)) for n in names)
    # Normal-appearing white matter is altered around ventricles and lesions.
    caps = np.exp(-np.clip(ventricles, 0, None) / 3.0)
    altered = np.clip(halo * rng.uniform(0.6, 1.1), 0, 1)

    def relax(name: str, rows: Array) -> tuple[Array, Array, Array]:
        tissue = TISSUES[name]
        t1, t2, pd = (
            np.full(len(rows), value * scale, np.float32)
            for value, scale in zip((tissue.t1, tissue.t2, tissue.pd), factors[name], strict=True)
        )
        if name in ("white", "grey", "lesion"):
            t1, t2, pd = t1 * factor["t1"][rows], t2 * factor["t2"][rows], pd * factor["pd"][rows]
        if name == "white":
            t2 *= 1 + 0.05 * caps[rows] + 0.32 * altered[rows]
            t1 *= 1 + 0.02 * caps[rows] + 0.10 * altered[rows]
            pd *= 1 + 0.05 * altered[rows]
        elif name == "grey":
            t1 *= 1 - 0.12 * deep[rows]
            t2 *= 1 - 0.10 * deep[rows] - 0.22 * iron[rows]
        elif name == "lesion":
            for key, values in (("t1", t1), ("t2", t2), ("pd", pd)):
                values *= pick(getattr(lesions, key))[rows] / getattr(tissue, key)
        elif name in ("fat", "muscle", "skin"):
            pd *= 1 + mottle[rows]
        return t1, t2, pd

    return relax


def _draw_inversion(rng: np.random.Generator, lattice: Lattice, pick: Pick) -> tuple[Array, Array]:
    """Draws the efficiency of inversion pulses and the effect of magnetisation transfer."""
    weak = rng.uniform(0.02, 0.05) + 0.02 * smooth_noise(rng, COARSE, 22.0)
    efficiency = np.clip(1 - pick(interpolate(weak, COARSE, lattice)), 0.85, 1.0)
    transfer = 0.05 * smooth_noise(rng, COARSE, 9.0)
    transfer = interpolate(transfer, COARSE, MEDIUM) + 0.035 * smooth_noise(rng, MEDIUM, 2.0)
    return efficiency, pick(interpolate(transfer, MEDIUM, lattice))


def _draw_flow(rng: np.random.Generator, pulse: Array, lattice: Lattice, pick: Pick) -> Array:
    """Draws the fraction of fluid that flowed in after the inversion, 0 to 1."""
    swirl = (
        0.5
        + 0.5 * smooth_noise(rng, MEDIUM, 2.2)
        + 0.3 * interpolate(smooth_noise(rng, COARSE, 8.0), COARSE, MEDIUM)
    )
    strength = rng.uniform(0.15, 0.35)
    swirl = pick(interpolate(np.clip(swirl, 0, 2), MEDIUM, lattice))
    return np.clip(swirl * (strength * pulse + 0.05), 0, 0.5)


def _mix(common: Array | float, single: Array) -> Array:
    """Returns a mixture of two variables of unit variance; `common` has the share `WATER`."""
    return WATER**0.5 * common + (1 - WATER) ** 0.5 * single


def image_signal(maps: Maps, protocol: Protocol) -> Array:
    """Returns float32[x, y, z], the signed signal of one sequence on the lattice.

    Every tissue of a mixed point has its own signal, and the signals are added.
    """
    prepared = len(protocol.inversions) > 0
    total = np.zeros(len(maps.where), np.float32)
    for name, (rows, part, t1, t2, pd) in maps.tissues.items():
        efficiency = maps.efficiency[rows] if prepared else 1.0
        if name == "csf" and prepared:
            # Fluid that flowed in after the inversion was never inverted.
            efficiency = efficiency * (1 - maps.flow[rows]) - maps.flow[rows]
        values = part * signal(t1, t2, pd, protocol, efficiency)
        if protocol.fat_saturated:
            if name == "fat":
                values *= maps.fat[rows]
            elif name in TRANSFER:
                values *= 1 + TRANSFER[name] * maps.transfer[rows]
        elif name == "csf" and not prepared:
            values *= 1 - 0.3 * maps.flow[rows]
        total[rows] += values
    out = np.zeros(np.prod(maps.lattice.shape), np.float32)
    out[maps.where] = total
    return out.reshape(maps.lattice.shape)
