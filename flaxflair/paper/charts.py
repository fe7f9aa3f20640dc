"""Charts of learning curves. Independent of studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from flaxflair.paper.outcomes import Curve

matplotlib.use("Agg")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # colour-blind safe (Okabe and Ito)


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Draws the monitored error (or the training loss, without one) against epochs, as a PNG."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    lowest = highest = np.nan
    for colour, (label, curve) in zip(COLOURS, curves.items(), strict=False):
        epochs, values = curve.monitored()
        axes.plot(epochs, values, color=colour, label=label, linewidth=1.6)
        lowest, highest = np.fmin(lowest, values.min()), np.fmax(highest, values.max())
    axes.set_yscale("log" if highest > 4 * lowest else "linear")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error of z-scores")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
