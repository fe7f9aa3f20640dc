"""Figures of slices through subjects, as printed in papers.

Every image is shown in radiological order (anterior up, patient's left on the right of the page) on
black, without axes; compared images share one grey scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from flaxflair.core.records import Array, Subject
from flaxflair.core.sequences import SEQUENCES

matplotlib.use("Agg")

INK, PAPER = "white", "black"


def axial_slice(subject: Subject) -> int:
    """Returns the axial slice with most lesion; without lesions, the one with most brain."""
    lesion = subject.masks.lesion
    shown = lesion if lesion is not None and lesion.any() else subject.masks.brain
    return int(np.argmax(shown.sum(axis=(0, 1))))


def upright(slice_xy: Array, affine: Array) -> Array:
    """Reorients an axial slice [x, y] of any orientation to radiological order."""
    image = slice_xy
    if abs(affine[0, 0]) < abs(affine[1, 0]):
        image, columns = image.T, (affine[:, 1], affine[:, 0])
    else:
        columns = (affine[:, 0], affine[:, 1])
    if columns[0][0] > 0:
        image = image[::-1]
    if columns[1][1] > 0:
        image = image[:, ::-1]
    return image.T


def crop(subject: Subject, margin: int = 3) -> tuple[slice, slice]:
    """Returns the slices along x and y that hold the brain, and a few voxels around it."""
    cut = []
    for axis, size in enumerate(subject.geometry.shape[:2]):
        inside = np.flatnonzero(subject.masks.brain.any(axis=(1 - axis, 2)))
        first, last = (inside[0], inside[-1]) if inside.size else (0, size - 1)
        cut.append(slice(max(int(first) - margin, 0), min(int(last) + margin + 1, size)))
    return cut[0], cut[1]


def grey_range(image: Array, brain: Array) -> tuple[float, float]:
    """Returns black and white of an image: the 0.5th and 99.7th percentile within the brain."""
    low, high = np.percentile(image[brain], (0.5, 99.7))
    return min(float(low), 0.0) if low < 0 else 0.0, float(high)


def draw_p3s(subject: Subject, maps: Array, path: Path, *, z: int | None = None) -> None:
    """Draws saliency maps above their sequences (Wei et al. 2019, Fig. 6).

    Args:
      subject: with the model's sequences.
      maps: [x, y, z, m], from `model.saliency_maps`; all share one scale.
      path: PNG to write.
      z: slice; by default the one with most lesion.
    """
    z, place = axial_slice(subject) if z is None else z, crop(subject)
    brain = subject.masks.brain
    top = float(np.percentile(maps[brain], 99.5))
    count = len(subject.sequences)
    figure = _sheet(2, count, subject, colorbar=True)
    grid = figure.add_gridspec(2, count + 1, width_ratios=[1.0] * count + [0.06], **_TIGHT)
    shown = None
    for channel, name in enumerate(subject.sequences):
        axes = figure.add_subplot(grid[0, channel])
        image = upright(maps[(*place, z, channel)], subject.geometry.affine)
        shown = _show(axes, image, subject, 0, top, "inferno")
        axes.set_title(SEQUENCES[name].title, color=INK, fontsize=12)
        axes = figure.add_subplot(grid[1, channel])
        channel_image = subject.images[..., channel]
        image = upright(channel_image[(*place, z)], subject.geometry.affine)
        _show(axes, image, subject, *grey_range(channel_image, brain))
    if shown is not None:
        bar = figure.colorbar(shown, cax=figure.add_subplot(grid[0, count]))
        bar.ax.tick_params(colors=INK, labelsize=8)
        bar.set_label("saliency", color=INK, fontsize=9)
    figure.savefig(path, facecolor=PAPER, dpi=110)


def draw_prediction(subject: Subject, flair: Array, path: Path, *, z: int | None = None) -> None:
    """Draws true FLAIR, synthetic FLAIR and their absolute difference, on one scale each.

    Args:
      subject: with a FLAIR.
      flair: [x, y, z], synthetic, in the true one's units.
      path: PNG to write.
      z: slice; by default the one with most lesion. Lesions are outlined on the true FLAIR.
    """
    true = _flair(subject)
    z, place = axial_slice(subject) if z is None else z, crop(subject)
    affine, brain = subject.geometry.affine, subject.masks.brain
    low, high = grey_range(true, brain)
    figure = _sheet(1, 3, subject, colorbar=True)
    grid = figure.add_gridspec(1, 4, width_ratios=[1.0, 1.0, 1.0, 0.05], **_TIGHT)
    pictures: Sequence[tuple[str, Array, float, float, str]] = (
        ("true FLAIR", true, low, high, "gray"),
        ("synthetic FLAIR", flair, low, high, "gray"),
        ("absolute error", np.abs(flair - true), 0, 0.5 * (high - low), "inferno"),
    )
    shown = None
    for column, (title, image, black, white, colours) in enumerate(pictures):
        axes = figure.add_subplot(grid[0, column])
        turned = upright(image[(*place, z)], affine)
        shown = _show(axes, turned, subject, black, white, colours)
        axes.set_title(title, color=INK, fontsize=12)
        if column == 0:
            _outline(axes, subject.masks.lesion, subject, z)
    if shown is not None:
        bar = figure.colorbar(shown, cax=figure.add_subplot(grid[0, 3]))
        bar.ax.tick_params(colors=INK, labelsize=8)
    figure.savefig(path, facecolor=PAPER, dpi=110)


_TIGHT = {"left": 0.01, "right": 0.94, "top": 0.92, "bottom": 0.01, "wspace": 0.03, "hspace": 0.03}


def _sheet(rows: int, columns: int, subject: Subject, *, colorbar: bool) -> Figure:
    """Returns an empty figure with the aspect ratio of `rows × columns` slices."""
    dx, dy, _ = subject.geometry.voxel_size
    x, y = (cut.stop - cut.start for cut in crop(subject))
    height = 2.6
    width = height * (x * dx) / (y * dy)
    return Figure(figsize=(columns * width + (0.9 if colorbar else 0), rows * height + 0.35))


def _show(axes, image, subject: Subject, black: float, white: float, colours: str = "gray"):
    dx, dy, _ = subject.geometry.voxel_size
    axes.set_axis_off()
    return axes.imshow(
        image, cmap=colours, vmin=black, vmax=white, aspect=dy / dx, interpolation="nearest"
    )


def draw_comparison(
    rows: Sequence[tuple[Subject, Mapping[str, Array]]], path: Path, *, truth: str = "true FLAIR"
) -> None:
    """Draws synthetic FLAIRs beside the true one, and errors below (Wei et al. 2019, Fig. 4).

    Args:
      rows: subjects with a FLAIR, each with title -> synthetic FLAIR [x, y, z], the same titles for
        all. All FLAIRs of a subject share one grey scale, and all errors one scale.
      path: PNG to write.
      truth: title of the last column, the true FLAIR with its lesions outlined.
    """
    titles = list(rows[0][1])
    columns = len(titles) + 1
    figure = _sheet(2 * len(rows), columns, rows[0][0], colorbar=True)
    widths = [1.0] * columns + [0.06]
    grid = figure.add_gridspec(2 * len(rows), columns + 1, width_ratios=widths, **_TIGHT)
    for place, (subject, flairs) in enumerate(rows):
        true = _flair(subject)
        z, cut = axial_slice(subject), crop(subject)
        low, high = grey_range(true, subject.masks.brain)
        top = 0.5 * (high - low)
        shown = None
        for column, title in enumerate([*titles, truth]):
            flair = flairs.get(title, true)
            axes = figure.add_subplot(grid[2 * place, column])
            image = upright(flair[(*cut, z)], subject.geometry.affine)
            _show(axes, image, subject, low, high)
            if place == 0:
                axes.set_title(title, color=INK, fontsize=11)
            if title in flairs:
                axes = figure.add_subplot(grid[2 * place + 1, column])
                image = upright(np.abs(flair - true)[(*cut, z)], subject.geometry.affine)
                shown = _show(axes, image, subject, 0, top, "inferno")
            else:
                _outline(axes, subject.masks.lesion, subject, z)
        if shown is not None:
            bar = figure.colorbar(shown, cax=figure.add_subplot(grid[2 * place + 1, columns]))
            bar.ax.tick_params(colors=INK, labelsize=8)
            bar.set_label("absolute error", color=INK, fontsize=9)
    figure.savefig(path, facecolor=PAPER, dpi=110)


def draw_segmentations(
    rows: Sequence[tuple[Subject, str, Sequence[tuple[str, Array, Array]]]], path: Path
) -> None:
    """Draws FLAIRs and, beside each, the lesions found in it (Wei et al. 2019, Fig. 5).

    Args:
      rows: (subject, label, [(title, FLAIR, lesions), ...]) each.
      path: PNG to write.
    """
    columns = 2 * len(rows[0][2])
    figure = _sheet(len(rows), columns, rows[0][0], colorbar=False)
    grid = figure.add_gridspec(len(rows), columns, **_TIGHT | {"right": 0.99})
    for place, (subject, name, found) in enumerate(rows):
        z, cut = axial_slice(subject), crop(subject)
        low, high = grey_range(_flair(subject), subject.masks.brain)
        for column, (title, flair, lesions) in enumerate(found):
            image = upright(flair[(*cut, z)], subject.geometry.affine)
            plain = figure.add_subplot(grid[place, 2 * column])
            _show(plain, image, subject, low, high)
            marked = figure.add_subplot(grid[place, 2 * column + 1])
            _show(marked, image, subject, low, high)
            _outline(marked, lesions, subject, z)
            if place == 0:
                plain.set_title(title, color=INK, fontsize=11)
                marked.set_title("lesions found", color=INK, fontsize=11)
            if column == 0:
                plain.text(
                    0.02, 0.02, name, color=INK, fontsize=9, transform=plain.transAxes, va="bottom"
                )
    figure.savefig(path, facecolor=PAPER, dpi=110)


def _outline(axes, mask: Array | None, subject: Subject, z: int) -> None:
    """Draws the outline of a mask on a displayed slice."""
    cut = crop(subject)
    if mask is not None and mask[(*cut, z)].any():
        shape = upright(mask[(*cut, z)], subject.geometry.affine).astype(float)
        axes.contour(shape, levels=[0.5], colors="#ff5a4f", linewidths=0.7)


def _flair(subject: Subject) -> Array:
    if subject.flair is None:
        raise ValueError(f"{subject.name} has no FLAIR to draw")
    return subject.flair
