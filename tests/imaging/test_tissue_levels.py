"""Tissue levels: accuracy in any set of sequences, robustness, and the map to standard levels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from flaxflair.core.records import Array, InputError
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.imaging.tissue_levels import (
    CONTRASTS,
    STANDARD,
    Levels,
    fit_tissue_levels,
    from_standard,
    landmarks,
    to_standard,
)

VOXEL = (1.5, 1.5, 1.5)
SUBSETS = [names for size in range(1, 6) for names in combinations(INPUTS, size)]
# Levels of a scanner that differ from the standard levels.
OTHER: Mapping[str, Levels] = {
    "T1": Levels(0.15, 0.70, 1.0),
    "T1SE": Levels(0.40, 0.87, 1.0),
    "T2": Levels(3.2, 1.50, 1.0),
    "PD": Levels(1.25, 1.17, 1.0),
    "DIR": Levels(0.20, 1.0, 0.20),
    "FLAIR": Levels(0.35, 1.28, 1.0),
}


class Head(NamedTuple):
    """Shares of fluid, grey and white matter, [x, y, z, 3], and the brain."""

    shares: Array
    brain: Array


@pytest.fixture(scope="module")
def head() -> Head:
    """An ellipsoid with ventricles, a folded cortex and partial volume."""
    x, y, z = np.meshgrid(*(np.arange(-n, n + 1) * VOXEL[0] for n in (48, 58, 44)), indexing="ij")
    radius = np.sqrt((x / 66) ** 2 + (y / 80) ** 2 + (z / 60) ** 2)
    depth = np.asarray(ndimage.distance_transform_edt(radius < 1, sampling=VOXEL))
    folds = depth - 11 - 9 * np.sin(x / 4.5) * np.sin(y / 4.5 + 1) * np.sin(z / 4.5 + 2)
    nuclei = (np.abs(x) - 18) ** 2 + y**2 + z**2 < 11**2
    ventricles = (np.abs(x) - 6) ** 2 / 16 + y**2 / 700 + (z - 8) ** 2 / 90 < 1
    fluid = (folds < -7) | ventricles
    grey = ~fluid & ((folds < 3.5) | nuclei)
    tissue = np.stack([fluid, grey, ~fluid & ~grey], axis=-1).astype(np.float32)
    return Head(ndimage.gaussian_filter(tissue, (0.6, 0.6, 0.6, 0)), radius < 1)


def scan(head: Head, names: tuple[str, ...], gain: float = 1.0, noise: float = 0.03) -> Array:
    """Returns images, [x, y, z, m], of `OTHER`, whose noise is a share of the mean level."""
    rng = np.random.default_rng(0)
    levels = np.array([[OTHER[n].fluid, OTHER[n].grey, OTHER[n].white] for n in names])
    images = head.shares @ levels.T
    images = images + noise * levels.mean(axis=1) * rng.standard_normal(images.shape)
    return (gain * np.abs(images)).astype(np.float32)


@pytest.mark.parametrize("names", [*SUBSETS, (TARGET,)], ids="+".join)
def test_levels_are_accurate_for_every_set_of_sequences(head: Head, names: tuple[str, ...]):
    found = fit_tissue_levels(scan(head, names), names, head.brain, VOXEL)
    for name in names:
        levels, true = found[name], OTHER[name]
        scale = max(true.grey, true.white)
        assert levels.grey == pytest.approx(true.grey, abs=0.04 * scale), name
        assert levels.white == pytest.approx(true.white, abs=0.04 * scale), name
        if "fluid" in CONTRASTS[name].order:
            assert levels.fluid == pytest.approx(true.fluid, rel=0.10, abs=0.04 * scale), name


@pytest.mark.parametrize("names", [("T1",), ("T1", "T2"), INPUTS], ids="+".join)
def test_levels_scale_with_gain(head: Head, names: tuple[str, ...]):
    images = scan(head, names)
    once = fit_tissue_levels(images, names, head.brain, VOXEL)
    more = fit_tissue_levels(images * np.float32(37), names, head.brain, VOXEL)
    for name in names:
        levels, scaled = (landmarks(each[name], name) for each in (once, more))
        np.testing.assert_allclose(scaled, 37 * levels, rtol=1e-3)


@pytest.mark.parametrize("sequence", STANDARD)
def test_from_standard_undoes_to_standard(sequence: str):
    levels = Levels(*(180 * getattr(OTHER[sequence], name) for name in ("fluid", "grey", "white")))
    image = np.linspace(-50, 900, 60, dtype=np.float32).reshape(3, 4, 5)
    standard = to_standard(image, levels, sequence)
    assert standard.dtype == np.float32
    assert (np.diff(standard.ravel()) > 0).all()
    np.testing.assert_allclose(
        from_standard(standard, levels, sequence), image, rtol=1e-5, atol=1e-3
    )
    np.testing.assert_allclose(
        to_standard(landmarks(levels, sequence), levels, sequence),
        landmarks(STANDARD[sequence], sequence),
        rtol=1e-6,
    )


@pytest.mark.parametrize("names", [("T1", "T2"), ("T2",)], ids="+".join)
def test_levels_are_robust_to_lesions_of_five_percent(head: Head, names: tuple[str, ...]):
    """Long T1 and T2, around the ventricles."""
    white = head.shares[..., 2] > 0.9
    distance = np.asarray(ndimage.distance_transform_edt(head.shares[..., 0] < 0.5, sampling=VOXEL))
    order = np.where(white & (np.indices(white.shape)[2] > 40), distance, np.inf)
    lesion = order <= np.sort(order.ravel())[int(0.05 * head.brain.sum())]
    images = scan(head, names)
    for channel, name in enumerate(names):
        images[lesion, channel] *= {"T1": 0.65, "T2": 2.0}[name]
    without = fit_tissue_levels(scan(head, names), names, head.brain, VOXEL)
    found = fit_tissue_levels(images, names, head.brain, VOXEL)
    for name in names:
        np.testing.assert_allclose(
            landmarks(found[name], name), landmarks(without[name], name), rtol=0.06
        )


@pytest.mark.parametrize("names", [("T1", "T2"), ("T2",)], ids="+".join)
@pytest.mark.parametrize("grow", [-1, 1])
def test_levels_are_robust_to_errors_of_the_mask(head: Head, names: tuple[str, ...], grow: int):
    images = scan(head, names)
    change = ndimage.binary_dilation if grow > 0 else ndimage.binary_erosion
    right = fit_tissue_levels(images, names, head.brain, VOXEL)
    wrong = fit_tissue_levels(images, names, change(head.brain), VOXEL)
    for name in names:
        np.testing.assert_allclose(
            landmarks(wrong[name], name), landmarks(right[name], name), rtol=0.06
        )


def test_brain_without_signal_or_contrast_is_refused(head: Head):
    images = scan(head, ("T1", "T2"))
    with pytest.raises(InputError, match=r"0 voxels with a positive signal in T1, T2"):
        fit_tissue_levels(images * 0, ("T1", "T2"), head.brain, VOXEL)
    flat = images.copy()
    flat[..., 1] = 300
    with pytest.raises(InputError, match="the T2 has no contrast"):
        fit_tissue_levels(flat, ("T1", "T2"), head.brain, VOXEL)
