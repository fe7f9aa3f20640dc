"""Quality of images: each measure responds to the defect that it is for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from flaxflair.core.records import Array, Subject
from flaxflair.imaging.image_quality import flatten, image_quality
from flaxflair.imaging.tissue_levels import fit_tissue_levels
from tests.samples import ball

RNG = np.random.default_rng(0)


def measure(change: Callable[[Array], Array] | None = None) -> dict[str, float]:
    """Returns the measures of a ball whose T1 is changed."""
    subject: Subject = ball()
    images = subject.images.copy()
    if change is not None:
        images[..., 0] = change(images[..., 0])
    brain, size = subject.masks.brain, subject.geometry.voxel_size
    levels = fit_tissue_levels(subject.images, subject.sequences, brain, size)
    return flatten(image_quality(images, subject.sequences, brain, size, levels, {}))


@pytest.fixture(scope="module")
def usual() -> dict[str, float]:
    return measure()


def zero_slices(image: Array) -> Array:
    out = image.copy()
    out[:, :, 38:42] = 0
    return out


@pytest.mark.parametrize(
    ("change", "name", "least"),
    [
        (lambda x: x + RNG.normal(0, 60, x.shape).astype(np.float32), "noise", 0.1),
        (lambda x: np.where(np.arange(80)[:, None, None] > 50, 4 * x, x), "implausible", 0.1),
        (zero_slices, "empty", 0.04),
        (zero_slices, "empty_slice", 0.9),
        (lambda x: x * np.where(np.arange(80) % 7 == 3, 1.6, 1.0), "slice_jump", 0.3),
    ],
    ids=["noise", "bright side", "empty voxels", "empty slices", "bright slices"],
)
def test_a_defect_raises_its_measure_and_leaves_the_other_scan(
    usual: dict[str, float], change: Callable[[Array], Array], name: str, least: float
):
    found = measure(change)
    assert found[f"{name}_T1"] > least > 2 * usual[f"{name}_T1"]
    assert found[f"{name}_T2"] == usual[f"{name}_T2"]


def test_blur_lowers_sharpness(usual: dict[str, float]):
    found = measure(lambda x: ndimage.gaussian_filter(x, 3.0))
    assert found["sharpness_T1"] < 0.5 * usual["sharpness_T1"]


def test_the_noise_of_white_noise_is_its_standard_deviation(usual: dict[str, float]):
    # `ball` multiplies by noise of 2 %, and white matter of the T1 is at 1.
    assert usual["noise_T1"] == pytest.approx(0.02, rel=0.3)


def test_measures_are_omitted_where_there_are_too_few_voxels():
    subject = ball()
    brain = np.zeros_like(subject.masks.brain)
    brain[38:44, 38:44, 38:44] = True
    size = subject.geometry.voxel_size
    levels = fit_tissue_levels(subject.images, subject.sequences, subject.masks.brain, size)
    found = image_quality(subject.images, subject.sequences, brain, size, levels, {})
    assert "noise" not in found["T1"]


def test_slices_of_zeros_are_noticed_where_the_mask_lacks_them_too():
    subject = ball()
    images, brain = subject.images.copy(), subject.masks.brain.copy()
    images[:, :, 40, 0] = 0
    brain[:, :, 40] = False
    size = subject.geometry.voxel_size
    levels = fit_tissue_levels(subject.images, subject.sequences, brain, size)
    found = image_quality(images, subject.sequences, brain, size, levels, {})
    assert found["T1"]["empty_slice"] > 0.9
