"""A sheet of simulated samples beside slices of real sessions, for visual comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from flaxflair.core.records import Array, Subject
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.imaging.tissue_levels import STANDARD, fit_tissue_levels, to_standard
from flaxflair.simulation.generator.anatomies import Library
from flaxflair.simulation.generator.generator import sample
from flaxflair.simulation.generator.ranges import Ranges
from flaxflair.visualization.figures import write_figure

SHOWN = ("T1", "T2")  # input sequences of the sheet, above the FLAIR
_SHAPE = (168, 208, 16)  # mm around the middle of a brain; thin, for only one slice is shown
_COLUMNS = 8
_INCHES = 1.5  # width of a slice
_TITLE_INCHES = 0.22  # height of the titles of the first row


def draw_sample_sheet(
    library: Library,
    seed: int,
    out: Path,
    *,
    samples: int = 24,
    subjects: Sequence[Subject] = (),
    on_sample: Callable[[int], None] = lambda done: None,
) -> None:
    """Draws simulated samples, T1 and T2 above the target FLAIR, as a PNG.

    Every image has standard tissue levels and the grey scale of its sequence. Slices
    are axial, the patient's right on the left.

    Args:
      library: anatomies and lesions to sample from.
      seed: seed of the samples.
      out: PNG to write; its folder must exist.
      samples: number of samples.
      subjects: real sessions, shown in the last columns with the sequences that they have.
      on_sample: called with the number of samples drawn.
    """
    columns = []
    for number in range(samples):
        (example,) = sample(
            library, Ranges(), (seed, number), shape=_SHAPE, count=1, sequences=SHOWN, centred=True
        )
        middle = _SHAPE[2] // 2
        slices: dict[str, Array | None] = {
            name: example.images[:, :, middle, INPUTS.index(name)] for name in SHOWN
        }
        columns.append((f"simulated {number + 1}", slices | {TARGET: example.flair[..., middle]}))
        on_sample(number + 1)
    real = [(f"scanned: {subject.name}", _slices_of(subject)) for subject in subjects]
    figure = _draw(columns, real)
    write_figure(figure, out)


def _slices_of(subject: Subject) -> dict[str, Array | None]:
    """Returns the slice with the largest brain area of each sequence; None if absent."""
    brain = subject.masks.brain
    at = int(np.argmax(brain.sum(axis=(0, 1))))
    images = dict(zip(subject.sequences, np.moveaxis(subject.images, -1, 0), strict=True))
    if subject.flair is not None:
        images[TARGET] = subject.flair
    slices: dict[str, Array | None] = dict.fromkeys((*SHOWN, TARGET))
    for name in slices.keys() & images.keys():
        image = images[name][..., None]
        levels = fit_tissue_levels(image, (name,), brain, subject.geometry.voxel_size)
        slices[name] = to_standard(images[name][:, :, at], levels[name], name)
    return slices


def _draw(
    simulated: Sequence[tuple[str, dict[str, Array | None]]],
    real: Sequence[tuple[str, dict[str, Array | None]]],
) -> Figure:
    rows = -(-len(simulated) // _COLUMNS)
    beside = -(-len(real) // rows)
    width, height = _COLUMNS + beside, 3 * rows
    figure = Figure(figsize=(_INCHES * width, _INCHES * 1.25 * height), facecolor="black")
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    places = [(n // _COLUMNS, n % _COLUMNS) for n in range(len(simulated))]
    places += [(n // beside, _COLUMNS + n % beside) for n in range(len(real))]
    for (row, column), (title, slices) in zip(places, [*simulated, *real], strict=True):
        for offset, name in enumerate((*SHOWN, TARGET)):
            if (image := slices[name]) is not None:
                axis = axes[3 * row + offset, column]
                axis.imshow(image.T, cmap="gray", vmin=0, vmax=_white_point(name), origin="lower")
        axes[3 * row, column].set_title(title, color="white", fontsize=6)
    inches = _INCHES * 1.25 * height
    figure.subplots_adjust(0, 0, 1, 1 - _TITLE_INCHES / inches, 0.02, 0.06)
    return figure


def _white_point(name: str) -> float:
    """Returns the standard level that is displayed as white."""
    levels = STANDARD[name]
    return 1.2 * max(levels.fluid, levels.grey, levels.white)
