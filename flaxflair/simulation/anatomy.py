"""Anatomy: an individual head, as tissue fractions, from the ICBM152 template.

Grey and white matter are the template's probability maps, sharpened, mirrored for half of the
subjects, scaled, tilted and bent by smooth random fields; everything outside the brain is built
from distances. Independent of lesions and of MRI.

Two spaces: *template* millimetres (MNI152), and *head* millimetres, whose axes are those of the
FLAIR's slices and whose origin is the centre of its slab.

Source: Fonov et al., NeuroImage 54:313 (2011), the ICBM152 non-linear 2009a template, in the form
that nilearn ships.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array
from flaxflair.io.template import read_template
from flaxflair.simulation.fields import Lattice, covering, interpolate, sample, smooth_noise, stream
from flaxflair.simulation.rigid import rotation

# Head space is simulated within this box; beyond it lie air, and below it the neck.
HEAD_LOW, HEAD_HIGH = (-94.0, -116.0, -85.0), (94.0, 116.0, 67.0)
COARSE = covering(np.array(HEAD_LOW), np.array(HEAD_HIGH), 4.0)
MEDIUM = covering(np.array(HEAD_LOW), np.array(HEAD_HIGH), 2.5)

# Template mm that the slab's centre falls on, before tilt and scale; chosen so that a slab of
# 120 mm reaches from above the vertex to the middle of the cerebellum, as clinical slabs do.
CENTRE = (0.0, -17.0, 28.0)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid in template mm; a symmetric one stands on both sides of the midline."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    paired: bool = True

    def distance(self, points: Array) -> Array:
        """Returns about the mm by which points [3, ...] lie outside (negative: inside)."""
        x, y, z = points
        x = np.abs(x) if self.paired else x
        scaled = np.sqrt(
            ((x - self.centre[0]) / self.radii[0]) ** 2
            + ((y - self.centre[1]) / self.radii[1]) ** 2
            + ((z - self.centre[2]) / self.radii[2]) ** 2
        )
        return (scaled - 1) * np.float32(min(self.radii))


# Approximate positions of structures in MNI152 mm, after the atlas of Mai, Majtanik and Paxinos.
BRAINSTEM = (
    Ellipsoid((0, -28, -34), (15, 13, 22), False),
    Ellipsoid((0, -22, -12), (17, 11, 8), False),
)
CEREBELLUM = Ellipsoid((0, -62, -36), (52, 36, 24), False)
DEEP_GREY = {
    "caudate": (Ellipsoid((13, 14, 8), (7, 13, 11)), Ellipsoid((17, -4, 20), (5, 14, 6))),
    "putamen": (Ellipsoid((27, 3, 1), (7, 16, 11)),),
    "pallidum": (Ellipsoid((19.5, -3, -1), (5, 8, 6)),),
    "thalamus": (Ellipsoid((11, -19, 8), (10, 14, 9)),),
    "nigra": (Ellipsoid((10, -18, -12), (5, 6, 4)), Ellipsoid((5, -22, -8), (3, 3, 3))),
}
# Iron shortens T2: 1 in the pallidum of an adult (Hallgren and Sourander 1958).
IRON = {"caudate": 0.35, "putamen": 0.45, "pallidum": 1.0, "thalamus": 0.25, "nigra": 0.9}
# Where cerebrospinal fluid pulses: (centre, reach in mm, strength).
FLOW = (
    ((0, -42, -32), 9, 1.0),
    ((0, -32, -10), 5, 1.0),
    ((0, -12, 0), 9, 0.8),
    ((0, 0, 12), 8, 0.8),
    ((0, -10, -34), 13, 0.9),
    ((0, 2, -16), 11, 0.7),
    ((17, -26, -12), 9, 0.5),
    ((-17, -26, -12), 9, 0.5),
    ((0, -45, -52), 13, 0.8),
    ((12, -10, 24), 13, 0.25),
    ((-12, -10, 24), 13, 0.25),
)
EYE = Ellipsoid((32, 60, -36), (12, 12, 12))
ORBIT = Ellipsoid((27, 48, -36), (17, 24, 15))
AIR = (
    Ellipsoid((0, 52, -38), (10, 18, 13), False),
    Ellipsoid((0, 20, -30), (10, 10, 8), False),
    Ellipsoid((0, 77, 2), (13, 5, 9), False),
    Ellipsoid((46, -32, -42), (7, 9, 10)),
    Ellipsoid((28, 48, -62), (13, 15, 11)),
)


# Fields of the template at 2 mm that belong to the brain and bend with its folds; all smooth.
INNER: tuple[str, ...] = ("intracranial", "ventricles", "deep", "iron", "flow")
# Fields that belong to the head, whose outline is smoother than the brain's.
OUTER: tuple[str, ...] = ("scalp", "air", "orbit", "eye")


@dataclass(frozen=True)
class Atlas:
    """The template, read and prepared once.

    Attributes:
      fine: grid of `tissue`, 1 mm.
      tissue: float32[x, y, z, 2], probabilities of grey and of white matter.
      medium: grid of the fields below, 2 mm.
      inner: float32[x, y, z, c], the fields named in `INNER`: mm outside the skull's inner table
        (negative: inside); mm outside the ventricles; deep grey matter, 0 to 1; iron, 1 as in the
        pallidum; how much fluid there would pulse, 0 to 1.
      outer: float32[x, y, z, c], the fields named in `OUTER`: mm below the skin; air, fat of the
        orbits and fluid of the eyes, 0 to 1.
    """

    fine: Lattice
    tissue: Array
    medium: Lattice
    inner: Array
    outer: Array


def _read_map(name: Literal["t1", "gm", "wm"]) -> tuple[Array, Lattice]:
    """Reads one map of the template, scaled to a maximum of 1, x ascending."""
    volume = read_template(name)
    ox, oy, oz = (float(v) for v in volume.geometry.affine[:3, 3])
    return volume.array / volume.array.max(), Lattice(
        volume.geometry.shape, volume.geometry.voxel_size, (ox, oy, oz)
    )


def _signed_distance(mask: Array, spacing: float) -> Array:
    """Returns mm outside a mask (negative: inside), softened by half a voxel."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    distance = (np.asarray(outside) - np.asarray(inside)) * spacing
    return ndimage.gaussian_filter(distance.astype(np.float32), 0.7)


def _close(mask: Array, radius: int) -> Array:
    """Morphological closing by distances, which costs the same for every radius."""
    padded = np.pad(mask, radius + 1)
    grown = np.asarray(ndimage.distance_transform_edt(~padded)) <= radius
    closed = np.asarray(ndimage.distance_transform_edt(grown)) > radius
    return closed[(slice(radius + 1, -radius - 1),) * 3]


def _head_mask(intracranial: Array, lattice: Lattice) -> Array:
    """Returns bool[x, y, z]: the whole head, its outline below the brain drawn down from above."""
    step = lattice.spacing[0]
    # Closing bridges the gaps that only the brain's shape has: temporal poles, fissure, brainstem.
    hull = _close(intracranial < 0, round(24 / step))
    head = np.asarray(ndimage.distance_transform_edt(~hull)) * step <= 13.0
    z = lattice.axis(2)
    start = int(np.searchsorted(z, -8.0))
    depth = np.asarray(ndimage.distance_transform_edt(head[:, :, start])) * step
    for k in range(start):
        head[:, :, k] |= depth > 0.16 * (z[start] - z[k])
    return head


@functools.cache
def load_atlas() -> Atlas:
    """Reads nilearn's ICBM152 maps and derives the fields common to all subjects."""
    grey, fine = _read_map("gm")
    white, _ = _read_map("wm")
    t1, _ = _read_map("t1")
    medium = Lattice(
        tuple(n // 2 for n in fine.shape),  # type: ignore[arg-type]
        (2.0, 2.0, 2.0),
        (fine.origin[0] + 0.5, fine.origin[1] + 0.5, fine.origin[2] + 0.5),
    )

    def halve(array: Array) -> Array:
        x, y, z = medium.shape
        blocks = np.asarray(array, np.float32)[: 2 * x, : 2 * y, : 2 * z]
        return blocks.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))

    brain = np.asarray(ndimage.binary_fill_holes(halve(t1 > 0) > 0.5))
    cranium = _close(brain, 5)
    intracranial = _signed_distance(cranium, 2.0) - 1.0
    scalp = -_signed_distance(_head_mask(intracranial, medium), 2.0)

    points = medium.points()
    ventricles = _signed_distance(_find_ventricles(halve(1 - grey - white), brain, points), 2.0)
    # The maps put a rim of grey matter between ventricle and white matter, where voxels are merely
    # mixed. Thin grey there is white; the thick grey of the caudate survives a grey opening.
    near = np.argwhere(ventricles < 5)
    box = tuple(slice(2 * a, 2 * b + 2) for a, b in zip(near.min(0), near.max(0), strict=True))
    rim = interpolate(soften(ventricles - 4.0, 2.0), medium, fine)[box]
    thin = rim * (grey[box] - ndimage.grey_opening(grey[box], size=5))
    grey[box] -= thin
    white[box] += 0.75 * thin
    # The brainstem is mostly white matter, unlike in the maps, whose thresholds suit the cortex.
    stem = np.max([soften(e.distance(points), 3.0) for e in BRAINSTEM], axis=0)
    moved = 0.75 * interpolate(stem, medium, fine) * grey
    cerebellum = interpolate(soften(CEREBELLUM.distance(points), 4.0), medium, fine)
    moved += cerebellum * np.clip(0.9 * white, 0, grey - moved) * (white > 0.15)
    tissue = np.stack([grey - moved, white + moved], axis=-1)
    structures = {
        name: np.max([soften(e.distance(points), 3.0) for e in parts], axis=0)
        for name, parts in DEEP_GREY.items()
    }
    deep = np.max(list(structures.values()), axis=0)
    iron = np.max([IRON[name] * part for name, part in structures.items()], axis=0)
    flow = np.zeros(medium.shape, np.float32)
    for centre, reach, strength in FLOW:
        squared = sum((points[k] - centre[k]) ** 2 for k in range(3))
        flow = np.maximum(flow, strength * np.exp(-squared / (2 * reach**2)))
    air = np.max([soften(e.distance(points), 3.0) for e in AIR], axis=0)
    eye = EYE.distance(points)
    orbit = soften(ORBIT.distance(points), 3.0) * (1 - soften(eye - 1.5, 1.5))
    inner = np.stack([intracranial, ventricles, deep, iron, flow], axis=-1)
    outer = np.stack([scalp, air, orbit, soften(eye, 1.5)], axis=-1)
    return Atlas(fine, tissue, medium, inner.astype(np.float32), outer.astype(np.float32))


def _find_ventricles(fluid: Array, brain: Array, points: Array) -> Array:
    """Returns bool[x, y, z]: the deep fluid, without the cisterns around the midbrain."""
    x, y, z = points
    depth = np.asarray(ndimage.distance_transform_edt(brain)) * 2
    box = (np.abs(x) < 42) & (y > -62) & (y < 40) & (z > -45) & (z < 34)
    labels = np.zeros(brain.shape, np.int32)
    ndimage.label((fluid * brain > 0.5) & box & (depth > 16), output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    core = np.isin(labels, np.flatnonzero(sizes > 8))
    fourth = Ellipsoid((0, -44, -33), (10, 7, 11), False).distance(points) < 0
    cistern = (y < -28) & (np.abs(x) < 14) & (z > -20) & (z < 12)
    basal = (z < -12) | ((z < -8) & (np.abs(x) < 12))
    return core & ~cistern & (~basal | fourth)


@dataclass(frozen=True)
class Person:
    """Differences of one head from the template.

    Attributes:
      matrix: float64[3, 3], head mm about the slab's centre to template mm about `CENTRE`.
      mirrored: whether left and right are exchanged.
      displacement: float32[3, x, y, z] on `COARSE`, template mm to add.
      fluid: float32[x, y, z] on `COARSE`, log weight of fluid against tissue (atrophy).
      thickness: float32[x, y, z] on `COARSE`, of skull and scalp, 1 on average.
      mottle: float32[x, y, z] on `MEDIUM`, noise that makes marrow and muscle uneven.
      fields: name -> float32[x, y, z] on `MEDIUM`, see `INNER` and `OUTER`.
    """

    matrix: Array
    mirrored: bool
    displacement: Array
    fluid: Array
    thickness: Array
    mottle: Array
    fields: Mapping[str, Array]


def _to_template(
    lattice: Lattice, matrix: Array, displacement: Array | None, mirrored: bool
) -> Array:
    """Returns float32[3, x, y, z], the template mm of a lattice of head space.

    Args:
      lattice: in head mm.
      matrix: see `Person`.
      displacement: see `Person`; None for no bending.
      mirrored: see `Person`.
    """
    axes = [lattice.axis(k).reshape([-1 if k == j else 1 for j in range(3)]) for k in range(3)]
    out = np.empty((3, *lattice.shape), np.float32)
    for k in range(3):
        straight = CENTRE[k] + sum(matrix[k, j] * axes[j] for j in range(3))
        out[k] = straight
        if displacement is not None:
            out[k] += interpolate(displacement[k], COARSE, lattice)
    if mirrored:
        out[0] *= -1
    return out


def draw_person(seed: int, subject: int) -> Person:
    """Draws one head: its size, tilt, bends, ventricles, sulci and scalp."""
    atlas = load_atlas()
    rng = stream(seed, subject, "shape")
    # Adult heads are smaller than the MNI152 by about a tenth along each axis.
    size = 0.905 * (1 + 0.025 * rng.standard_normal()) * (1 + 0.015 * rng.standard_normal(3))
    tilt = np.array([4.0, 0.0, 0.0]) + rng.standard_normal(3) * np.array([3.0, 1.5, 2.0])
    mirrored = bool(rng.random() < 0.5)
    swelling = float(np.clip(rng.normal(2.5, 2.2), -1.5, 7.0))
    matrix = rotation(tilt) @ np.diag(1 / np.clip(size, 0.83, 0.96))

    warp = stream(seed, subject, "warp")
    wide = np.stack([3.0 * smooth_noise(warp, COARSE, 22.0) for _ in range(3)])
    folds = np.stack([1.2 * smooth_noise(warp, COARSE, 7.0) for _ in range(3)])
    blurred = ndimage.gaussian_filter((atlas.inner[..., 1] < 0).astype(np.float32), 2.5)
    pull = np.stack(list(np.gradient(blurred, 2.0)), axis=-1)
    pull *= swelling / np.abs(pull).max()
    towards = sample(pull, atlas.medium, _to_template(COARSE, matrix, None, mirrored))
    if mirrored:
        towards[0] *= -1
    displacement = wide + folds + towards

    shrink = stream(seed, subject, "atrophy")
    fluid = shrink.normal(0.35, 0.3) + 0.45 * smooth_noise(shrink, COARSE, 9.0)
    outside = stream(seed, subject, "head")
    thickness = np.clip(1 + 0.15 * smooth_noise(outside, COARSE, 16.0), 0.6, 1.5)
    mottle = smooth_noise(outside, MEDIUM, 2.0)

    inner = sample(atlas.inner, atlas.medium, _to_template(MEDIUM, matrix, displacement, mirrored))
    outer = sample(atlas.outer, atlas.medium, _to_template(MEDIUM, matrix, wide, mirrored))
    fields = dict(zip(INNER + OUTER, [*inner, *outer], strict=True))
    return Person(matrix, mirrored, displacement, fluid, thickness, mottle, fields)


def soften(distance: Array, width: float) -> Array:
    """Returns 1 well inside a surface, 0 well outside, linear over `width` mm."""
    return np.clip(0.5 - distance / width, 0, 1)


def build_brain(person: Person, lattice: Lattice) -> dict[str, Array]:
    """Returns `white`, `grey` and `csf` of one person, float32[x, y, z], summing to 1 in the skull.

    Args:
      person: the head.
      lattice: points to evaluate; the brain does not depend on them.
    """
    atlas = load_atlas()
    inside = soften(interpolate(person.fields["intracranial"], MEDIUM, lattice), 1.0)
    where = np.flatnonzero(inside)
    points = _to_template(lattice, person.matrix, person.displacement, person.mirrored)
    grey, white = sample(atlas.tissue, atlas.fine, points.reshape(3, -1)[:, where])
    fluid = np.clip(1 - grey - white, 0, 1)
    # Cubing turns the population's blurred probabilities into the sharp borders of one brain.
    grey, white = grey**3, white**3
    atrophy = interpolate(person.fluid, COARSE, lattice).reshape(-1)[where]
    fluid = np.exp(atrophy) * fluid**3 + np.float32(1e-6)
    share = inside.reshape(-1)[where] / (grey + white + fluid)
    brain = {name: np.zeros(lattice.shape, np.float32) for name in ("white", "grey", "csf")}
    for name, part in (("white", white), ("grey", grey), ("csf", fluid)):
        brain[name].reshape(-1)[where] = part * share
    return brain


def build_head(person: Person, lattice: Lattice) -> dict[str, Array]:
    """Returns tissue -> float32[x, y, z], the part of each point that it fills.

    To the brain's tissues come `skin`, `fat`, `muscle` and `bone`; where all of them sum to less
    than 1, the rest is air. From the inside out there are the skull's inner table, marrow (half
    fat) and outer table, then muscle as far as the fat below the skin: little where skull and skin
    are close, as on the vertex.

    Args:
      person: the head.
      lattice: points to evaluate; the head does not depend on them.
    """

    def field(name: str) -> Array:
        return interpolate(person.fields[name], MEDIUM, lattice)

    fractions = build_brain(person, lattice)
    thickness = interpolate(person.thickness, COARSE, lattice)
    mottle = interpolate(person.mottle, MEDIUM, lattice)
    intracranial, scalp = field("intracranial"), field("scalp")
    skull, depth = intracranial / thickness, scalp / thickness
    free = (1 - soften(intracranial, 1.0)) * (1 - soften(scalp, 1.0))
    skin = soften(depth - 2.0, 1.0)
    below = np.clip(soften(depth - 5.2, 1.5) - skin, 0, 1)
    bone = soften(skull - 6.6, 1.0)
    marrow = soften(skull - 4.8, 1.2) - soften(skull - 2.4, 1.2)
    marrow = marrow * np.clip(0.55 + 0.25 * mottle, 0.1, 0.9)
    streaks = np.clip(0.25 + 0.35 * mottle, 0, 0.9)
    rest = 1 - skin - below
    air, orbit, eye = (field(name) * (scalp > 2) for name in ("air", "orbit", "eye"))
    solid = free * (1 - air) * (1 - eye)
    filled = solid * (1 - orbit)
    fractions["skin"] = filled * skin
    fractions["fat"] = filled * (below + rest * (bone * marrow + (1 - bone) * streaks))
    fractions["fat"] += 0.85 * solid * orbit
    fractions["muscle"] = filled * rest * (1 - bone) * (1 - streaks)
    fractions["bone"] = filled * rest * bone * (1 - marrow)
    fractions["csf"] += free * (1 - air) * eye
    return fractions
