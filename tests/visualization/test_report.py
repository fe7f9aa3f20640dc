"""Reports: one page that needs nothing else, and the same as Markdown."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from flaxflair.core.records import InputError
from flaxflair.visualization.report import (
    Badge,
    Cell,
    Group,
    Note,
    Paragraph,
    Picture,
    Report,
    Section,
    Table,
    write_html,
    write_markdown,
)
from tests.browser import open_page

_VOID = {"meta", "link", "img", "br"}

SCORES = Table(
    "Table 2. Mean squared error (SD).",
    ("", "U-Net", "FCN", "U-Net", "FCN"),
    (
        ("Fold 1", "0.93 (0.05)", Cell("0.91 (0.11)", "best"), "921.69 (38.51)", "905.05 (26.06)"),
        ("Fold 2", Cell("–", "muted"), "-0.92 (0.06)", "912.03 (38.58)", "913.34 (139.95)"),
        ("Average", "0.93 (0.05)", "0.92 (0.09)", "919.26 (40.95)", "918.07 (41.70)"),
    ),
    (Group("ours", 2), Group("published", 2)),
    "Compare ratios, p < 0.05 & never values.",
    closing=1,
)


class Page(HTMLParser):
    """What a test wants to know of a page: its elements, and the text of each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "figures" / "fold 1 (axial).png"
    path.parent.mkdir()
    matplotlib.image.imsave(path, np.zeros((30, 40, 3)))
    return path


@pytest.fixture
def report(picture: Path) -> Report:
    widest = Table("Many columns.", ("", *"abcdefghij"), (("row", *["1000.5 (10.5)"] * 10),))
    tests = Table("Tests.", ("Method", "p", "Reading"), (("U-Net", "<0.01", "lower, `a|b`"),))
    return Report(
        "Ours & <theirs>",
        "Run `flaxflair --seed=0`, then <script>alert(1)</script>.",
        (
            Section(
                "similarity",
                "Image similarity",
                (
                    Paragraph("A *star*, a lone ` tick."),
                    SCORES,
                    Note("Ours differs."),
                    widest,
                    tests,
                ),
                Badge("quick", "fold 1 of 5"),
            ),
            Section(
                "pictures",
                "Pictures",
                (Picture(picture, "A <b> slice.", '"black"'),),
                Badge("full", ""),
            ),
        ),
        (("Command", "`python -m flaxflair.main`"), ("Seed", "0")),
    )


@pytest.fixture
def html(report: Report, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_html(report, path)
    return path


@pytest.fixture
def markdown(report: Report, tmp_path: Path) -> str:
    path = tmp_path / "report.md"
    write_markdown(report, path)
    return path.read_text(encoding="utf-8")


def test_every_table_cell_of_the_page_is_in_the_markdown(html: Path, markdown: str):
    cells = [text.replace("\u2007", "").strip() for text in Page(html).texts["td"]]
    assert len(cells) == 12 + 10 + 2
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:2] == "| "]
    written = [cell.strip("*").replace("\\", "").replace("`", "") for row in lines for cell in row]
    for cell in cells:
        written.remove(cell)


def test_table_has_headings_of_groups_columns_and_rows(html: Path, markdown: str):
    page = Page(html)
    headings = [(tag, a.get("scope"), a.get("colspan")) for tag, a in page.elements if tag == "th"]
    assert headings.count(("th", "colgroup", "2")) == 2
    assert headings.count(("th", "row", None)) == 3 + 1 + 1
    assert "|  | ours: U-Net | ours: FCN | published: U-Net | published: FCN |" in markdown
    assert "| :--- | ---: | ---: | ---: | ---: |" in markdown


def test_best_cell_is_bold(html: Path, markdown: str):
    assert Page(html).texts["strong"] == ["0.91"]
    assert "| **0.91 (0.11)** |" in markdown


def test_numeric_columns_are_aligned(html: Path, markdown: str):
    kinds = [attributes["class"] for tag, attributes in Page(html).elements if tag == "td"]
    assert [kind and kind.split()[0] for kind in kinds[-2:]] == ["number", ""]
    assert "| :--- | ---: | :--- |" in markdown


def test_spreads_of_one_column_are_padded_to_one_width(html: Path):
    column = [text for text in Page(html).texts["td"][:12] if "913.34" in text or "905.05" in text]
    assert [len(text) for text in column] == [len("913.34 (139.95)")] * 2


def test_page_is_self_contained(html: Path):
    page = Page(html)
    loading = ("src", "srcset", "href", "data", "action", "poster")
    sources = [a[name] for _, a in page.elements for name in loading if name in a]
    assert [s for s in sources if s and not s.startswith(("data:", "#"))] == []
    anchors = {attributes.get("id") for _, attributes in page.elements}
    assert {s[1:] for s in sources if s and s[0] == "#"} <= anchors
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?:|file:|url\(|@import", html.read_text(encoding="utf-8"))


def test_picture_is_embedded(html: Path, picture: Path):
    [image] = [attributes for tag, attributes in Page(html).elements if tag == "img"]
    kind, content = (image["src"] or "").split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == picture.read_bytes()
    assert image["alt"] == '"black"'


def test_markdown_links_pictures_relatively(markdown: str):
    assert '!["black"](figures/fold%201%20%28axial%29.png)\n\n*A \\<b\\> slice.*' in markdown


def test_markup_in_text_is_escaped(html: Path, markdown: str):
    page = Page(html)
    assert page.texts["title"] == page.texts["h1"] == ["Ours & <theirs>"]
    assert "<script>alert(1)</script>" in page.texts["p"][0]
    assert "A *star*, a lone ` tick." in page.texts["p"]
    assert "\\<script\\>" in markdown
    assert "A \\*star\\*, a lone \\` tick." in markdown


def test_text_between_backticks_is_code(html: Path, markdown: str):
    assert Page(html).texts["code"] == ["flaxflair --seed=0", "a|b", "python -m flaxflair.main"]
    assert "Run `flaxflair --seed=0`, then" in markdown
    assert "`a\\|b` |" in markdown


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("# five", "\\# five"),
        ("- 3 dB", "\\- 3 dB"),
        ("2019. A year", "2019\\. A year"),
        ("-0.3 and 0.3. So", "-0.3 and 0.3. So"),
    ],
)
def test_paragraph_is_not_parsed_as_other_markdown(text: str, written: str, tmp_path: Path):
    write_markdown(Report("t", "lead", (Section("a", "b", (Paragraph(text),)),)), tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().splitlines()[-1] == written


@pytest.mark.parametrize("write", [write_html, write_markdown])
def test_missing_picture_is_refused_by_name(write, report: Report, tmp_path: Path):
    (tmp_path / "figures" / "fold 1 (axial).png").unlink()
    with pytest.raises(InputError, match=r"fold 1 \(axial\)\.png: no such picture"):
        write(report, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


@pytest.mark.parametrize("write", [write_html, write_markdown])
def test_file_of_unknown_kind_is_refused_by_name(write, tmp_path: Path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"")
    report = Report("t", "l", (Section("a", "b", (Picture(path, "c", "d"),)),))
    with pytest.raises(InputError, match=r"scan\.nii\.gz: not a picture"):
        write(report, tmp_path / "out")


def test_inconsistent_table_or_anchor_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells for 2"):
        Table("t", ("a", "b"), (("1",),))
    with pytest.raises(ValueError, match="groups cover 1 of 2 columns"):
        Table("t", ("", "a", "b"), (), (Group("ours", 1),))
    with pytest.raises(ValueError, match="anchor 'Two words'"):
        Section("Two words", "t", ())
    with pytest.raises(ValueError, match="2 sections have anchor 'about'"):
        Report("t", "l", (Section("about", "t", ()),))


@pytest.mark.parametrize("width", [1200, 420])
def test_browser_opens_the_page_without_errors(html: Path, width: int):
    page = open_page(html, width=width)
    assert page.console == []
    assert page.requests == [html.as_uri()]
    assert page.images == [40]
    assert page.overflow == 0
    assert "905.05 (26.06)" in page.text
