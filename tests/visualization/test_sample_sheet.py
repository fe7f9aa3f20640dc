"""The sheet of simulated samples is a picture that shows what it is given."""

from __future__ import annotations

import numpy as np
from matplotlib.image import imread

from flaxflair.core.records import Geometry, Masks, Subject
from flaxflair.visualization.sample_sheet import draw_sample_sheet
from tests.simulation.test_generator import library  # noqa: F401  (a fixture)


def a_scanned_subject() -> Subject:
    radius = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    t1 = np.select([radius < 6, radius < 14, radius < 17], [30, 100, 75], 20).astype(np.float32)
    t1 += np.random.default_rng(0).normal(0, 2, t1.shape).astype(np.float32)
    brain = radius < 18
    return Subject(
        participant="sub-01",
        session=None,
        group="",
        sequences=("T1",),
        images=(t1 * brain)[..., None],
        flair=None,
        masks=Masks(brain),
        geometry=Geometry((40, 40, 40), np.eye(4)),
    )


def test_sheet_shows_simulated_and_scanned_slices(library, tmp_path):  # noqa: F811
    out = tmp_path / "sheet.png"
    counts: list[int] = []
    draw_sample_sheet(library, 0, out, samples=2, on_sample=counts.append)
    alone = imread(out)
    draw_sample_sheet(library, 0, out, samples=2, subjects=[a_scanned_subject()])
    beside = imread(out)
    assert counts == [1, 2]
    assert alone[..., :3].std() > 0.05
    assert beside.shape[1] > alone.shape[1]
