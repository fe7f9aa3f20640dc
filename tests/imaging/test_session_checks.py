"""Checks of the scans of a session."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.session_checks import check_volumes
from tests.samples import reorder


def move(volume: Volume, millimetres: float) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[0, 3] += millimetres
    return Volume(volume.array, Geometry(volume.geometry.shape, affine))


def with_array(volume: Volume, array: Array) -> Volume:
    x, y, z = array.shape
    return Volume(array, replace(volume.geometry, shape=(x, y, z)))


def resize(volume: Volume, factor: float) -> Volume:
    affine = np.diag([factor, factor, factor, 1]) @ volume.geometry.affine
    return Volume(volume.array, Geometry(volume.geometry.shape, affine))


def severities(volumes: dict[str, Volume], **options) -> list[tuple[str, str]]:
    """Returns (severity, sequence) of each finding."""
    return [(f.severity, f.sequence) for f in check_volumes(volumes, **options)]


def test_valid_session_has_no_findings(raw_scans: dict[str, Volume]):
    assert check_volumes(raw_scans) == []


def test_exchanged_t1_and_t2_are_found(raw_scans: dict[str, Volume]):
    exchanged = {**raw_scans, "T1": raw_scans["T2"], "T2": raw_scans["T1"]}
    found = check_volumes(exchanged)
    assert {("stop", "T1"), ("stop", "T2")} <= {(f.severity, f.sequence) for f in found}
    assert "looks like a T2: fluid is darkest on a T1" in next(
        f.what for f in found if f.sequence == "T1"
    )


@pytest.mark.parametrize("other", ["FLAIR", "PD", "DIR", "T1SE"])
def test_other_sequence_given_as_t2_is_found(raw_scans: dict[str, Volume], other: str):
    found = check_volumes({"T1": raw_scans["T1"], "T2": raw_scans[other]})
    assert ("stop", "T2") in [(f.severity, f.sequence) for f in found]
    assert any("give the T2" in f.what or "exchange" in f.what for f in found)


def test_missing_overlap_stops_and_small_overlap_warns(
    raw_scans: dict[str, Volume],
):
    two = {name: raw_scans[name] for name in ("T1", "T2")}
    assert ("stop", "T2") in severities({**two, "T2": move(two["T2"], 2000)})
    assert ("warn", "T2") in severities({**two, "T2": move(two["T2"], 130)})


def test_extracted_brain_among_heads_is_refused(raw_scans: dict[str, Volume]):
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
        (lambda v: with_array(v, v.array[:, :, 20:21]), "stop", "voxels; give the whole stack"),
        (lambda v: with_array(v, v.array[:, :, 10:20]), "warn", "less than the height of a brain"),
        (lambda v: with_array(v, np.full_like(v.array, 7)), "stop", "every voxel is 7"),
        (lambda v: with_array(v, v.array * np.float32(1e30)), "stop", "beyond any scanner's"),
        (lambda v: resize(v, 0.001), "stop", "not the size of a head"),
        (lambda v: resize(v, 1000), "stop", "not the size of a head"),
    ],
    ids=[
        "one slice",
        "a slab",
        "flat",
        "huge",
        "metres without a unit",
        "micrometres without a unit",
    ],
)
def test_invalid_scan_is_found_without_other_scans(
    raw_scans: dict[str, Volume], change, severity: str, what: str
):
    found = check_volumes({"T2": change(raw_scans["T2"])})
    assert [f.severity for f in found] == [severity]
    assert what in found[0].what


def test_voxel_size_unlike_the_training_images_is_a_warning(raw_scans: dict[str, Volume]):
    scan = {"T2": raw_scans["T2"]}
    size = raw_scans["T2"].geometry.voxel_size
    assert severities(scan, voxel_size=size) == []
    assert severities(scan, voxel_size=(size[0], size[1], 3 * size[2])) == [("warn", "T2")]
    assert severities(scan, voxel_size=(size[0] / 3, size[1] / 3, size[2])) == [("warn", "T2")]


def test_single_finer_scan_is_accepted(
    raw_scans: dict[str, Volume],
):
    both = {name: raw_scans[name] for name in ("T1", "T2")}
    assert severities(both, voxel_size=both["T2"].geometry.voxel_size) == []


def wrap(array: Array, kind: type, gain: float) -> Array:
    """Returns an array after overflow of a narrow integer type."""
    return (gain * array / array.max()).astype(np.int64).astype(kind).astype(np.float32)


def in_8_bits(array: Array) -> Array:
    """Returns an array clipped at its 99.5th percentile and quantised to 256 levels."""
    high = np.percentile(array, 99.5)
    return (np.clip(array / high, 0, 1) * 255).astype(np.uint8) * np.float32(high / 255)


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        (lambda a: a - 0.3 * np.percentile(a, 99), "stop", "of its voxels below zero"),
        (lambda a: (a - a.mean()) / a.std(), "stop", "of its voxels below zero"),
        (lambda a: wrap(a, np.int16, 60_000), "stop", "of its voxels below zero"),
        (lambda a: wrap(a - 0.02 * a.max(), np.uint16, 9_000), "stop", "after integer overflow"),
        (lambda a: wrap(a, np.uint16, 90_000), "warn", "near its maximum of"),
        (lambda a: (a > a.mean()).astype(np.float32), "stop", "only 2 distinct values"),
        (lambda a: np.digitize(a, np.percentile(a, (50, 80, 95))), "stop", "only 4 distinct"),
        (lambda a: a + 2 * np.percentile(a, 99), "warn", "was an offset added?"),
        (lambda a: np.minimum(a, np.percentile(a, 90)), "warn", "is clipped"),
        (in_8_bits, "warn", "has 256 levels"),
    ],
    ids=[
        "an offset below",
        "z-scores",
        "wrapped to negative",
        "wrapped from negative",
        "wrapped from above",
        "a mask",
        "a label map",
        "an offset above",
        "clipped",
        "8 bits",
    ],
)
def test_implausible_intensities_are_found(
    raw_scans: dict[str, Volume], change, severity: str, what: str
):
    scan = raw_scans["T2"]
    found = check_volumes({"T2": with_array(scan, change(scan.array).astype(np.float32))})
    assert any(f.severity == severity and what in f.what for f in found), found


@pytest.mark.parametrize("gain", [1e-9, 1e-3, 10, 1e9])
def test_findings_are_independent_of_gain(raw_scans: dict[str, Volume], gain: float):
    two = {name: raw_scans[name] for name in ("T1", "T2")}
    scaled = {name: with_array(v, v.array * np.float32(gain)) for name, v in two.items()}
    assert check_volumes(scaled) == check_volumes(two) == []
    exchanged = {"T1": scaled["T2"], "T2": scaled["T1"]}
    assert {("stop", "T1"), ("stop", "T2")} <= set(severities(exchanged))


@pytest.mark.parametrize(
    "change",
    [lambda v: v, lambda v: with_array(v, 3 * v.array), reorder("PSL")],
    ids=["as it is", "with another gain", "with other axes"],
)
def test_copy_of_another_sequence_is_refused(raw_scans: dict[str, Volume], change):
    found = check_volumes({"T1": raw_scans["T1"], "T2": change(raw_scans["T1"])})
    assert ("stop", "T2") in [(f.severity, f.sequence) for f in found]
    assert any("is a copy of the image given as T1" in f.what for f in found)
