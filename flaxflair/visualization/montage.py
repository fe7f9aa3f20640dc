"""Figures: a page of slices of one subject, as the first figure of an MRI paper shows them.

Draws images of any grids and orientations side by side; knows nothing of networks or scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from flaxflair import bids
from flaxflair.nifti import read_volume
from flaxflair.sequences import SEQUENCES, TARGET
from flaxflair.volume import Array, Geometry, InputError, Volume

ROWS = 4
LESION_COLOUR = "#ff4136"


def montage(root: Path, participant: str, out: Path) -> None:
    """Draws every sequence of one subject, and the outlines of its lesions, as a PNG.

    All columns show the same places in the scanner's space, so the sequences need not share a grid;
    what moved between them is seen to have moved. Slices are those of the FLAIR (without one, of
    the first sequence there is), the patient's right on the left, the front up.

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
    FigureCanvasAgg(figure).print_png(str(out))


def _read_subject(root: Path, participant: str) -> tuple[dict[str, Volume], dict[str, Volume]]:
    """Reads the sequences and the masks of the first session of a participant."""
    images = bids.find_images(root)
    own = [image for image in images if image.participant == participant]
    if not any(image.sequence for image in own):
        known = sorted({image.participant for image in images if image.sequence})
        found = f"it has {known[0]} to {known[-1]}" if known else "it has no image at all"
        raise InputError(f"{root}: holds no image of {participant}; {found}")
    session = next(image.session for image in own if image.sequence)
    own = [i for i in own + bids.find_derivatives(root) if i.participant == participant]
    own = [image for image in own if image.session == session]
    volumes, masks = {}, {}
    for name in SEQUENCES:
        image = next((image for image in own if image.sequence == name), None)
        if image is not None:
            volumes[name] = read_volume(image.path)
    for name, entity in (("brain", "desc"), ("lesion", "label")):
        image = next(
            (i for i in own if i.suffix == "mask" and i.entities.get(entity) == name), None
        )
        if image is not None:
            masks[name] = read_volume(image.path)
    return volumes, masks


def _display_grid(geometry: Geometry) -> Geometry:
    """Returns the same grid with its axes turned to left, anterior, superior."""
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
    """Returns a volume on another grid, linearly interpolated, zero where it does not reach."""
    mapping = np.linalg.inv(volume.geometry.affine) @ geometry.affine
    return ndimage.affine_transform(volume.array, mapping, output_shape=geometry.shape, order=1)


def _mask_on(mask: Volume | None, geometry: Geometry) -> Array:
    if mask is None:
        return np.zeros(geometry.shape, bool)
    return _resample(mask, geometry) > 0.5


def _choose_slices(brain: Array, lesion: Array) -> list[int]:
    """Returns the slices to show, from below to above: in each part of the brain the worst."""
    filled = np.flatnonzero(brain.any(axis=(0, 1)))
    low, high = (filled[0], filled[-1]) if filled.size else (0, brain.shape[2] - 1)
    # The lowest and the highest part of a brain show little of it.
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
    """Returns the figure: a row a slice, a column a panel, white on black."""
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
