"""Tissue classes: each voxel has the tissue whose standard levels it is closest to."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.tissue_classes import CLASSES, classify
from flaxflair.imaging.tissue_levels import STANDARD, TISSUES

# A sequence on which two tissues have one level does not tell them apart.
AMBIGUOUS = {"PD", "DIR"}
SUBSETS = [s for n in range(1, 6) for s in combinations(INPUTS, n) if not set(s) <= AMBIGUOUS]


@pytest.mark.parametrize("sequences", SUBSETS, ids="+".join)
def test_standard_levels_are_classified_as_their_tissue(sequences: tuple[str, ...]):
    rows = [[getattr(STANDARD[name], tissue) for name in sequences] for tissue in TISSUES]
    images = np.array(rows, np.float32)[None, None]
    assert classify(images, sequences).ravel().tolist() == [0, 1, 2]


def test_values_beyond_the_levels_belong_to_the_outermost_tissue():
    images = np.array([0.0, 9.0], np.float32)[None, None, :, None]
    assert classify(images, ("T2",)).ravel().tolist() == [2, 0]


def test_a_probable_lesion_is_one_whatever_its_intensity():
    images = np.ones((1, 1, 3, 1), np.float32)
    classes = classify(images, ("T1",), np.array([[[0.1, 0.5, 1.0]]]))
    assert classes.ravel().tolist() == [CLASSES.index("white"), *[CLASSES.index("lesion")] * 2]
