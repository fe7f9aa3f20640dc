"""Bias fields of the scans of one session, estimated together or each alone.

In memory; independent of registration and of file names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array, Geometry, InputError, Volume
from flaxflair.imaging.resampling import resample
from flaxflair.imaging.tissue import tissue_thresholds
from flaxflair.preprocessing.alignment import HERE, map_scans, resample_volume
from flaxflair.preprocessing.bias_field import fit_scan, share
from flaxflair.preprocessing.options import Preparation
from flaxflair.preprocessing.registration import fit_bias

# On whom the template is laid: its own sequence, or else the reference.
TEMPLATE_SEQUENCE = "T1"
# A voxel is a tissue's if it is this much so; a scan shows a voxel if it shows this much of it.
_PURE = 0.8
_SEEN = 0.99
# Scans that show less of the brain in common have nothing to tell of each other's bias.
_LEAST_COMMON = 0.2


class _SessionBias(NamedTuple):
    """What the scans of a session tell of their bias.

    Attributes:
      fields: sequence -> float32[x, y, z], logarithm of what N4 finds, on the reference's grid.
      seen: sequence -> float32[n], how far its scan shows the n voxels of the brain, 0 to 1.
      weights: see `bias_field.share`.
    """

    fields: Mapping[str, Array]
    seen: Mapping[str, Array]
    weights: Mapping[str, Mapping[str, float]]

    def bias(self, name: str) -> Array:
        """Returns the logarithm of a scan's bias."""
        row = self.weights[name].items()
        return np.sum([weight * self.fields[other] for other, weight in row], axis=0)


def estimate_bias(
    scans: Mapping[str, Volume],
    transforms: Mapping[str, Array],
    inside: Volume,
    t1: Volume | None,
    how: Preparation,
) -> _SessionBias:
    """Returns what the scans of a session tell of their bias.

    Args:
      scans: sequence -> scan, as the scanner left it.
      transforms: sequence -> float64[4, 4], mm of the reference to mm of the scan.
      inside: the brain, float32 from 0 to 1, on the reference's grid.
      t1: as even as can be, by which tissue is told; None if there is none.
      how: what is chosen.
    """
    tissues = [] if t1 is None else _find_tissues(t1, transforms[TEMPLATE_SEQUENCE], inside)
    region = inside.array > 0.5

    def fit(name: str) -> tuple[Array, Array]:
        return _estimate_scan_bias(name, scans[name], transforms[name], inside, tissues)

    fitted = map_scans(fit, scans, how.workers)
    fields = {name: field for name, (field, _) in fitted.items()}
    seen = {name: part[region] for name, (_, part) in fitted.items()}
    weights = _weigh({name: field[region] for name, field in fields.items()}, seen, how)
    return _SessionBias(fields, seen, weights)


def _estimate_scan_bias(
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
    where = resample_volume(inside, scan.geometry, back) > 0.5
    if not where.any():
        raise InputError(f"the {name} shows nothing of the brain; check its header")
    own = [resample_volume(tissue, scan.geometry, back) > _PURE for tissue in tissues]
    field = _resample_field(fit_scan(scan, where, own), inside.geometry, transform)
    full = Volume(np.ones_like(scan.array), scan.geometry)
    return field, resample_volume(full, inside.geometry, transform)


def _weigh(
    fields: Mapping[str, Array], seen: Mapping[str, Array], how: Preparation
) -> dict[str, dict[str, float]]:
    """Returns how the fields found are mixed; see `bias_field.share`.

    Args:
      fields: sequence -> float32[n], the logarithm of what N4 found in n voxels of the brain.
      seen: sequence -> float32[n], how far the scan shows them.
      how: what is chosen.
    """
    common = np.all([part > _SEEN for part in seen.values()], axis=0)
    if how.bias_by == "scan" or common.mean() < _LEAST_COMMON:
        return {name: {name: 1.0} for name in fields}
    return share({name: field[common] for name, field in fields.items()})


def correct_alone(scan: Volume, brain: Volume) -> Volume:
    """Returns a scan that is even enough to be registered.

    Args:
      scan: as the scanner left it.
      brain: float32 from 0 to 1, as the headers place it.

    On a phantom with 3 mm slices a T1SE came to lie 1.4 mm off as it was, with the skull around the
    brain, 1.0 mm without, and 0.15 mm corrected.
    """
    where = resample_volume(brain, scan.geometry, HERE) > 0.5
    if not where.any():
        return scan
    field = _resample_field(fit_bias(scan, where, iterations=(50,)), scan.geometry, HERE)
    return Volume(scan.array / np.exp(field), scan.geometry)


def _find_tissues(scan: Volume, transform: Array, brain: Volume) -> list[Volume]:
    """Returns where grey and white matter are, float32 from 0 to 1, in the reference's space.

    Args:
      scan: a T1; where it shows no three classes, there are none.
      transform: float64[4, 4], mm of the reference to mm of the scan.
      brain: float32 from 0 to 1, on the reference's grid.
    """
    where = resample_volume(brain, scan.geometry, np.linalg.inv(transform)) > 0.5
    thresholds = tissue_thresholds(scan.array, where) if where.any() else None
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


def _resample_field(log: Volume, geometry: Geometry, transform: Array) -> Array:
    """Returns a smooth field, known on few voxels, on a grid; beyond them it stays as it is."""
    return resample(log.array, log.geometry.affine, geometry, transform)
