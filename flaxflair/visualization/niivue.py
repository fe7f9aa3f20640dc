"""Viewer of the images of one or more sessions as a self-contained HTML page.

NiiVue (Taylor et al.), shipped with nilearn, and the images are embedded: the page loads no other
file. Independent of the content of the images.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flaxflair.core.records import Array, Geometry
from flaxflair.io.nifti import pack_volume
from flaxflair.io.resources import nilearn_file

_SCRIPT = "**/niivue.umd.js"


@dataclass(frozen=True)
class Layer:
    """One image.

    Attributes:
      title: title in the list of layers.
      array: [x, y, z].
      window: intensities shown as black and as white.
      kind: an `image` fills a panel; an `overlay` is drawn over it, transparent at and below the
        lower end of its window.
      colours: a NiiVue colour map.
    """

    title: str
    array: Array
    window: tuple[float, float]
    kind: Literal["image", "overlay"] = "image"
    colours: str = "gray"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      cells: as displayed.
      mm: world mm (RAS+), where a click on the row moves the cross.
    """

    cells: tuple[str, ...]
    mm: tuple[float, float, float]


@dataclass(frozen=True)
class Table:
    """A list of places in the images.

    Attributes:
      title: heading.
      note: sentences below it.
      columns: names of the cells.
      rows: the places.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Scene:
    """One session.

    Attributes:
      title: title in the list of sessions.
      geometry: common grid of the layers.
      layers: images and overlays; the panels initially show the first two images.
      facts: names and values.
      warnings: sentences shown above everything else.
      grade: verdict on the session (`good`, `look`, `unusable`), shown in its colour; empty for
        none.
      reasons: reasons of the verdict, one sentence each.
      table: places to go to; None for none.
    """

    title: str
    geometry: Geometry
    layers: tuple[Layer, ...]
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    grade: str = ""
    reasons: tuple[str, ...] = ()
    table: Table | None = None


def make_page(title: str, lead: str, scenes: Sequence[Scene]) -> str:
    """Returns the page.

    Args:
      title: of the page.
      lead: a sentence below it.
      scenes: sessions, of which one is shown at a time.

    Raises:
      InputError: nilearn is missing, or too old to ship NiiVue.
    """
    environment = Environment(
        loader=PackageLoader("flaxflair.visualization"), autoescape=True, undefined=StrictUndefined
    )
    content = [
        {
            "title": scene.title,
            "facts": scene.facts,
            "warnings": scene.warnings,
            "grade": scene.grade,
            "reasons": scene.reasons,
            "table": None if scene.table is None else asdict(scene.table),
            "layers": [_pack(layer, scene.geometry) for layer in scene.layers],
        }
        for scene in scenes
    ]
    # `<` could end the enclosing script element.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    niivue = nilearn_file(_SCRIPT).read_text(encoding="utf-8")
    return environment.get_template("viewer.html.j2").render(
        title=title, lead=lead, scenes=content, data=Markup(data), niivue=Markup(niivue)
    )


def _pack(layer: Layer, geometry: Geometry) -> dict[str, object]:
    low, high = layer.window
    # Range of the slider beyond the window, up to the brightest voxels.
    top = high if layer.kind == "overlay" else max(high, float(np.percentile(layer.array, 99.95)))
    bottom = min(low, float(layer.array.min())) if layer.kind == "image" else low
    content = pack_volume(layer.array, geometry.affine, bottom, top)
    return {
        "title": layer.title,
        "kind": layer.kind,
        "colours": layer.colours,
        "window": [low, high],
        "range": [bottom, top],
        "data": base64.b64encode(content).decode(),
    }
