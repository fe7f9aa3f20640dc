"""Brain extraction from phantoms with skull, scalp and a coil's bias."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from flaxflair.core.records import Geometry, InputError, Volume
from flaxflair.evaluation import metrics
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.resampling import resample, subsample
from flaxflair.preprocessing.brain_extraction import find_brain
from flaxflair.simulation.subject import Simulation, simulate_subject


@functools.cache
def head(seed: int, subject: int) -> Simulation:
    return simulate_subject(seed, subject, patient=True, scale=0.5)


def overlap(simulation: Simulation, sequence: str) -> float:
    """Returns the Dice coefficient of the brain found in a scan, on the FLAIR's grid."""
    scan = simulation.scans[sequence]
    volume = to_ras(scan.volume)
    found = find_brain(volume).mask
    grid = simulation.scans["FLAIR"].volume.geometry
    affine = volume.geometry.affine
    resampled = resample(found.astype(np.float32), affine, grid, scan.motion, beyond="zero")
    return metrics.dice(resampled > 0.5, simulation.truth.brain)


# Heads whose skull or neck can be mistaken for the edge of the brain.
@pytest.mark.parametrize(("seed", "subject"), [(1, 2), (1, 3), (2, 5)])
def test_skull_is_not_included_in_the_brain(seed: int, subject: int):
    assert overlap(head(seed, subject), "T1") > 0.94


def test_the_brain_is_extracted_from_a_t2_alone():
    assert overlap(head(1, 2), "T2") > 0.92


def exchange(volume: Volume, order: tuple[int, int, int], flip: tuple[int, ...]) -> Volume:
    """Returns a head whose header exchanges its axes."""
    array = np.ascontiguousarray(np.flip(volume.array.transpose(order), flip))
    size = np.array(volume.geometry.voxel_size)[list(order)]
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = -size * (np.array(array.shape) - 1) / 2
    x, y, z = array.shape
    return Volume(array, Geometry((x, y, z), affine))


@pytest.mark.parametrize(
    ("order", "flip"),
    [((0, 2, 1), ()), ((1, 0, 2), ()), ((0, 1, 2), (1, 2))],
    ids=["height and depth exchanged", "width and depth exchanged", "upside down"],
)
def test_a_header_that_contradicts_the_anatomy_is_refused(
    order: tuple[int, int, int], flip: tuple[int, ...]
):
    scan = subsample(to_ras(head(1, 2).scans["T1"].volume), 2.0)
    with pytest.raises(InputError, match=r"the anatomy contradicts the header: .*; write the head"):
        find_brain(exchange(scan, order, flip))
