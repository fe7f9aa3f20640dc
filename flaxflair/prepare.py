"""Preparation: the scans of one session, each on its own grid, become images on one.

Registration, where the brain is, inhomogeneity correction within it, and one interpolation from the
scanned voxels to the final grid. In memory; knows no file names.

Everything happens in the reference's frame, in which its axes run right, anterior and superior: how
a file orders its axes, or a header turns them, makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from scipy import ndimage

from flaxflair import hdbet
from flaxflair.bias import fit_scan, share
from flaxflair.brain import find_brain
from flaxflair.itk import Freedom, fit_bias, register
from flaxflair.orientation import ras_geometry, to_ras
from flaxflair.resample import resample
from flaxflair.sequences import TARGET
from flaxflair.tissue import part_tissues
from flaxflair.volume import Array, Geometry, InputError, Volume

# Whose grid is kept, if none is asked for: the first that there is.
REFERENCES = (TARGET, "T2", "T1")
# On whom the template is laid: its own sequence, or else the reference.
_LIKE_TEMPLATE = "T1"
# Registration compares images this far around the brain, mm: of a PD its edge tells the most.
_MARGIN = 3.0
# A voxel is a tissue's if it is this much so; a scan shows a voxel if it shows this much of it.
_PURE = 0.8
_SEEN = 0.99
# Scans that show less of the brain in common have nothing to tell of each other's bias.
_LEAST_COMMON = 0.2
_HERE = np.eye(4)
# Decimals of a voxel's edge, mm, that count; of its place two fewer.
_DIGITS = 5
# Beyond these a preparation should be looked at: litres, a share, mm, degrees, a share.
_FEWEST_LITRES, _MOST_LITRES = 0.8, 2.0
_LEAST_COVERED = 0.97
_MOST_SHIFT, _MOST_TURN, _MOST_STRETCH = 20.0, 15.0, 0.08
_T = TypeVar("_T")
Finder = Literal["template", "hdbet"]
_FINDERS: Mapping[str, Callable[[Volume], Array]] = {
    "template": find_brain,
    "hdbet": hdbet.find_brain,
}


@dataclass(frozen=True)
class Preparation:
    """How raw sessions are prepared.

    Attributes:
      reference: sequence whose grid is kept; empty for the first of `REFERENCES` that there is.
      freedom: of the registration: 6 for rotation and shift, 12 for an affine map.
      finder: what finds the brain where no mask is given: the ICBM152 template, or HD-BET.
      bias_by: what tells a scan's bias: the fields of all scans of its session, or its own alone.
      workers: sequences at a time, a thread each.
    """

    reference: str = ""
    freedom: Freedom = 12
    finder: Finder = "template"
    bias_by: Literal["session", "scan"] = "session"
    workers: int = 2


AS_USUAL = Preparation()


@dataclass(frozen=True)
class Prepared:
    """One session on one grid.

    Attributes:
      reference: the sequence whose grid it is.
      native: the grid in the order of the reference's file.
      images: sequence -> float32[x, y, z] on `geometry`, inhomogeneity-corrected; zero where it was
        not scanned.
      brain: bool[x, y, z].
      transforms: sequence -> float64[4, 4], world mm of the reference to world mm of the sequence.
      covered: sequence -> part of the brain that it was scanned in, 0 to 1.
      shared: sequence -> sequence -> weight with which the latter's field made the former's bias;
        see `bias.share`.
    """

    reference: str
    native: Geometry
    images: Mapping[str, Array]
    brain: Array
    transforms: Mapping[str, Array]
    covered: Mapping[str, float]
    shared: Mapping[str, Mapping[str, float]]

    @property
    def geometry(self) -> Geometry:
        """The same grid, its axes running closest to right, anterior, superior."""
        return ras_geometry(self.native)


def choose_reference(sequences: Mapping[str, object], wanted: str = "") -> str:
    """Returns the sequence whose grid is kept.

    Args:
      sequences: names of those there are, as keys.
      wanted: the one asked for; empty for the first of `REFERENCES` that there is.

    Raises:
      InputError: it is not there, or none is.
    """
    if wanted and wanted not in sequences:
        raise InputError(
            f"there is no {wanted} to be the reference; choose from {', '.join(sequences)}"
        )
    chosen = wanted or next((name for name in REFERENCES if name in sequences), "")
    if not chosen:
        raise InputError(
            f"none of {', '.join(REFERENCES)} is there to be the reference; "
            f"name one of {', '.join(sequences)}"
        )
    return chosen


def prepare_session(
    volumes: Mapping[str, Volume],
    how: Preparation = AS_USUAL,
    *,
    brain: Volume | None = None,
) -> Prepared:
    """Prepares one session (Wei et al. 2019, section 2.2).

    Args:
      volumes: sequence -> scan, as the scanner left it.
      how: what is chosen.
      brain: a brain mask, lying over the reference, or else over the scan on whose grid it is; None
        to find the brain.

    Raises:
      InputError: the reference is not there, or the brain is nowhere in it; or HD-BET is to find
        it, and is not installed.
    """
    kept = choose_reference(volumes, how.reference)
    frame = _frame(ras_geometry(volumes[kept].geometry))
    scans = {name: _within(frame, volume) for name, volume in volumes.items()}
    given = None if brain is None else _within(frame, brain)
    leader, mask = _find_brain(scans, kept, given, _FINDERS[how.finder])
    even = _each(lambda name: _even_out(scans[name], mask), volumes, how.workers)
    transforms, inside = _align(even, kept, leader, mask, how)
    told = _tell_bias(scans, transforms, inside, even.get(_LIKE_TEMPLATE), how)
    region = inside.array > 0.5

    def correct(name: str) -> Array:
        scan = scans[name]
        image = scan.array if name == kept else _lay(scan, inside.geometry, transforms[name])
        bias = told.bias(name)
        # What the field is on average is not known; so it changes nothing of the brain's.
        return (image / np.exp(bias - bias[region].mean())).astype(np.float32)

    images = _each(correct, volumes, how.workers)
    back = np.linalg.inv(frame)
    return Prepared(
        kept,
        volumes[kept].geometry,
        images,
        region,
        {name: frame @ transform @ back for name, transform in transforms.items()},
        {name: float(part.mean()) for name, part in told.seen.items()},
        told.weights,
    )


def judge(prepared: Prepared) -> tuple[str, ...]:
    """Returns what about a prepared session should be looked at before it is trusted."""
    found = []
    litres = prepared.brain.sum() * np.prod(prepared.geometry.voxel_size) / 1e6
    if not _FEWEST_LITRES < litres < _MOST_LITRES:
        found.append(f"the brain was taken to be {litres:.2f} L; look at its outline")
    for name, matrix in prepared.transforms.items():
        if (part := prepared.covered[name]) < _LEAST_COVERED:
            found.append(f"the {name} shows {100 * part:.0f} % of the brain; the rest is empty")
        shift, turn, stretch = _size_of(matrix, prepared.geometry)
        if shift > _MOST_SHIFT or turn > _MOST_TURN or stretch > _MOST_STRETCH:
            found.append(
                f"the {name} was moved by {shift:.0f} mm, turned by {turn:.0f}° and stretched by "
                f"{100 * stretch:.0f} % to lie on the {prepared.reference}; look at its outline"
            )
    return tuple(found)


def _size_of(matrix: Array, geometry: Geometry) -> tuple[float, float, float]:
    """Returns how far a transform moves the centre, mm, turns, degrees, and stretches, a share."""
    centre = geometry.affine[:3, :3] @ ((np.array(geometry.shape) - 1) / 2) + geometry.affine[:3, 3]
    shift = np.linalg.norm(matrix[:3, :3] @ centre + matrix[:3, 3] - centre)
    sides, stretches, axes = np.linalg.svd(matrix[:3, :3])
    cosine = (np.trace(sides @ axes) - 1) / 2
    turn = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return float(shift), float(turn), float(np.abs(np.log(stretches)).max())


def _find_brain(
    scans: Mapping[str, Volume],
    kept: str,
    given: Volume | None,
    find: Callable[[Volume], Array],
) -> tuple[str, Volume]:
    """Returns the sequence that a brain mask lies over, and the mask, float32 from 0 to 1."""
    if given is not None:
        # Two scans may share a grid, and between them the head has moved.
        own = (name for name in (kept, *scans) if scans[name].geometry.matches(given.geometry))
        leader = next(own, kept)
        mask = given.array > 0.5
    else:
        leader = _LIKE_TEMPLATE if _LIKE_TEMPLATE in scans else kept
        mask = find(scans[leader])
    geometry = given.geometry if given is not None else scans[leader].geometry
    return leader, Volume(mask.astype(np.float32), geometry)


def _align(
    even: Mapping[str, Volume], kept: str, leader: str, mask: Volume, how: Preparation
) -> tuple[dict[str, Array], Volume]:
    """Registers every scan onto the reference, where the brain is.

    Args:
      even: sequence -> scan, as `_even_out` leaves it.
      kept: the reference.
      leader: the sequence that the brain mask lies over.
      mask: of the brain, float32 from 0 to 1.
      how: what is chosen.

    Returns:
      Sequence -> float64[4, 4], mm of the reference to mm of the scan; and the brain, float32 from
      0 to 1, on the reference's grid.
    """
    geometry = even[kept].geometry
    # Headers alone say where the brain is in the others: near enough to begin with.
    near = _lay(mask, geometry, _HERE) > 0.5
    if not near.any():
        raise InputError(f"the brain lies outside the {kept}; check the headers of the session")

    def find(name: str, where: Array) -> Array:
        return register(even[name], even[kept], where, how.freedom)

    transforms = {kept: _HERE}
    if leader != kept:
        transforms[leader] = find(leader, _grow(near, geometry))
    inside = mask
    if leader != kept or not mask.geometry.matches(geometry):
        inside = Volume(_lay(mask, geometry, transforms[leader]), geometry)
    around = _grow(inside.array > 0.5, geometry)
    rest = [name for name in even if name not in transforms]
    transforms |= _each(lambda name: find(name, around), rest, how.workers)
    return {name: transforms[name] for name in even}, inside


class _Told(NamedTuple):
    """What the scans of a session tell of their bias.

    Attributes:
      fields: sequence -> float32[x, y, z], logarithm of what N4 finds, on the reference's grid.
      seen: sequence -> float32[n], how far its scan shows the n voxels of the brain, 0 to 1.
      weights: see `bias.share`.
    """

    fields: Mapping[str, Array]
    seen: Mapping[str, Array]
    weights: Mapping[str, Mapping[str, float]]

    def bias(self, name: str) -> Array:
        """Returns the logarithm of a scan's bias."""
        row = self.weights[name].items()
        return np.sum([weight * self.fields[other] for other, weight in row], axis=0)


def _tell_bias(
    scans: Mapping[str, Volume],
    transforms: Mapping[str, Array],
    inside: Volume,
    t1: Volume | None,
    how: Preparation,
) -> _Told:
    """Returns what the scans of a session tell of their bias.

    Args:
      scans: sequence -> scan, as the scanner left it.
      transforms: sequence -> float64[4, 4], mm of the reference to mm of the scan.
      inside: the brain, float32 from 0 to 1, on the reference's grid.
      t1: as even as can be, by which tissue is told; None if there is none.
      how: what is chosen.
    """
    tissues = [] if t1 is None else _find_tissues(t1, transforms[_LIKE_TEMPLATE], inside)
    region = inside.array > 0.5

    def fit(name: str) -> tuple[Array, Array]:
        return _fit_bias(name, scans[name], transforms[name], inside, tissues)

    fitted = _each(fit, scans, how.workers)
    fields = {name: field for name, (field, _) in fitted.items()}
    seen = {name: part[region] for name, (_, part) in fitted.items()}
    weights = _weigh({name: field[region] for name, field in fields.items()}, seen, how)
    return _Told(fields, seen, weights)


def _fit_bias(
    name: str, scan: Volume, transform: Array, inside: Volume, tissues: Sequence[Volume]
) -> tuple[Array, Array]:
    """Returns what N4 finds in one scan, and how far the scan shows each voxel of the reference.

    Args:
      name: its sequence.
      scan: as the scanner left it.
      transform: mm of the reference to mm of the scan.
      inside: the brain, float32 from 0 to 1, on the reference's grid.
      tissues: see `_find_tissues`.

    Returns:
      The logarithm of the field, and a part from 0 to 1; both float32[x, y, z] on the reference's
      grid.
    """
    back = np.linalg.inv(transform)
    where = _lay(inside, scan.geometry, back) > 0.5
    if not where.any():
        raise InputError(f"the {name} shows nothing of the brain; check its header")
    own = [_lay(tissue, scan.geometry, back) > _PURE for tissue in tissues]
    field = _spread(fit_scan(scan, where, own), inside.geometry, transform)
    full = Volume(np.ones_like(scan.array), scan.geometry)
    return field, _lay(full, inside.geometry, transform)


def _weigh(
    fields: Mapping[str, Array], seen: Mapping[str, Array], how: Preparation
) -> dict[str, dict[str, float]]:
    """Returns how the fields found are mixed; see `bias.share`.

    Args:
      fields: sequence -> float32[n], the logarithm of what N4 found in n voxels of the brain.
      seen: sequence -> float32[n], how far the scan shows them.
      how: what is chosen.
    """
    common = np.all([part > _SEEN for part in seen.values()], axis=0)
    if how.bias_by == "scan" or common.mean() < _LEAST_COMMON:
        return {name: {name: 1.0} for name in fields}
    return share({name: field[common] for name, field in fields.items()})


def _even_out(scan: Volume, brain: Volume) -> Volume:
    """Returns a scan that is even enough to be registered.

    Args:
      scan: as the scanner left it.
      brain: float32 from 0 to 1, as the headers place it.

    On a phantom with 3 mm slices a T1SE came to lie 1.4 mm off as it was, with the skull around the
    brain, 1.0 mm without, and 0.15 mm corrected.
    """
    where = _lay(brain, scan.geometry, _HERE) > 0.5
    if not where.any():
        return scan
    field = _spread(fit_bias(scan, where, iterations=(50,)), scan.geometry, _HERE)
    return Volume(scan.array / np.exp(field), scan.geometry)


def _find_tissues(scan: Volume, transform: Array, brain: Volume) -> list[Volume]:
    """Returns where grey and white matter are, float32 from 0 to 1, in the reference's space.

    Args:
      scan: a T1; where it shows no three classes, there are none.
      transform: float64[4, 4], mm of the reference to mm of the scan.
      brain: float32 from 0 to 1, on the reference's grid.
    """
    where = _lay(brain, scan.geometry, np.linalg.inv(transform)) > 0.5
    thresholds = part_tissues(scan.array, where) if where.any() else None
    if thresholds is None:
        return []
    lower, upper = thresholds
    grey, white = (
        where & (scan.array > low) & (scan.array <= high)
        for low, high in ((lower, upper), (upper, np.inf))
    )
    # The scan's grid, as the reference sees it.
    affine = np.linalg.inv(transform) @ scan.geometry.affine
    geometry = Geometry(scan.geometry.shape, affine)
    return [Volume(tissue.astype(np.float32), geometry) for tissue in (grey, white)]


def _spread(log: Volume, geometry: Geometry, transform: Array) -> Array:
    """Returns a smooth field, known on few voxels, on a grid; beyond them it stays as it is."""
    return resample(log.array, log.geometry.affine, geometry, transform)


def _frame(geometry: Geometry) -> Array:
    """Returns the rigid matrix, mm along a grid's axes from its centre to world mm."""
    sides, _, axes = np.linalg.svd(geometry.affine[:3, :3] / geometry.voxel_size)
    frame = np.eye(4)
    frame[:3, :3] = sides @ axes  # the rotation closest to the axes, should they be sheared
    centre = (np.array(geometry.shape) - 1) / 2
    frame[:3, 3] = geometry.affine[:3, :3] @ centre + geometry.affine[:3, 3]
    return frame


def _within(frame: Array, volume: Volume) -> Volume:
    """Returns a volume whose mm are those of a frame.

    Headers hold 32 bits: the same session, turned, would differ in the last of them, and a descent
    end 0.002 mm from where it did.
    """
    turned = to_ras(volume)
    affine = np.linalg.inv(frame) @ turned.geometry.affine
    affine[:3, :3] = np.round(affine[:3, :3], _DIGITS)
    affine[:3, 3] = np.round(affine[:3, 3], _DIGITS - 2)
    return Volume(turned.array, Geometry(turned.geometry.shape, affine))


def _grow(mask: Array, geometry: Geometry) -> Array:
    steps = np.maximum(1, np.round(_MARGIN / np.array(geometry.voxel_size))).astype(int)
    return ndimage.maximum_filter(mask.astype(np.uint8), tuple(2 * steps + 1)) > 0


def _lay(volume: Volume, geometry: Geometry, transform: Array) -> Array:
    own = volume.geometry.affine
    array = volume.array.astype(np.float32, copy=False)
    return resample(array, own, geometry, transform, beyond="zero")


def _each(call: Callable[[str], _T], names: Collection[str], workers: int) -> dict[str, _T]:
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(call, names), strict=True))
