"""Where the brain is, against phantoms with skull and scalp, shaded by a coil."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from flaxflair import metrics
from flaxflair.brain import find_brain
from flaxflair.orientation import to_ras
from flaxflair.phantom.simulate import Simulation, simulate_subject
from flaxflair.resample import resample


@functools.cache
def head(seed: int, subject: int) -> Simulation:
    return simulate_subject(seed, subject, patient=True, scale=0.5)


def overlap(simulation: Simulation, sequence: str) -> float:
    """Returns the Dice coefficient of the brain found in a scan, on the FLAIR's grid."""
    scan = simulation.scans[sequence]
    volume = to_ras(scan.volume)
    found = find_brain(volume)
    grid = simulation.scans["FLAIR"].volume.geometry
    affine = volume.geometry.affine
    laid = resample(found.astype(np.float32), affine, grid, scan.motion, beyond="zero")
    return metrics.dice(laid > 0.5, simulation.truth.brain)


# Heads whose skulls, or whose necks, can be mistaken for the brain's edge.
@pytest.mark.parametrize(("seed", "subject"), [(1, 2), (1, 3), (2, 5)])
def test_a_skull_does_not_pass_for_the_brains_edge(seed: int, subject: int):
    assert overlap(head(seed, subject), "T1") > 0.94


def test_a_brain_is_found_in_a_t2_alone():
    assert overlap(head(1, 2), "T2") > 0.92
