"""Histograms of real sessions before and after normalisation by tissue, one line per session.

Run as `python -m tests.benchmarks.plot_levels --dataset DIR [--dataset DIR ...] --out FILE.png`.
The left column is divided by the mean in the brain, as with `normalization.method=brain`; the right
one has standard tissue levels, estimated jointly from all inputs of a session, and separately from
its FLAIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from flaxflair.core.records import Array
from flaxflair.core.sequences import TARGET
from flaxflair.imaging.tissue_levels import (
    STANDARD,
    TISSUES,
    Levels,
    fit_tissue_levels,
    to_standard,
)
from tests.benchmarks.bench_levels import images_of, load

ROWS = ("T1", "T2", TARGET)
_BINS = 160
_HUES = [plt.get_cmap("tab20")(index) for index in range(20)]
_COLORS = {"fluid": "tab:blue", "grey": "tab:gray", "white": "black"}


def collect(roots: list[Path]) -> dict[str, list[tuple[str, Array, Levels]]]:
    """Returns sequence -> (session, intensities in the brain, levels) of every session."""
    found: dict[str, list[tuple[str, Array, Levels]]] = {name: [] for name in ROWS}
    for subject in (subject for root in roots for subject in load(root)):
        images, brain = images_of(subject), subject.masks.brain
        for names in (subject.sequences, (TARGET,)):
            stacked = np.stack([images[name] for name in names], axis=-1)
            levels = fit_tissue_levels(stacked, names, brain, subject.geometry.voxel_size)
            for name in names:
                inside = images[name][brain]
                found[name].append((subject.name, inside[inside > 0], levels[name]))
    return found


def plot(found: dict[str, list[tuple[str, Array, Levels]]], out: Path) -> None:
    """Writes the picture."""
    figure, axes = plt.subplots(len(ROWS), 2, figsize=(10, 8), constrained_layout=True)
    hues = dict(
        zip(sorted({s for rows in found.values() for s, _, _ in rows}), _HUES, strict=False)
    )
    for (left, right), (name, sessions) in zip(axes, found.items(), strict=True):
        widest = 1.4 * max(getattr(STANDARD[name], tissue) for tissue in TISSUES)
        limit = (0.0, min(widest, 4.2))
        for session, values, levels in sessions:
            for axis, image in (
                (left, values / values.mean()),
                (right, to_standard(values, levels, name)),
            ):
                counts, edges = np.histogram(image, _BINS, limit, density=True)
                axis.plot(
                    0.5 * (edges[1:] + edges[:-1]),
                    counts,
                    lw=0.9,
                    label=session,
                    color=hues[session],
                )
        for tissue in TISSUES:
            right.axvline(getattr(STANDARD[name], tissue), color=_COLORS[tissue], ls=":", lw=1)
        left.set_ylabel(name)
        for axis in (left, right):
            axis.set_yticks([])
            axis.set_xlim(limit)
    axes[0, 0].set_title("divided by the mean in the brain")
    axes[0, 1].set_title("brought to standard tissue levels (dotted)")
    axes[-1, 0].legend(fontsize=6, ncol=2)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Reads, fits and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plot(collect(options.dataset), options.out)


if __name__ == "__main__":
    main()
