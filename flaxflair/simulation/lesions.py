"""Multiple-sclerosis lesions: position, size, shape and severity.

Lesions are drawn as bodies in head millimetres, so that a patient has the same ones at every
resolution, and are rendered onto a lattice. Independent of MRI except for each lesion's relaxation.

Sources: Filippi et al., Brain 142:1858 (2019), for the positions and shapes typical of multiple
sclerosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array
from flaxflair.simulation.anatomy import MEDIUM, Person, build_brain
from flaxflair.simulation.fields import Lattice, stream

# Fractions of lesions by location; the rest are in deep white matter.
PERIVENTRICULAR, JUXTACORTICAL = 0.45, 0.22
BLACK_HOLES = 0.25
EDGE = 1.4  # width of a lesion's edge, mm
HALO = 5.0  # decay length of the altered tissue around a lesion, mm


@dataclass(frozen=True)
class Lesion:
    """One lesion, an ellipsoid with a rough surface.

    Attributes:
      centre: float64[3], head mm.
      axes: float64[3, 3], orthonormal rows, the longest half-axis first.
      radii: float64[3], half-axes in mm.
      waves: float64[n, 4], waves that roughen the surface: a direction times a frequency, a phase.
      t1: ms.
      t2: ms.
      pd: water = 1.
    """

    centre: Array
    axes: Array
    radii: Array
    waves: Array
    t1: float
    t2: float
    pd: float


@dataclass(frozen=True)
class LesionMaps:
    """Lesions on a lattice.

    Attributes:
      load: float32[x, y, z], lesion fraction of white matter, 0 to 1.
      halo: float32[x, y, z], fraction of altered white matter around lesions, 0 to 1.
      t1: float32[x, y, z], ms; meaningful where `load` is positive.
      t2: float32[x, y, z], ms.
      pd: float32[x, y, z].
    """

    load: Array
    halo: Array
    t1: Array
    t2: Array
    pd: Array


def draw_lesions(seed: int, subject: int, person: Person) -> list[Lesion]:
    """Draws the lesions of one patient.

    Args:
      seed: of the data set.
      subject: index.
      person: head of the subject; centres are drawn from the points of `anatomy.MEDIUM`.

    Returns:
      5 to 40 lesions, largest first. Total volumes are about log-normal, 0.7 to 30 mL.
    """
    rng = stream(seed, subject, "lesions")
    total = float(np.clip(np.exp(rng.normal(np.log(8000), 0.9)), 1200, 30000))  # mm3
    count = int(np.clip(round(9 * np.sqrt(total / 8000) * np.exp(rng.normal(0.5, 0.3))), 5, 40))
    volumes = np.sort(np.exp(rng.normal(0, 1.2, count)))[::-1]
    # No single body holds more than about half: larger burdens are many lesions run together.
    volumes = np.clip(volumes * total / volumes.sum(), 15, 0.5 * total)
    severity = rng.normal(0, 0.5)
    brain = build_brain(person, MEDIUM)
    white = ndimage.gaussian_filter(brain["white"], 0.7)
    grey = ndimage.gaussian_filter(brain["grey"] * (person.fields["deep"] < 0.3), 1.5)
    x, y, z = MEDIUM.points()
    within = (z > -48) & (z < 52) & (white > 0.75)
    ventricle = person.fields["ventricles"]
    normal = np.stack(list(np.gradient(ventricle, MEDIUM.spacing[0])))
    # Lesions occur around the body and horns of the lateral ventricles, not in the brainstem.
    lateral = np.exp(-np.clip(-z - 12, 0, None) / 6)
    density = {
        "periventricular": within * (ventricle > 0) * np.exp(-((ventricle / 5.0) ** 2)) * lateral,
        "juxtacortical": within * np.clip(grey - 0.12, 0, 0.4) * (ventricle > 10) * lateral,
        "deep": within * (grey < 0.2) * (ventricle > 7) * np.exp(-ventricle / 25),
    }
    chances = (PERIVENTRICULAR, JUXTACORTICAL, 1 - PERIVENTRICULAR - JUXTACORTICAL)
    cumulative = {name: np.cumsum(d.ravel(), dtype=np.float64) for name, d in density.items()}
    lesions = []
    for rank, volume in enumerate(volumes):
        kind = str(rng.choice(list(density), p=chances))
        if rank == 0:
            kind = "periventricular"
        weights = cumulative[kind]
        at = np.unravel_index(int(np.searchsorted(weights, rng.random() * weights[-1])), x.shape)
        place = np.array([x[at], y[at], z[at]], float) + rng.uniform(-1, 1, 3)
        direction = normal[(slice(None), *at)].astype(float)
        lesions.append(_draw_lesion(rng, kind, volume, place, direction, severity))
    return lesions


def _draw_lesion(
    rng: np.random.Generator,
    kind: str,
    volume: float,
    place: Array,
    direction: Array,
    severity: float,
) -> Lesion:
    """Draws the shape and the relaxation of one lesion.

    Args:
      rng: of the patient's lesions.
      kind: `periventricular`, `juxtacortical` or `deep`.
      volume: mm3.
      place: float64[3], mm.
      direction: float64[3], away from the ventricles.
      severity: of the patient's lesions, about 0.
    """
    random = rng.standard_normal(3)
    if kind == "periventricular" and np.linalg.norm(direction) > 0.1:
        # Dawson's fingers: along the veins, perpendicular to the ventricle.
        first = direction / np.linalg.norm(direction) + 0.25 * random
        ratios = np.array([rng.uniform(1.3, 2.2), 1.0, rng.uniform(0.8, 1.25)])
    else:
        first = random
        ratios = np.array([rng.uniform(1.0, 1.5), 1.0, rng.uniform(0.75, 1.1)])
    frame, _ = np.linalg.qr(np.column_stack([first, rng.standard_normal((3, 2))]))
    radii = ratios * (3 * volume / (4 * np.pi * ratios.prod())) ** (1 / 3)
    if kind == "periventricular":
        place = place + 0.35 * radii[0] * direction / max(np.linalg.norm(direction), 0.1)
    hole = rng.random() < BLACK_HOLES
    waves = np.column_stack([rng.standard_normal((6, 3)) * 2.2, rng.uniform(0, 2 * np.pi, 6)])
    grade = severity + rng.normal(0, 0.7)
    return Lesion(
        centre=place,
        axes=frame.T,
        radii=radii,
        waves=waves,
        t1=float(np.clip(1280 + 110 * grade + 600 * hole, 1050, 2300)),
        t2=float(np.clip(112 + 12 * grade + 35 * hole, 92, 190)),
        pd=float(np.clip(0.84 + 0.015 * grade + 0.04 * hole, 0.78, 0.95)),
    )


def render_lesions(lesions: list[Lesion], lattice: Lattice) -> LesionMaps:
    """Returns lesions on a lattice; overlapping ones run together, their relaxation averaged."""
    clear = np.ones(lattice.shape, np.float32)
    halo = np.zeros(lattice.shape, np.float32)
    weight = np.zeros(lattice.shape, np.float32)
    sums = {name: np.zeros(lattice.shape, np.float32) for name in ("t1", "t2", "pd")}
    axes = [lattice.axis(k) for k in range(3)]
    for lesion in lesions:
        reach = 1.5 * lesion.radii.max() + 2.5 * HALO
        box = tuple(
            slice(*np.searchsorted(axes[k], lesion.centre[k] + np.array([-reach, reach])))
            for k in range(3)
        )
        offsets = np.meshgrid(
            *(axes[k][box[k]] - lesion.centre[k] for k in range(3)), indexing="ij", sparse=True
        )
        load, ring = _render_one(lesion, offsets)
        clear[box] *= 1 - load
        halo[box] = np.maximum(halo[box], ring)
        # A floor, so that the faint rim of a lesion has that lesion's relaxation and not 0/0.
        weight[box] += load + 1e-4 * ring
        for name, values in sums.items():
            values[box] += (load + 1e-4 * ring) * np.float32(getattr(lesion, name))
    weight = np.maximum(weight, 1e-9)
    t1, t2, pd = (sums[name] / weight for name in ("t1", "t2", "pd"))
    return LesionMaps(1 - clear, halo, t1, t2, pd)


def _render_one(lesion: Lesion, offsets: Sequence[Array]) -> tuple[Array, Array]:
    """Returns the load and the halo of one lesion at offsets from its centre, both 0 to 1."""
    along = [
        sum(lesion.axes[k, j] * offsets[j] for j in range(3)) / lesion.radii[k] for k in range(3)
    ]
    radius = np.sqrt(along[0] ** 2 + along[1] ** 2 + along[2] ** 2)
    rough = sum(
        np.sin(w[0] * along[0] + w[1] * along[1] + w[2] * along[2] + w[3]) for w in lesion.waves
    )
    # A surface that moves in and out by about a fifth of the radius.
    distance = (radius - 1 - 0.1 * rough) * float(np.median(lesion.radii))
    load = np.clip(0.5 - distance / EDGE, 0, 1)
    halo = np.exp(-np.clip(distance, 0, None) / HALO)
    return load.astype(np.float32), halo.astype(np.float32)
