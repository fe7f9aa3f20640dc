"""Viewer: images of one or more sessions in one HTML page, to scroll through in a browser.

NiiVue (Taylor et al.), which nilearn ships, is inside the page, and so are the images: it loads
nothing from anywhere. Knows how a page looks and nothing of what the images are.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flaxflair.nifti import pack_volume
from flaxflair.shipped import nilearn_file
from flaxflair.volume import Array, Geometry

_SCRIPT = "**/niivue.umd.js"


@dataclass(frozen=True)
class Layer:
    """One image.

    Attributes:
      title: as chosen from a list.
      array: [x, y, z].
      window: what is black and what is white.
      kind: an `image` fills a panel; an `overlay` lies over it, and what is at or below its window
        is clear.
      colours: a NiiVue colour map.
    """

    title: str
    array: Array
    window: tuple[float, float]
    kind: Literal["image", "overlay"] = "image"
    colours: str = "gray"


@dataclass(frozen=True)
class Scene:
    """One session.

    Attributes:
      title: as chosen from a list.
      geometry: the one grid of its layers.
      layers: images and overlays; the first two images are what the panels begin with.
      facts: names and values.
      warnings: sentences that stand above everything else.
    """

    title: str
    geometry: Geometry
    layers: tuple[Layer, ...]
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


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
        loader=PackageLoader("flaxflair"), autoescape=True, undefined=StrictUndefined
    )
    content = [
        {
            "title": scene.title,
            "facts": scene.facts,
            "warnings": scene.warnings,
            "layers": [_pack(layer, scene.geometry) for layer in scene.layers],
        }
        for scene in scenes
    ]
    # `<` could end the script that this stands in.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    niivue = nilearn_file(_SCRIPT).read_text(encoding="utf-8")
    return environment.get_template("viewer.html.j2").render(
        title=title, lead=lead, scenes=content, data=Markup(data), niivue=Markup(niivue)
    )


def crop(geometry: Geometry, region: Array, margin: float) -> tuple[Geometry, tuple[slice, ...]]:
    """Returns the part of a grid that holds a region, and where that is.

    Args:
      geometry: the whole.
      region: bool[x, y, z].
      margin: mm around it.
    """
    at = []
    for axis, size in enumerate(geometry.voxel_size):
        inside = np.flatnonzero(region.any(axis=tuple(k for k in range(3) if k != axis)))
        first, last = (inside[0], inside[-1]) if inside.size else (0, region.shape[axis] - 1)
        steps = round(margin / size)
        at.append(slice(max(int(first) - steps, 0), min(int(last) + steps + 1, region.shape[axis])))
    affine = geometry.affine.copy()
    affine[:3, 3] = affine[:3, :3] @ [s.start for s in at] + affine[:3, 3]
    x, y, z = (s.stop - s.start for s in at)
    return Geometry((x, y, z), affine), tuple(at)


def _pack(layer: Layer, geometry: Geometry) -> dict[str, object]:
    low, high = layer.window
    # Room above white for the slider, where the image has something there.
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
