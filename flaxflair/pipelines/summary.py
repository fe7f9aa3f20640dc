"""The summary of a run: from each fold's scores to `summary.json` and the printed table.

Reads the files of finished folds. Independent of networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from flaxflair.core.atomic_files import with_nan, without_nan
from flaxflair.core.json_objects import read_object
from flaxflair.evaluation import scoring
from flaxflair.runtime.environment import describe_machine

# Metric -> heading and digits.
_ROWS = {
    "mse": ("MSE", 1),
    "nmse_brain": ("NMSE brain", 3),
    "nmse_fit": ("NMSE fit", 3),
    "psnr": ("PSNR dB", 1),
    "ssim": ("SSIM", 3),
    "ssim_fit": ("SSIM fit", 3),
    "ratio1": ("Ratio 1", 3),
    "ratio2": ("Ratio 2", 3),
    "lesion_rest": ("Lesions / rest", 3),
}


def summarize(workdir: Path) -> dict[str, Any]:
    """Returns the summary of the finished folds, from their `scores.json`.

    Returns:
      `{"methods": {NAME: {METRIC: {"mean", "sd", "folds", "folds_sd"}}}, "truth": {METRIC: …},
      "saliency": {REGION: {SEQUENCE: share}}, "seconds": …, "folds": […], "machine": {…}}`; see
      `scoring.summarize` for what the numbers are. Undefined is null.
    """
    paths = sorted(workdir.glob("fold-*/scores.json"), key=lambda p: int(p.parent.name[5:]))
    done = [read_object(path, "remove it to run the fold again") for path in paths]
    names = list(done[0]["methods"]) if done else []
    summary = {
        "methods": {
            name: scoring.summarize([[*map(with_nan, fold["methods"][name])] for fold in done])
            for name in names
        },
        "truth": scoring.summarize([[*map(with_nan, fold["truth"])] for fold in done]),
        "saliency": _mean_shares([table for fold in done for table in fold["saliency"].values()]),
        "folds": [fold["fold"] for fold in done],
        "seconds": sum(fold["seconds"] for fold in done),
        "machine": describe_machine(),
    }
    return without_nan(summary)


def _mean_shares(tables: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Returns region -> sequence -> mean share, over the subjects that have the region."""
    means: dict[str, dict[str, float]] = {}
    for region in tables[0] if tables else ():
        rows = np.array([list(table[region].values()) for table in tables], np.float64)
        known = rows[np.isfinite(rows).all(axis=1)]
        mean = known.mean(axis=0) if len(known) else np.full(rows.shape[1], math.nan)
        means[region] = dict(zip(tables[0][region], mean.tolist(), strict=True))
    return means


def tabulate(summary: Mapping[str, Any]) -> Table:
    """Returns the table of scores: a row for each metric, a column for each method.

    The last columns are the lesion contrast of the true FLAIR and, where it is known, the error of
    its noise.
    """
    columns = dict(summary["methods"]) | {"true FLAIR": summary["truth"]}
    noise = summary["truth"].get("noise_mse")
    if noise and noise["mean"] is not None:
        columns["its noise"] = {"mse": noise}
    number = len(summary["folds"])
    folds = "1 fold" if number == 1 else f"{number} folds"
    table = Table(box=box.SIMPLE_HEAD, title=f"Mean (SD) over {folds}, held-out subjects")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")  # never an ellipsis for a number
    for metric, (title, _) in _ROWS.items():
        table.add_row(title, *(_cell(scores.get(metric), metric) for scores in columns.values()))
    return table


def tabulate_saliency(summary: Mapping[str, Any]) -> Table:
    """Returns the table of each sequence's share of the saliency, by region."""
    table = Table(box=box.SIMPLE_HEAD, title="Share of the saliency (P3S), mean over subjects")
    table.add_column("", no_wrap=True)
    regions = summary["saliency"]
    for name in next(iter(regions.values()), {}):
        table.add_column(name, justify="right", no_wrap=True)
    for region, shares in regions.items():
        known = ("–" if share is None else f"{share:.3f}" for share in shares.values())
        table.add_row(region, *known)
    return table


def _cell(entry: Mapping[str, Any] | None, metric: str) -> str:
    if entry is None or entry["mean"] is None:
        return "" if entry is None else "–"
    digits = _ROWS[metric][1]
    spread = "" if entry["sd"] is None else f" ({entry['sd']:.{digits}f})"
    return f"{entry['mean']:.{digits}f}{spread}"
