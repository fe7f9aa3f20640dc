"""Reports of text, tables and pictures, as one HTML page and as Markdown.

Independent of the content. The HTML page is self-contained: pictures are embedded.
"""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from flaxflair.core.atomic_files import write_text
from flaxflair.core.records import InputError


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
      text: as printed, `918.07 (41.70)`.
      kind: `best` is bold, `muted` is grey (undefined, or there only for completeness).
    """

    text: str
    kind: Literal["plain", "best", "muted"] = "plain"


@dataclass(frozen=True)
class Group:
    """A heading above several columns of a table, such as `ours` beside `published`.

    Attributes:
      title: the heading; may be empty.
      span: how many columns it covers.
    """

    title: str
    span: int


@dataclass(frozen=True)
class Paragraph:
    """Running text. Text between backticks is code."""

    text: str


@dataclass(frozen=True)
class Note:
    """A highlighted remark, such as the reason of a difference from published results."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
      caption: what it shows.
      columns: headings, the first that of the row names (may be empty).
      rows: as many cells each; a plain string is a plain cell.
      groups: headings above the columns after the first, which they cover exactly; or none.
      footnote: text below the table; may be empty.
      closing: number of summary rows at the end, separated by a rule.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    groups: tuple[Group, ...] = ()
    footnote: str = ""
    closing: int = 0

    def __post_init__(self) -> None:
        width = len(self.columns)
        for row in self.rows:
            if len(row) != width:
                raise ValueError(f"table {self.caption!r}: a row of {len(row)} cells for {width}")
        covered = sum(group.span for group in self.groups)
        if self.groups and covered != width - 1:
            raise ValueError(
                f"table {self.caption!r}: groups cover {covered} of {width - 1} columns after "
                "the first"
            )


@dataclass(frozen=True)
class Picture:
    """A picture file.

    Attributes:
      path: PNG, JPEG, SVG, GIF or WebP.
      caption: what it shows.
      alt: alternative text.
    """

    path: Path
    caption: str
    alt: str


Block = Paragraph | Note | Table | Picture


@dataclass(frozen=True)
class Badge:
    """Scale of the runs of a section.

    Attributes:
      kind: `quick` or `full`, on the phantom, or `real`.
      text: details (`fold 1 of 5, 200 epochs`).
    """

    kind: Literal["quick", "full", "real"]
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a report, with its own entry in the table of contents.

    Attributes:
      anchor: lower-case letters, digits and hyphens; `page.html#anchor` leads here.
      title: its heading.
      blocks: its content, in order.
      badge: scale of its runs, if shown.
    """

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    badge: Badge | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.anchor):
            raise ValueError(
                f"section {self.title!r}: anchor {self.anchor!r} is not lower-case letters, "
                "digits and hyphens"
            )


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
      title: its heading.
      lead: summary below the heading.
      sections: sections in order, with unique anchors.
      about: (label, value) pairs of provenance: command, seed, machine, versions.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    about: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        counts = Counter([section.anchor for section in self.sections] + [ABOUT])
        for anchor, count in counts.items():
            if count > 1:
                raise ValueError(f"report {self.title!r}: {count} sections have anchor {anchor!r}")


# The anchor of the closing section, which holds `Report.about`.
ABOUT = "about"

# With more columns than this, the SD is printed below the mean.
_WIDE = 7

_MEDIA = {
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}

_NUMBER = re.compile(r"[<>≤≥≈~±+\-−]?\s?\d")
_SPREAD = re.compile(r"(\S+) (\([^()\s]+\))")
_UNKNOWN = ("", "–", "—", "-")

_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$])")
# Characters that would start a heading, a list or a rule at the beginning of a paragraph.
_OPENING = re.compile(r"^(\d*)([-+#.)])(?=[-#]*(?:\s|$))")


def write_html(report: Report, path: Path) -> None:
    """Writes a report as one HTML page that needs no other file and no network.

    Raises:
      InputError: a picture is missing or of no known kind.
    """
    environment = Environment(
        loader=PackageLoader("flaxflair.visualization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cells": lambda row: [_cell(cell) for cell in row],
        "code": _split_code,
        "data_uri": _data_uri,
        "kind": lambda block: type(block).__name__,
        "numeric": _numeric_columns,
        "padding": _padding,
        "spread": _split_spread,
        "starts": _group_starts,
        "wide": lambda table: len(table.columns) > _WIDE,
    }
    page = environment.get_template("report.html.j2").render(report=report, about=ABOUT)
    write_text(path, page)


def write_markdown(report: Report, path: Path) -> None:
    """Writes a report as Markdown, with links to its pictures relative to the file.

    Raises:
      InputError: a picture is missing or of no known kind.
    """
    parts = [f"# {_escaped(report.title)}", _paragraph(report.lead)]
    for section in report.sections:
        parts.append(f'<a id="{section.anchor}"></a>\n\n## {_escaped(section.title)}')
        if section.badge:
            parts.append(f"**{section.badge.kind}**: {_text(section.badge.text)}")
        parts += [_markdown(block, path.parent) for block in section.blocks]
    if report.about:
        lines = [f"- **{_escaped(label)}**: {_text(value)}" for label, value in report.about]
        parts += [f'<a id="{ABOUT}"></a>\n\n## About this report', "\n".join(lines)]
    write_text(path, "\n\n".join(parts) + "\n")


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Paragraph(text):
            return _paragraph(text)
        case Note(text):
            return f"> **Note.** {_text(text)}"
        case Picture(path, caption, alt):
            _media_type(path)
            link = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
            return f"![{_escaped(alt)}]({quote(link)})\n\n*{_text(caption)}*"
        case Table():
            parts = [f"*{_text(block.caption)}*", _markdown_table(block)]
            return "\n\n".join(parts + [_paragraph(block.footnote)] * bool(block.footnote))


def _markdown_table(table: Table) -> str:
    """Returns a table with one row of headings, in which a group's title precedes its columns'."""
    groups = ["", *(group.title for group in table.groups for _ in range(group.span))]
    groups += [""] * (len(table.columns) - len(groups))
    titles = [": ".join(filter(None, pair)) for pair in zip(groups, table.columns, strict=True)]
    rules = ["---:" if numeric else ":---" for numeric in _numeric_columns(table)]
    lines = [[_text(title) for title in titles], rules]
    for row in table.rows:
        cells = [(_cell(cell).kind, _text(_cell(cell).text)) for cell in row]
        lines.append([f"**{text}**" if kind == "best" else text for kind, text in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Returns text on one line, with Markdown markup escaped."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _text(text: str) -> str:
    """Returns text on one line, with Markdown markup escaped except code between backticks."""
    parts = []
    for part, code in _split_code(" ".join(text.split())):
        # A bar would end a table cell even within code.
        parts.append("`" + part.replace("|", "\\|") + "`" if code else _MARKUP.sub(r"\\\1", part))
    return "".join(parts)


def _paragraph(text: str) -> str:
    return _OPENING.sub(r"\1\\\2", _text(text))


def _split_code(text: str) -> list[tuple[str, bool]]:
    """Splits text at its backticks; an unpaired last one is an ordinary character."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = [f"{parts[-2]}`{parts[-1]}"]
    return [(part, index % 2 == 1) for index, part in enumerate(parts)]


def _cell(cell: Cell | str) -> Cell:
    return Cell(cell) if isinstance(cell, str) else cell


def _split_spread(text: str) -> tuple[str, str]:
    """Splits `918.07 (41.70)` at its blank; text of any other form has no spread."""
    match = _SPREAD.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def _padding(table: Table) -> list[int]:
    """Returns the number of characters of the longest SD of each column."""
    return [
        max((len(_split_spread(_cell(cell).text)[1]) for cell in column), default=0)
        for column in _columns(table)
    ]


def _numeric_columns(table: Table) -> list[bool]:
    """Returns which columns hold numbers; the first, which names the rows, never does."""
    texts = [[_cell(cell).text for cell in column] for column in _columns(table)]
    return [
        index > 0
        and all(text in _UNKNOWN or _NUMBER.match(text) for text in column)
        and any(_NUMBER.match(text) for text in column)
        for index, column in enumerate(texts)
    ]


def _columns(table: Table) -> list[list[Cell | str]]:
    return [[row[index] for row in table.rows] for index in range(len(table.columns))]


def _group_starts(table: Table) -> set[int]:
    """Returns the columns at which a group after the first begins."""
    ends = accumulate(group.span for group in table.groups)
    return {end + 1 for end in ends} - {len(table.columns)}


def _media_type(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such picture; draw it before the report that shows it")
    if path.suffix.lower() not in _MEDIA:
        raise InputError(f"{path}: not a picture that a page can show; use {', '.join(_MEDIA)}")
    return _MEDIA[path.suffix.lower()]


def _data_uri(path: Path) -> str:
    kind = _media_type(path)
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
