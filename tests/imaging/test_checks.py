"""Checks: what would stop a session is found before any computing, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from flaxflair.check import check_volumes
from flaxflair.volume import Array, Geometry, Volume


def move(volume: Volume, millimetres: float) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[0, 3] += millimetres
    return Volume(volume.array, Geometry(volume.geometry.shape, affine))


def with_array(volume: Volume, array: Array) -> Volume:
    x, y, z = array.shape
    return Volume(array, replace(volume.geometry, shape=(x, y, z)))


def said(volumes: dict[str, Volume], **options) -> list[tuple[str, str]]:
    """Returns (severity, sequence) of each finding."""
    return [(f.severity, f.sequence) for f in check_volumes(volumes, **options)]


def test_nothing_is_found_in_a_good_session(raw_scans: dict[str, Volume]):
    assert check_volumes(raw_scans) == []


def test_a_t1_and_a_t2_that_were_exchanged_are_told_apart(raw_scans: dict[str, Volume]):
    exchanged = {**raw_scans, "T1": raw_scans["T2"], "T2": raw_scans["T1"]}
    found = check_volumes(exchanged)
    assert {("stop", "T1"), ("stop", "T2")} <= {(f.severity, f.sequence) for f in found}
    assert "looks like a T2: fluid is darkest on a T1" in next(
        f.what for f in found if f.sequence == "T1"
    )


def test_scans_that_do_not_overlap_are_refused_and_those_that_hardly_do_are_told(
    raw_scans: dict[str, Volume],
):
    two = {name: raw_scans[name] for name in ("T1", "T2")}
    assert ("stop", "T2") in said({**two, "T2": move(two["T2"], 2000)})
    assert ("warn", "T2") in said({**two, "T2": move(two["T2"], 130)})


def test_a_brain_among_heads_is_refused(raw_scans: dict[str, Volume]):
    scan = raw_scans["T2"]
    head = scan.array > 0.1 * scan.array.max()
    filled = np.asarray(ndimage.binary_fill_holes(head))
    deep = ndimage.distance_transform_edt(filled, sampling=scan.geometry.voxel_size)
    brain = np.where(np.asarray(deep) > 18, scan.array, 0)
    found = check_volumes({"T1": raw_scans["T1"], "T2": Volume(brain, scan.geometry)})
    assert [(f.severity, f.sequence) for f in found] == [("stop", "T2")]
    assert "shows a brain where the T1 shows a head" in found[0].what


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        (lambda v: with_array(v, v.array[:, :, 20:21]), "stop", "no volume; give the whole stack"),
        (lambda v: with_array(v, v.array[:, :, 10:20]), "warn", "less than a brain is high"),
        (lambda v: with_array(v, np.full_like(v.array, 7)), "stop", "every voxel is 7"),
        (lambda v: with_array(v, v.array - 0.8 * v.array.max()), "warn", "not z-scores"),
    ],
    ids=["one slice", "a slab", "flat", "z-scores"],
)
def test_one_scan_alone_tells_what_is_wrong_with_it(
    raw_scans: dict[str, Volume], change, severity: str, what: str
):
    found = check_volumes({"T2": change(raw_scans["T2"])})
    assert [f.severity for f in found] == [severity]
    assert what in found[0].what


def test_voxels_unlike_those_that_a_model_learnt_from_are_told(raw_scans: dict[str, Volume]):
    scan = {"T2": raw_scans["T2"]}
    size = raw_scans["T2"].geometry.voxel_size
    assert said(scan, voxel_size=size) == []
    assert said(scan, voxel_size=(size[0], size[1], 3 * size[2])) == [("warn", "T2")]
    assert said(scan, voxel_size=(size[0] / 3, size[1] / 3, size[2])) == [("warn", "T2")]


def test_one_scan_that_is_finer_than_the_reference_is_as_it_should_be(
    raw_scans: dict[str, Volume],
):
    both = {name: raw_scans[name] for name in ("T1", "T2")}
    assert said(both, voxel_size=both["T2"].geometry.voxel_size) == []
