"""Registration is independent of headers and fields of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.io.nifti import read_volume
from flaxflair.preprocessing.registration import register
from tests.truth import misplaced


@pytest.fixture(scope="module")
def brain(raw_phantom: Path) -> Volume:
    """The brain of the raw phantom, on its FLAIR's grid."""
    folder = raw_phantom / "derivatives/truth/sub-01/anat"
    return to_ras(read_volume(folder / "sub-01_space-FLAIR_desc-brain_mask.nii.gz"))


def lengthen(head: Volume, millimetres: float) -> Volume:
    """Returns a head, in RAS order, with a longer neck."""
    step = head.geometry.voxel_size[2]
    more = round(millimetres / step)
    x, y, z = head.geometry.shape
    points = np.stack(np.meshgrid(np.arange(x), np.arange(y), indexing="ij"), -1)
    away = (points - np.array([x, y - 15]) / 2) * head.geometry.voxel_size[:2]
    radius = np.linalg.norm(away, axis=-1)
    rng = np.random.default_rng(0)
    bright = float(np.percentile(head.array, 99))
    neck = np.select([radius < 60, radius < 68], [0.3 * bright, 0.9 * bright], 0.01 * bright)
    noise = 1 + 0.1 * rng.standard_normal((x, y, more))
    array = np.concatenate([neck[..., None] * noise, head.array], axis=2).astype(np.float32)
    affine = head.geometry.affine.copy()
    affine[:3, 3] -= more * affine[:3, 2]
    return Volume(array, Geometry((x, y, z + more), affine))


def shift(volume: Volume, by: tuple[float, ...]) -> Volume:
    """Returns a volume whose header is shifted by a number of mm."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += by
    return Volume(volume.array, Geometry(volume.geometry.shape, affine))


def crop(volume: Volume, below: float, above: float) -> Volume:
    """Returns a volume without a number of mm at its lower and upper end."""
    step = volume.geometry.voxel_size[2]
    first, last = round(below / step), volume.geometry.shape[2] - round(above / step)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    x, y, _ = volume.geometry.shape
    return Volume(volume.array[:, :, first:last], Geometry((x, y, last - first), affine))


@pytest.mark.parametrize(
    ("neck", "off", "cut"),
    [
        (50, (0, 0, 0), (0, 0)),
        (0, (0, 0, 60), (0, 0)),
        (0, (0, -60, 0), (0, 0)),
        (80, (0, 0, 60), (0, 0)),
        (0, (0, 0, 0), (40, 0)),
        (0, (0, 0, 0), (0, 40)),
    ],
    ids=[
        "a longer neck",
        "headers off along the height",
        "headers off to the back",
        "a much longer neck and headers off",
        "a slab of the crown",
        "a slab of the base",
    ],
)
def test_registration_is_independent_of_headers_and_field_of_view(
    raw_scans: dict[str, Volume],
    brain: Volume,
    neck: float,
    off: tuple[float, ...],
    cut: tuple[float, float],
):
    fixed, scan = (to_ras(raw_scans[name]) for name in ("T2", "T1"))
    inside = resample(brain.array, brain.geometry.affine, fixed.geometry, np.eye(4)) > 0.5

    def find(moving: Volume, where: Array) -> Array:
        return register(moving, fixed, where, 6, finest=4.0)

    truth = find(scan, inside)
    moving = crop(scan, *cut)
    found = find(shift(lengthen(moving, neck) if neck else moving, off), inside)
    found[:3, 3] -= off
    assert misplaced(found, truth, inside, fixed.geometry) < 1.5
