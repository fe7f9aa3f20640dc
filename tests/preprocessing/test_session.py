"""Preparation of a phantom with known motion and bias."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxflair.core.records import Geometry, InputError, Volume
from flaxflair.evaluation import metrics
from flaxflair.imaging.orientation import from_ras, to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.io.datasets import VOXEL_SIZE, load_cohort
from flaxflair.io.nifti import read_volume
from flaxflair.io.session_files import find_sessions
from flaxflair.preprocessing.alignment import edges_along
from flaxflair.preprocessing.options import Preparation, choose_reference
from flaxflair.preprocessing.session import Prepared, preparation_warnings, prepare_session
from flaxflair.simulation.scanner import bias_field
from tests.samples import reorder, tilt
from tests.truth import compare_bias, misplaced, variation

NAMES = ("T1", "T2", "T1SE")


@pytest.fixture(scope="module")
def planted(raw_phantom: Path) -> dict[str, dict[str, Any]]:
    """Returns sequence -> sidecar of the phantom, with simulated motion and bias."""
    (session,) = find_sessions(raw_phantom, (), flair="welcome")
    paths = {i.sequence: i.path for i in session.images}
    return {
        name: json.loads(paths[name].with_name(paths[name].name[:-7] + ".json").read_text())
        for name in NAMES
    }


@pytest.fixture(scope="module")
def prepared(raw_scans: dict[str, Volume]) -> Prepared:
    return prepare_session({name: raw_scans[name] for name in (*NAMES, "FLAIR")})


@pytest.fixture(scope="module")
def truth(raw_phantom: Path) -> dict[str, Volume]:
    """Returns the true masks of the phantom, on the FLAIR's grid."""
    folder = raw_phantom / "derivatives/truth/sub-01/anat"
    names = {"brain": "desc-brain_mask", "white": "label-NAWM_mask"}
    return {
        key: read_volume(folder / f"sub-01_space-FLAIR_{name}.nii.gz")
        for key, name in names.items()
    }


def test_all_images_are_on_the_grid_of_the_flair(prepared: Prepared, raw_scans: dict[str, Volume]):
    assert prepared.reference == "FLAIR"
    assert prepared.native.matches(raw_scans["FLAIR"].geometry)
    assert set(prepared.images) == {*NAMES, "FLAIR"}
    for image in prepared.images.values():
        assert image.shape == prepared.geometry.shape
        assert image.dtype == np.float32
    assert preparation_warnings(prepared) == ()


@pytest.mark.parametrize("name", NAMES)
def test_motion_is_estimated(
    name: str,
    prepared: Prepared,
    truth: dict[str, Volume],
    planted: dict[str, dict[str, Any]],
):
    brain = truth["brain"]
    motion = np.array(planted[name]["PhantomMotion"])
    before, after = (
        misplaced(found, motion, brain.array > 0.5, brain.geometry)
        for found in (np.eye(4), prepared.transforms[name])
    )
    assert after < 1.0 < before


@pytest.fixture(scope="module")
def left(
    raw_scans: dict[str, Volume], truth: dict[str, Volume], planted: dict[str, dict[str, Any]]
) -> Callable[[Prepared, str], float]:
    """Returns a function for the fraction of the bias in white matter that is left in a scan."""

    def measure(prepared: Prepared, name: str) -> float:
        scan = to_ras(raw_scans[name])
        bias = compare_bias(
            scan,
            bias_field(planted[name]["PhantomBias"]["Coefficients"], scan.geometry),
            prepared.images[name],
            prepared.geometry,
            prepared.transforms[name],
            np.array(planted[name]["PhantomMotion"]),
            to_ras(truth["white"]).array > 0.5,
        )
        return variation(bias.left) / variation(bias.planted)

    return measure


@pytest.mark.parametrize("name", NAMES)
def test_bias_is_corrected(name: str, prepared: Prepared, left: Callable[[Prepared, str], float]):
    assert left(prepared, name) < 1 / 3


def test_the_bias_of_a_session_is_more_accurate_than_that_of_single_scans(
    raw_scans: dict[str, Volume], prepared: Prepared, left: Callable[[Prepared, str], float]
):
    scans = {name: raw_scans[name] for name in (*NAMES, "FLAIR")}
    alone = prepare_session(scans, Preparation(bias_by="scan"))
    assert alone.bias_weights == {name: {name: 1.0} for name in scans}
    for name in scans:
        assert sum(prepared.bias_weights[name].values()) == pytest.approx(1, abs=0.1)
        np.testing.assert_array_equal(alone.transforms[name], prepared.transforms[name])
    assert sum(left(prepared, name) for name in NAMES) < sum(left(alone, name) for name in NAMES)


def test_the_brain_is_extracted(prepared: Prepared, truth: dict[str, Volume]):
    assert metrics.dice(prepared.brain, to_ras(truth["brain"]).array > 0.5) > 0.94


def test_a_given_mask_is_used(raw_scans: dict[str, Volume], truth: dict[str, Volume]):
    scans = {"FLAIR": raw_scans["FLAIR"]}
    found = prepare_session(scans, brain=truth["brain"])
    np.testing.assert_array_equal(from_ras(found.brain, found.native), truth["brain"].array > 0.5)


def test_a_mask_on_the_grid_of_two_scans_belongs_to_the_reference(
    raw_scans: dict[str, Volume], truth: dict[str, Volume]
):
    scans = {name: raw_scans[name] for name in ("T2", "FLAIR")}
    assert scans["T2"].geometry.matches(scans["FLAIR"].geometry)
    found = prepare_session(scans, brain=truth["brain"])
    np.testing.assert_array_equal(from_ras(found.brain, found.native), truth["brain"].array > 0.5)


@pytest.mark.parametrize("change", [reorder("SLA"), tilt], ids=["other axes", "oblique"])
def test_the_axis_order_of_files_does_not_change_the_result(change, raw_scans: dict[str, Volume]):
    scans = {name: raw_scans[name] for name in ("T1", "T2")}
    first = prepare_session(scans)
    again = prepare_session({name: change(scan) for name, scan in scans.items()})
    assert again.native.matches(change(scans["T2"]).geometry)
    for name, image in first.images.items():
        difference = np.abs(again.images[name] - image).max()
        assert difference < 1e-3 * image[first.brain].std()
    assert metrics.dice(first.brain, again.brain) > 0.9999


def test_the_reference_is_the_flair_then_the_t2_then_the_t1():
    assert choose_reference({"T1": 0, "T2": 0, "FLAIR": 0}) == "FLAIR"
    assert choose_reference({"T1": 0, "T2": 0}) == "T2"
    assert choose_reference({"T1": 0, "PD": 0}) == "T1"
    assert choose_reference({"T1": 0, "PD": 0}, "PD") == "PD"
    with pytest.raises(InputError, match="the reference T2 is missing; choose from T1"):
        choose_reference({"T1": 0}, "T2")
    assert choose_reference({"PD": 0}) == "PD"
    with pytest.raises(InputError, match="no sequence can be the reference"):
        choose_reference({})


def test_a_scan_of_half_the_brain_gives_a_warning(raw_scans: dict[str, Volume]):
    scan = raw_scans["T2"]
    half = Volume(
        scan.array[:, :, : scan.array.shape[2] // 2],
        Geometry((*scan.array.shape[:2], scan.array.shape[2] // 2), scan.geometry.affine),
    )
    found = prepare_session({"T1": raw_scans["T1"], "T2": half}, Preparation(reference="T1", dof=6))
    assert any("the T2 covers" in sentence for sentence in preparation_warnings(found))


@pytest.mark.parametrize(
    ("off", "warned"),
    [((0, 0, 0), False), ((0, 0, 30), True), ((25, 0, 0), True), ((0, -40, 0), True)],
    ids=["as scanned", "off along the height", "off to the side", "off to the back"],
)
def test_a_misaligned_scan_gives_a_warning_however_small_its_transform(
    raw_scans: dict[str, Volume], truth: dict[str, Volume], off: tuple[float, ...], warned: bool
):
    fixed, moving = (to_ras(raw_scans[name]) for name in ("FLAIR", "T2"))
    shift = np.eye(4)
    shift[:3, 3] = off
    affine = moving.geometry.affine
    moved = resample(moving.array, affine, fixed.geometry, shift, beyond="zero")
    brain = to_ras(truth["brain"]).array > 0.5
    identity = {"FLAIR": np.eye(4), "T2": np.eye(4)}
    images = np.stack([fixed.array, moved])
    whole = {"FLAIR": 1.0, "T2": 1.0}
    prepared = Prepared(
        "FLAIR",
        raw_scans["FLAIR"].geometry,
        ("FLAIR", "T2"),
        images,
        brain,
        identity,
        whole,
        {},
        {},
        {},
        {},
    )
    assert (
        any("the T2 seems misaligned with the FLAIR" in s for s in preparation_warnings(prepared))
        == warned
    )


def test_scanned_voxel_edges_follow_the_axes_of_the_grid(raw_scans: dict[str, Volume]):
    prepared = prepare_session({name: raw_scans[name] for name in ("T1", "T2")})
    assert prepared.reference == "T2"
    grid = prepared.geometry.voxel_size
    assert prepared.scanned["T2"] == pytest.approx(grid)
    affine = np.array([[0.0, 0, 5, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    turned = Geometry((10, 10, 10), affine)
    own = Geometry((10, 10, 10), np.diag([1.5, 1.0, 1.0, 1.0]))
    # Its first axis (1 mm) runs along y, its second (2 mm) along z, its third (5 mm) along x.
    assert edges_along(turned, own) == pytest.approx((5.0, 1.0, 2.0))
    assert edges_along(own, turned) == pytest.approx((1.0, 2.0, 5.0))


@pytest.mark.parametrize(
    ("edges", "known"),
    [([1, 2, 3.5], True), ([1, 2], False), ("abc", False), ([0, 1, 1], False), (7, False)],
)
def test_the_scanned_voxel_size_is_read_from_the_sidecar(write_dataset, edges: object, known: bool):
    root = write_dataset(["sub-01_T1w", "sub-01_T2w"])
    sidecar = next(root.rglob("*_T2w.nii.gz")).with_name("sub-01_T2w.json")
    sidecar.write_text(json.dumps({VOXEL_SIZE: edges}))
    (subject,) = load_cohort(root, ("T1", "T2"), need_flair=False)
    assert subject.voxel_size("T1") == subject.geometry.voxel_size
    own = (1, 2, 3.5) if known else subject.geometry.voxel_size
    assert subject.voxel_size("T2") == own
    assert any("scanned voxel size of the T2 is assumed" in w for w in subject.warnings) != known
