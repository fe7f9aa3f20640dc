"""Anatomy check: scans of one head against scans of two heads and misaligned scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.io.bids import name_file, name_sequence
from flaxflair.io.nifti import read_volume
from flaxflair.preprocessing.anatomy_check import anatomy_ratios, anatomy_warnings
from flaxflair.simulation.phantom import write_phantom


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients, every sequence of each on one grid."""
    root = tmp_path_factory.mktemp("two") / "phantom"
    write_phantom(root, subjects=2, healthy=0, seed=7, scale=0.3)
    return root


def read(root: Path, patient: int, name: str) -> Volume:
    label, where = f"{patient:02d}", {"space": "FLAIR"}
    path = (
        name_file("mask", sub=label, **where, desc="brain")
        if name == "brain"
        else name_sequence(name, sub=label, **where, desc="preproc")
    )
    return to_ras(read_volume(root / f"sub-{label}/anat" / path))


def warn(images: dict[str, Array], brain: Array, geometry: Geometry) -> tuple[str, ...]:
    """Returns the warnings of images that are compared with the T2."""
    return anatomy_warnings(anatomy_ratios(images, "T2", brain, geometry), "T2")


def fit(moving: Volume, brain: Array, onto: Array, geometry: Geometry) -> Array:
    """Aligns one brain with another by position and extent, as a registration would."""

    def extent(mask: Array, affine: Array) -> tuple[Array, Array]:
        points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
        return points.mean(axis=0), points.std(axis=0)

    centre, size = extent(brain, moving.geometry.affine)
    target_centre, target_size = extent(onto, geometry.affine)
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(size / target_size)
    matrix[:3, 3] = centre - matrix[:3, :3] @ target_centre
    return resample(moving.array, moving.geometry.affine, geometry, matrix, beyond="zero")


@pytest.mark.parametrize("name", ["T1", "T1SE", "DIR", "PD"])
def test_scans_of_one_head_give_no_warning(root: Path, name: str):
    t2, brain = read(root, 1, "T2"), read(root, 1, "brain").array > 0.5
    images = {"T2": t2.array, name: read(root, 1, name).array}
    assert warn(images, brain, t2.geometry) == ()


def test_a_t1_of_another_patient_gives_a_warning(root: Path):
    t2, t1 = read(root, 1, "T2"), read(root, 2, "T1")
    own, other = (read(root, patient, "brain").array > 0.5 for patient in (1, 2))
    images = {"T2": t2.array, "T1": fit(t1, other, own, t2.geometry)}
    (sentence,) = warn(images, own, t2.geometry)
    assert sentence.startswith(
        "the T1 and the T2 differ in their anatomy, like scans of two persons"
    )


def test_a_t1_misaligned_by_a_centimetre_gives_a_warning(root: Path):
    t2, t1 = read(root, 1, "T2"), read(root, 1, "T1")
    brain = read(root, 1, "brain").array > 0.5
    off = np.eye(4)
    off[1, 3] = 10.0
    moved = resample(t1.array, t1.geometry.affine, t2.geometry, off, beyond="zero")
    assert warn({"T2": t2.array, "T1": moved}, brain, t2.geometry)
