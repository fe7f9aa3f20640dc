"""The list of lesions on a page: what it holds, and where a click on a row leads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from flaxflair.core.records import Subject
from flaxflair.evaluation.lesion_evidence import find_lesions, measure_lesions
from flaxflair.evaluation.lesion_table import describe_columns, lesion_rows
from flaxflair.visualization.lesion_list import LesionList
from flaxflair.visualization.session_page import write_page
from tests.browser import open_page
from tests.samples import ball

READY = "document.body.dataset.ready"


@pytest.fixture(scope="module")
def listed() -> tuple[Subject, LesionList]:
    """A session with a bright lesion on the left, and a smaller one on the right."""
    subject = ball((2.0, 2.0, 3.0))
    probability = np.zeros(subject.geometry.shape, np.float32)
    probability[12:15, 18:21, 11:14] = 0.95
    probability[27:29, 18:20, 12:14] = 0.8
    subject.images[probability > 0] = 900
    assert subject.flair is not None
    geometry, brain = subject.geometry, subject.masks.brain
    labels = find_lesions(probability, geometry.voxel_size)
    without = {"T1": 0 * probability, "T2": probability}
    lesions = measure_lesions(labels, probability, subject.flair / 400, brain, geometry, without)
    rows = tuple(lesion_rows(lesions, subject.sequences))
    return subject, LesionList(probability, tuple(describe_columns(subject.sequences)), rows)


def write(listed: tuple[Subject, LesionList], path: Path) -> Path:
    subject, lesions = listed
    assert subject.flair is not None
    write_page(path, subject, subject.flair, {}, lesions=lesions)
    return path


def read_scene(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    assert found is not None
    return json.loads(found[1])[0]


def test_page_lists_every_lesion_with_its_place(listed, tmp_path: Path):
    scene = read_scene(write(listed, tmp_path / "page.html"))
    table = scene["table"]
    assert table["title"] == "Lesions: 2"
    assert table["columns"][-2:] == ["without T1", "without T2"]
    first, second = table["rows"]
    assert first["mm"] == [26.0, 38.0, 36.0]
    assert [row["cells"][1] for row in (first, second)] == ["left", "right"]
    assert first["cells"][5] == "324 (324 to 324)"
    assert first["cells"][-2:] == ["0.00", "0.95"]
    titles = [layer["title"] for layer in scene["layers"] if layer["kind"] == "overlay"]
    assert {"lesion probability", "outline of the lesions listed"} <= set(titles)


def test_page_without_lesions_does_not_say_that_there_are_none(listed, tmp_path: Path):
    subject, lesions = listed
    nothing = LesionList(0 * lesions.probability, lesions.columns, ())
    scene = read_scene(write((subject, nothing), tmp_path / "page.html"))
    assert scene["table"]["title"] == "Lesions: none found, which does not exclude any"
    assert scene["table"]["rows"] == []


def test_page_of_a_prediction_without_lesions_has_no_list(listed, tmp_path: Path):
    subject, _ = listed
    write_page(tmp_path / "page.html", subject, subject.flair, {})
    assert read_scene(tmp_path / "page.html")["table"] is None


@pytest.mark.parametrize(("row", "place"), [(0, "26.0, 38.0, 36.0 mm"), (1, "54.0, 36.0, 36.0 mm")])
def test_a_click_on_a_row_moves_the_cross_of_both_panels(
    listed, tmp_path: Path, row: int, place: str
):
    path = write(listed, tmp_path / "page.html")
    click = f"document.querySelectorAll('#places tbody tr')[{row}].click()"
    values = "[...document.querySelectorAll('.value')].map((o) => o.textContent)"
    show = f"document.querySelector('h1').textContent = {values}.join(' | ')"
    page = open_page(path, width=1200, ready=f"{READY} && ({click}, {show}, true)")
    assert page.console == []
    assert page.overflow == 0
    assert place in page.text
    # The T2 on the left is 900 in a lesion; the FLAIR on the right is not.
    left, right = (float(text) for text in page.text.splitlines()[0].split(" | "))
    assert left == pytest.approx(900, rel=0.02)
    assert right == pytest.approx(listed[0].flair[13, 19, 12], rel=0.2)
