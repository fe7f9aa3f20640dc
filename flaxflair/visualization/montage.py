"""Montage of slices of all sequences of one subject.

Images may have different grids and orientations. Independent of networks and scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from flaxflair.core.records import Array, Geometry, InputError, Volume
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.imaging.masks import binarize
from flaxflair.io.nifti import read_volume
from flaxflair.io.session_files import find_sessions, usable_images
from flaxflair.visualization.figures import write_figure

ROWS = 4
LESION_COLOUR = "#ff4136"


def montage(root: Path, participant: str, out: Path) -> None:
    """Draws every sequence of one subject, and the outlines of its lesions, as a PNG.

    All columns show the same world coordinates, so the sequences need not share a grid, and motion
    between them is visible. Slices are those of the FLAIR (without one, of the first sequence), in
    radiological order, anterior up.

    Args:
      root: BIDS data set, raw or prepared; masks are also looked for in its derivatives.
      participant: label, `01` or `sub-01`.
      out: PNG to write; its folder must exist.

    Raises:
      InputError: the data set or the participant is not there, or a file cannot be used.
    """
    volumes, masks = _read_subject(Path(root), f"sub-{participant.removeprefix('sub-')}")
    reference = TARGET if TARGET in volumes else next(iter(volumes))
    geometry = _display_grid(volumes[reference].geometry)
    brain = _mask_on(masks.get("brain"), geometry)
    lesion = _mask_on(masks.get("lesion"), geometry)
    panels = [(SEQUENCES[name].title, _resample(v, geometry)) for name, v in volumes.items()]
    if lesion.any():
        panels.append(("lesions", dict(panels)[SEQUENCES[reference].title]))
    figure = _draw(panels, brain, lesion, geometry)
    write_figure(figure, out)


def _read_subject(root: Path, participant: str) -> tuple[dict[str, Volume], dict[str, Volume]]:
    """Reads the sequences and the masks of the first session of a participant."""
    files, *_ = find_sessions(root, (), flair="welcome", participants=[participant])
    images, problems = usable_images(files)
    if problems:
        raise InputError(problems[0])
    if not images:
        raise InputError(f"{root}: {files.name} has no scan to draw; name another participant")
    volumes = {name: read_volume(image.path) for name, image in images.items()}
    masks = {
        kind: read_volume(image.path)
        for kind in ("brain", "lesion")
        if (image := files.mask_of(kind)) is not None
    }
    return volumes, masks


def _display_grid(geometry: Geometry) -> Geometry:
    """Returns the grid reoriented to left, anterior, superior."""
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    order: list[int] = []
    for world in range(3):
        free = [axis for axis in range(3) if axis not in order]
        order.append(max(free, key=lambda axis: abs(directions[world, axis])))
    affine = np.eye(4)
    affine[:3, 3] = geometry.affine[:3, 3]
    for world, axis in enumerate(order):
        column = geometry.affine[:3, axis]
        wanted = -1 if world == 0 else 1
        if column[world] * wanted < 0:
            affine[:3, 3] += column * (geometry.shape[axis] - 1)
            column = -column
        affine[:3, world] = column
    x, y, z = (geometry.shape[axis] for axis in order)
    return Geometry((x, y, z), affine)


def _resample(volume: Volume, geometry: Geometry) -> Array:
    """Returns a volume linearly interpolated on another grid, zero outside its extent."""
    mapping = np.linalg.inv(volume.geometry.affine) @ geometry.affine
    # `constant` would blank an outer slice whose index is rounded to just below zero.
    return ndimage.affine_transform(
        volume.array, mapping, output_shape=geometry.shape, order=1, mode="grid-constant"
    )


def _mask_on(mask: Volume | None, geometry: Geometry) -> Array:
    if mask is None:
        return np.zeros(geometry.shape, bool)
    return _resample(Volume(binarize(mask.array).astype(np.float32), mask.geometry), geometry) > 0.5


def _choose_slices(brain: Array, lesion: Array) -> list[int]:
    """Returns the slices to show, inferior to superior: in each part that with most lesion."""
    filled = np.flatnonzero(brain.any(axis=(0, 1)))
    low, high = (filled[0], filled[-1]) if filled.size else (0, brain.shape[2] - 1)
    # The lowest and the highest slices contain little brain.
    cuts = low + (high - low) * np.linspace(0.3, 0.85, ROWS + 1)
    load = lesion.sum(axis=(0, 1))
    chosen = []
    for start, stop in zip(cuts[:-1].astype(int), cuts[1:].astype(int), strict=True):
        part = load[start : max(stop, start + 1)]
        chosen.append(int(start + (part.argmax() if part.any() else len(part) // 2)))
    return chosen


def _draw(
    panels: list[tuple[str, Array]], brain: Array, lesion: Array, geometry: Geometry
) -> Figure:
    """Returns the figure: a row per slice, a column per panel, white on black."""
    slices = _choose_slices(brain, lesion)
    x, y, _ = geometry.voxel_size
    width, height = geometry.shape[0] * x, geometry.shape[1] * y
    columns = len(panels)
    size = 1.9
    title = 0.3
    figure = Figure(
        figsize=(size * columns, title + size * height / width * len(slices)),
        dpi=110,
        facecolor="black",
    )
    top = 1 - title / figure.get_figheight()
    for column, (name, array) in enumerate(panels):
        inside = array[brain] if brain.any() else array[array > array.mean()]
        bright = float(np.percentile(inside, 99.5)) * 1.05 if inside.size else 1.0
        for row, k in enumerate(slices):
            axes = figure.add_axes(
                (
                    column / columns,
                    top * (1 - (row + 1) / len(slices)),
                    0.995 / columns,
                    0.995 * top / len(slices),
                )
            )
            axes.set_axis_off()
            axes.imshow(
                array[:, :, k].T,
                cmap="gray",
                vmin=0,
                vmax=max(bright, 1e-6),
                origin="lower",
                aspect=y / x,
                interpolation="bilinear",
            )
            if name == "lesions" and lesion[:, :, k].any():
                axes.contour(lesion[:, :, k].T, levels=[0.5], colors=LESION_COLOUR, linewidths=0.8)
        figure.text(
            (column + 0.5) / columns,
            1 - 0.5 * title / figure.get_figheight(),
            name,
            color="white",
            ha="center",
            va="center",
            fontsize=10,
        )
    return figure
