"""Atomic writing of figures. Independent of their content."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flaxflair.core.atomic_files import write_bytes


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG.

    Raises:
      WriteError: the folder is missing, read-only or full; no partial file remains.
    """
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_bytes(path, picture.getvalue())
