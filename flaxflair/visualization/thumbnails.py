"""Thumbnails of axial slices as JPEG data URIs. Independent of files and sessions."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from flaxflair.core.records import Array, Geometry
from flaxflair.visualization.panels import grey_range, upright

_HEIGHT = 128  # pixels; about 3 kB a slice
_QUALITY = 72  # of JPEG
_MARGIN = 4.0  # mm around the brain


class Thumbnail(NamedTuple):
    """A small picture.

    Attributes:
      title: what it shows.
      uri: the picture itself, a data URI.
      width: pixels.
      height: pixels.
    """

    title: str
    uri: str
    width: int
    height: int


def choose_slice(geometry: Geometry, brain: Array) -> tuple[slice, slice, int]:
    """Returns the axial slice with most brain: columns and rows around the brain, and its number.

    Args:
      geometry: grid, its axes closest to right, anterior, superior.
      brain: bool[x, y, z]; of an empty one, the middle slice, whole.
    """
    if not brain.any():
        return slice(None), slice(None), geometry.shape[2] // 2
    parts = []
    for axis, (size, edge) in enumerate(
        zip(geometry.shape[:2], geometry.voxel_size[:2], strict=True)
    ):
        inside = np.flatnonzero(brain.any(axis=(1 - axis, 2)))
        margin = round(_MARGIN / edge)
        parts.append(
            slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + margin + 1, size))
        )
    return parts[0], parts[1], int(np.argmax(brain.sum(axis=(0, 1))))


def draw_thumbnail(
    title: str, image: Array, brain: Array, geometry: Geometry, at: tuple[slice, slice, int]
) -> Thumbnail:
    """Returns a slice in radiological order, its grey scale that of the brain.

    Args:
      title: what it shows.
      image: [x, y, z], its axes closest to right, anterior, superior.
      brain: bool[x, y, z]; if empty, the grey scale is that of the whole image.
      geometry: grid of both.
      at: from `choose_slice`.
    """
    low, high = grey_range(image, brain if brain.any() else np.ones_like(brain))
    shown = upright(image[at], geometry.affine)
    scaled = np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
    height, width = shown.shape
    dx, dy, _ = geometry.voxel_size
    size = max(1, round(_HEIGHT * (width * dx) / (height * dy))), _HEIGHT  # width, height
    picture = Image.fromarray(np.rint(255 * scaled).astype(np.uint8))
    content = io.BytesIO()
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    resized.save(content, "JPEG", quality=_QUALITY, optimize=True)
    uri = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    return Thumbnail(title, uri, *size)
