"""The page of a predicted data set: what to look at first is on top, and 1,000 sessions open."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.atomic_files import write_json, write_text
from flaxflair.core.notice import NOTICE
from flaxflair.core.records import Array
from flaxflair.io.nifti import write_volume
from flaxflair.visualization.cohort_report import make_cohort_page, write_cohort_page
from flaxflair.visualization.cohort_sessions import Row, Source, find_predicted, read_rows
from tests.browser import open_page

SHAPE = (32, 40, 20)
AFFINE = np.diag([5.0, 4.0, 6.0, 1.0])
SMALL, MIDDLE, LARGE = 8.0, 9.0, 11.0  # radii, voxels


def ball(radius: float) -> Array:
    centre = (np.array(SHAPE) - 1) / 2
    distance = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1)
    texture = np.random.default_rng(0).uniform(0.5, 1, SHAPE)
    return np.where(distance < radius, 1000 * texture, 0).astype(np.float32)


def add_session(
    root: Path, name: str, *, radius: float = MIDDLE, flair: Path | None = None, **sidecar: Any
) -> Path:
    """Adds a predicted session and returns the path of its FLAIR."""
    folder = root.joinpath(*name.split("_"), "anat")
    folder.mkdir(parents=True)
    path = folder / f"{name}_desc-synth_FLAIR.nii.gz"
    t2 = folder / f"{name}_desc-preproc_T2w.nii.gz"
    if flair is None:
        write_volume(path, ball(radius), AFFINE)
        write_volume(t2, 0.5 * ball(radius), AFFINE)
    else:
        os.link(flair, path)
        os.link(flair, t2)
    content = {
        "SkullStripped": True,
        "SequencesUsed": ["T2"],
        "Model": {"Method": "universal", "Digest": "sha256:0123456789abcdef"},
        "Warnings": [],
        **sidecar,
    }
    path.with_name(f"{name}_desc-synth_FLAIR.json").write_text(json.dumps(content))
    return path


def start(root: Path, **description: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", **description}
    write_json(root / "dataset_description.json", content)
    return root


def verdict(grade: str, *reasons: str) -> Mapping[str, Any]:
    return {"Verdict": {"Grade": grade, "Reasons": list(reasons)}}


class Table(HTMLParser):
    """The cells' texts of the table of a page, and its links."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.images = 0
        self._open = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True
        elif tag == "a":
            self.links.append(dict(attrs)["href"] or "")
        elif tag == "img":
            self.images += 1

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1] += data

    @property
    def names(self) -> list[str]:
        return [row[0].strip() for row in self.rows[1:]]

    def column(self, title: str) -> list[str]:
        at = [cell.strip() for cell in self.rows[0]].index(title)
        return [row[at].strip() for row in self.rows[1:]]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six sessions, each with one reason for its place."""
    source = start(tmp_path / "the source", DatasetType="raw")
    root = start(tmp_path / "out", DatasetLinks={"source": source.as_uri()})
    add_session(root, "sub-01", **verdict("good"), Quality={"Sharpness": 0.51234})
    add_session(root, "sub-02_ses-1", radius=LARGE)
    add_session(root, "sub-02_ses-2", radius=SMALL)
    add_session(root, "sub-03", Warnings=["<b>first</b>", "second"])
    add_session(root, "sub-04", **verdict("look", "The T2 is noisy."))
    add_session(root, "sub-05", **verdict("unusable", "No head."))
    for name in ("sub-01", "sub-02_ses-1"):
        write_text(root / f"{name}.html", "a page")
    for name in ("sub-01", "sub-09"):
        folder = source / name / "anat"
        folder.mkdir(parents=True)
        write_volume(folder / f"{name}_T2w.nii.gz", ball(MIDDLE), AFFINE)
    return root


def test_what_to_look_at_first_is_on_top(cohort: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    assert main(["report", str(cohort), "--out", str(page)]) == 0
    table = Table(page)
    assert table.names == ["sub-05", "sub-04", "sub-03", "sub-02_ses-1", "sub-02_ses-2", "sub-01"]
    grades = [re.sub(r"(?<=[a-z])[A-Z].*", "", text) for text in table.column("verdict")]
    assert grades == ["unusable", "look", "not judged", "not judged", "not judged", "good"]
    assert "No head." in table.column("verdict")[0]
    assert table.images == 12
    assert "Sharpness 0.5123" in page.read_text()
    assert f"{NOTICE}." in page.read_text()


def test_links_lead_from_the_page_to_those_of_the_sessions(cohort: Path, tmp_path: Path):
    page = tmp_path / "elsewhere" / "page.html"
    page.parent.mkdir()
    write_cohort_page(cohort, page)
    links = Table(page).links
    assert len(links) == 2
    assert all((page.parent / link).resolve().is_file() for link in links)


def test_volume_of_the_brain_and_voxels_are_shown(cohort: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    write_cohort_page(cohort, page)
    table = Table(page)
    millilitres = (ball(LARGE) > 0).sum() * 120 / 1000
    share = 100 * ((ball(LARGE) > 0).sum() / (ball(MIDDLE) > 0).sum() - 1)
    assert table.column("brain, mL")[3].split() == [f"{millilitres:,.0f}+{share:.0f}", "%"]
    assert table.column("voxel, mm")[0] == "5×4×6"
    assert not any("lesions" in title or "fit" in title for title in table.rows[0])


def test_markup_in_a_warning_is_text(cohort: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    write_cohort_page(cohort, page)
    assert "<b>first" not in page.read_text()
    assert "<b>first</b>second" in Table(page).column("warnings")


def test_sessions_without_a_flair_and_a_missing_source_are_stated(cohort: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    write_cohort_page(cohort, page)
    assert "1 of 7 sessions of the source data set have no synthetic FLAIR: sub-09;" in (
        page.read_text()
    )
    (tmp_path / "the source").rename(tmp_path / "moved")
    write_cohort_page(cohort, page)
    assert "is missing; restore it" in page.read_text()


def test_lesions_coverage_and_shared_warnings_are_shown(tmp_path: Path):
    root = start(tmp_path / "out")
    for name in ("sub-01", "sub-02"):
        add_session(root, name, Warnings=["the same"], Quality={"IntervalCoverage": 0.876})
    table = "label\tvolume\tvolume_low\tvolume_high\n1\t250\t100\t400\n2\t1000\t800\t1100\n"
    (root / "sub-01/anat/sub-01_space-T2w_desc-lesions_morph.tsv").write_text(table)
    page = tmp_path / "page.html"
    write_cohort_page(root, page)
    shown = Table(page)
    assert sorted(shown.column("lesions")) == ["2", "–"]
    assert sorted(shown.column("lesions, mL")) == ["1.250.90 to 1.50", "–"]
    assert shown.column("interval coverage") == ["0.876", "0.876"]
    assert page.read_text().count("the same") == 1


def test_failed_sessions_of_the_table_are_on_top_with_the_reason(cohort: Path, tmp_path: Path):
    (cohort / "quality.tsv").write_text(
        "participant_id\tsession_id\tverdict\treasons\n"
        'sub-01\tn/a\tgood\tn/a\nsub-09\tn/a\tfailed\tno T1 | nor "T2"\n'
        "sub-10\tses-2\tfailed\tempty\n"
    )
    page = tmp_path / "page.html"
    write_cohort_page(cohort, page)
    table = Table(page)
    assert table.names[:2] == ["sub-09", "sub-10_ses-2"]
    assert table.column("verdict")[0].split() == ["failedno", "T1nor", '"T2"']
    assert "have no synthetic FLAIR" not in page.read_text()
    write_cohort_page(cohort, page, ["01"])
    assert Table(page).names == ["sub-01"]


@pytest.mark.parametrize("masked", [True, False])
def test_whole_heads_need_a_brain_mask_of_the_source(tmp_path: Path, masked: bool):
    source = start(tmp_path / "source")
    root = start(tmp_path / "out", DatasetLinks={"source": source.as_uri()})
    add_session(root, "sub-01", SkullStripped=False)
    folder = source / "sub-01/anat"
    folder.mkdir(parents=True)
    write_volume(folder / "sub-01_FLAIR.nii.gz", ball(MIDDLE), AFFINE)
    if masked:
        brain = ball(SMALL) > 0
        write_volume(folder / "sub-01_desc-brain_mask.nii.gz", brain, AFFINE)
    page = tmp_path / "page.html"
    write_cohort_page(root, page, scores=True)
    text = page.read_text()
    assert ("and there is no brain mask on its grid" in text) is not masked
    assert ("NMSE fit" in text) is masked
    volume = f">{(ball(SMALL) > 0).sum() * 0.12:,.0f}<"
    assert (volume in text) is masked


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sub-01_desc-synth_FLAIR.nii.gz", b"\x1f\x8bcut"),
        ("sub-01_desc-synth_FLAIR.json", b"{"),
        ("sub-01_desc-synth_FLAIR.json", b'{"Verdict": 3}'),
        ("sub-01_desc-synth_FLAIR.json", b'{"Verdict": {"Grade": "bad"}}'),
        ("sub-01_desc-lesions_x.tsv", b"label\tvolume\n1\tx\n"),
        ("sub-01_desc-lesions_x.tsv", b"label\n1\n"),
    ],
)
def test_damaged_session_is_a_row_on_top_that_names_the_file(
    cohort: Path, tmp_path: Path, name: str, content: bytes
):
    (cohort / "sub-01/anat" / name).unlink(missing_ok=True)
    (cohort / "sub-01/anat" / name).write_bytes(content)
    page = tmp_path / "page.html"
    write_cohort_page(cohort, page)
    table = Table(page)
    assert table.names[0] == "sub-01"
    assert table.column("verdict")[0].startswith("unreadable")
    assert name in table.column("verdict")[0]


def test_scores_are_those_of_the_true_flair_of_a_prepared_source(tmp_path: Path):
    source = start(tmp_path / "source")
    root = start(tmp_path / "out", DatasetLinks={"source": source.as_uri()})
    for name in ("sub-01", "sub-02"):
        (path, folder) = (add_session(root, name), source / name / "anat")
        path.with_name(f"{name}_desc-preproc_T2w.nii.gz").unlink()
        folder.mkdir(parents=True)
        write_volume(folder / f"{name}_T2w.nii.gz", ball(MIDDLE), AFFINE)
        if name == "sub-01":
            write_volume(folder / f"{name}_FLAIR.nii.gz", 3 * ball(MIDDLE), AFFINE)
    page = tmp_path / "page.html"
    assert main(["report", str(root), "--out", str(page), "--scores"]) == 0
    table = Table(page)
    assert dict(zip(table.names, table.column("NMSE fit"), strict=True)) == {
        "sub-01": "0.000",
        "sub-02": "–",
    }
    assert "1.000" in table.column("SSIM fit")
    assert table.images == 4
    flair = source / "sub-01/anat/sub-01_FLAIR.nii.gz"
    write_volume(flair, ball(MIDDLE), AFFINE, NOTICE)
    write_cohort_page(root, page, scores=True)
    assert "not scored: " in page.read_text()
    assert "NMSE" not in " ".join(Table(page).rows[0])


def test_participants_are_chosen(cohort: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    command = ["report", str(cohort), "--out", str(page), "--participant-label"]
    assert main([*command, "02", "sub-04"]) == 0
    assert Table(page).names == ["sub-04", "sub-02_ses-1", "sub-02_ses-2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out", "--participant-label", "77"], "holds no synthetic FLAIR of sub-77"),
        (["the source"], "holds no synthetic FLAIR; run"),
        (["."], "neither a run (it has no folds.json) nor a predicted data set"),
        (["out/sub-01", "--scores"], "is no predicted data set, for which --scores is"),
        (["out/sub-01", "--participant-label", "01"], "is neither a run nor a predicted data set"),
        (["out", "--out", "out/sub-01.html"], "is one of the inputs"),
        (["out", "--out", "page.png"], "is written as .html"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_scores_without_the_source_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = start(tmp_path / "out")
    add_session(root, "sub-01")
    assert main(["report", str(root), "--scores", "--out", str(tmp_path / "page.html")]) == 1
    assert "its source data set (none) is missing" in capsys.readouterr().err


def test_thumbnails_are_radiological_and_of_the_brain(tmp_path: Path):
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    root = start(tmp_path / "out")
    path = add_session(root, "sub-01")
    image = ball(MIDDLE)
    image[SHAPE[0] // 2 :] *= 0.3  # the right half is dark: on the left of the picture
    write_volume(path, image, AFFINE)
    (row,) = read_rows(find_predicted(root), Source(None))
    titles = [picture.title for picture in row.pictures]
    assert titles == ["T2-w", "synthetic FLAIR"]
    picture = np.asarray(Image.open(BytesIO(b64decode(row.pictures[1].uri.split(",")[1]))))
    assert picture.shape == (row.pictures[1].height, row.pictures[1].width)
    left, right = np.array_split(picture.astype(float), 2, axis=1)
    assert left.mean() < 0.5 * right.mean()


def test_unknown_numbers_are_sorted_last_and_columns_sort_in_a_browser(
    cohort: Path, tmp_path: Path
):
    page = tmp_path / "page.html"
    write_cohort_page(cohort, page)
    click = (
        "(window.done ??= (() => { const b = [...document.querySelectorAll('thead button')]"
        ".find(b => b.textContent.startsWith('brain')); b.click(); b.click();"
        " const f = document.getElementById('filter'); f.value = 'sub-02 t2';"
        " f.dispatchEvent(new Event('input')); return true; })())"
        " && [...document.querySelectorAll('tr:not([hidden]) img')].every(i => i.naturalWidth)"
    )
    seen = open_page(page, width=1200, ready=click)
    assert seen.console == []
    assert seen.requests == [page.as_uri()]
    assert seen.overflow == 0
    assert sum(width > 0 for width in seen.images) >= 4
    assert seen.text.index("sub-02_ses-1") < seen.text.index("sub-02_ses-2")
    assert "sub-03" not in seen.text
    assert "2 of 6 shown" in seen.text


@pytest.mark.parametrize("width", [1200, 420])
def test_empty_columns_and_a_narrow_window_do_not_overflow(tmp_path: Path, width: int):
    page = tmp_path / "page.html"
    rows = [Row(f"sub-{n:02}", warnings=("w" * 300,), brain=math.nan) for n in range(3)]
    write_text(page, make_cohort_page("t" * 200, rows, tmp_path))
    seen = open_page(page, width=width)
    assert seen.console == []
    assert seen.overflow == 0


def test_a_thousand_sessions_are_one_page_that_opens(tmp_path: Path):
    root = start(tmp_path / "out")
    first = add_session(root, "sub-0000", Warnings=["one"])
    for number in range(1, 1000):
        add_session(root, f"sub-{number:04}", flair=first)
    page = tmp_path / "page.html"
    write_cohort_page(root, page)
    assert page.stat().st_size < 15e6
    names = Table(page).names
    assert len(names) == 1000
    assert names[0] == "sub-0000"
    seen = open_page(page, width=1200, ready="document.body.dataset.ready")
    assert "1000 of 1000 shown" in seen.text
    assert seen.console == []
