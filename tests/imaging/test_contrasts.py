"""Checks of the contrast of registered images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxflair.core.records import Array, Volume
from flaxflair.imaging.contrasts import check_contrasts
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.resampling import resample
from flaxflair.io.nifti import read_volume
from tests.test_real import folder


@pytest.fixture(scope="module")
def brain(raw_phantom: Path) -> Volume:
    """The brain of the raw phantom, on its FLAIR's grid."""
    place = raw_phantom / "derivatives/truth/sub-01/anat"
    return to_ras(read_volume(place / "sub-01_space-FLAIR_desc-brain_mask.nii.gz"))


@pytest.fixture(scope="module")
def images(raw_scans: dict[str, Volume], brain: Volume) -> dict[str, Array]:
    """The scans on the FLAIR's grid, by their headers."""
    scans = {name: to_ras(volume) for name, volume in raw_scans.items()}
    return {
        name: resample(v.array, v.geometry.affine, brain.geometry, np.eye(4), beyond="zero")
        for name, v in scans.items()
    }


def check(images: dict[str, Array], brain: Volume) -> list[Finding]:
    return check_contrasts(images, brain.array > 0.5, brain.geometry.voxel_size)


@pytest.mark.parametrize("given", [("T1", "T2"), ("T1",), ("T1SE",), ("T2",), ("PD",), ("DIR",)])
@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e6])
def test_scans_of_their_own_sequence_have_no_findings(
    images: dict[str, Array], brain: Volume, given: tuple[str, ...], gain: float
):
    assert check({name: images[name] * np.float32(gain) for name in given}, brain) == []


@pytest.mark.parametrize("other", ["PD", "FLAIR", "DIR", "T2"])
@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (("T2",), "correlated with the T2 in tissue, but like a PD"),
        ((), "brighter in white matter than in grey"),
    ],
)
@pytest.mark.parametrize("name", ["T1", "T1SE"])
def test_other_sequence_given_as_t1_is_found(
    images: dict[str, Array],
    brain: Volume,
    name: str,
    other: str,
    beside: tuple[str, ...],
    expected: str,
):
    if name == "T1SE" and beside:
        pytest.skip("compared by depth alone")
    found = check({name: images[other], **{n: images[n] for n in beside}}, brain)
    assert {f.sequence for f in found} == {name}
    assert found[0].what.startswith(f"does not look like a {name}, ")
    assert expected in found[0].what
    assert found[0].what.endswith(f"give the {name}")


@pytest.mark.parametrize("name", ["PD", "DIR"])
def test_t1_given_as_another_sequence_is_found(images: dict[str, Array], brain: Volume, name: str):
    (found,) = check({name: images["T1"]}, brain)
    assert found.what.startswith(f"does not look like a {name}, ")


def test_contrast_agent_in_vessels_is_found(images: dict[str, Array], brain: Volume):
    inside = brain.array > 0.5
    vessels = np.random.default_rng(0).random(inside.shape) < 0.005
    bright = np.where(vessels, 3 * np.median(images["T1"][inside]), images["T1"])
    (found,) = check({"T1": bright}, brain)
    assert "as after a contrast agent" in found.what


@pytest.mark.parametrize("with_t2", [True, False])
def test_real_scans_are_recognised(with_t2: bool):
    for path in sorted(folder("open-ms-brain").glob("sub-*/anat/*_T1w.nii.gz")):
        t1, flair, t2 = (
            to_ras(read_volume(path.with_name(path.name.replace("T1w", suffix))))
            for suffix in ("T1w", "FLAIR", "T2w")
        )
        beside = {"T2": t2.array} if with_t2 else {}
        brain = Volume((t1.array != 0).astype(np.float32), t1.geometry)
        assert not [f for f in check({"T1": t1.array, **beside}, brain) if f.severity == "stop"]
        assert check({"T1": flair.array, **beside}, brain)[0].sequence == "T1"
