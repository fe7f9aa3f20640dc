"""Scores of each subject, and their summary over folds. Independent of models and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxflair.core.records import Array, InputError, Subject
from flaxflair.evaluation import metrics

Row = dict[str, float]

METRICS = (
    *("mse", "nmse_brain", "nmse_fit", "psnr", "ssim", "ssim_fit"),
    *("ratio1", "ratio2", "lesion_rest"),
)


def score(subject: Subject, prediction: Array) -> Row:
    """Scores one synthetic FLAIR.

    Args:
      subject: with a FLAIR.
      prediction: [x, y, z], in the FLAIR's own units.

    Returns:
      `mse` over the volume in squared FLAIR units, `nmse_brain` relative to the FLAIR's variance in
      the brain, `psnr` in dB and `ssim` over the volume (both by the true FLAIR's range),
      `nmse_fit` and `ssim_fit` in the brain after the best gain and offset, and the lesion
      contrasts `ratio1`, `ratio2` and `lesion_rest`. Undefined is NaN.
    """
    truth = _truth(subject)
    return {
        "mse": metrics.mse(prediction, truth),
        "nmse_brain": metrics.nmse(prediction, truth, subject.masks.brain),
        "nmse_fit": metrics.nmse_fit(prediction, truth, subject.masks.brain),
        "psnr": metrics.psnr(prediction, truth),
        "ssim": metrics.ssim(prediction, truth),
        "ssim_fit": metrics.ssim_fit(prediction, truth, subject.masks.brain),
        **_contrast(subject, prediction),
    }


def score_truth(subject: Subject) -> Row:
    """Scores the true FLAIR: its lesion contrasts and, on a phantom, its noise (`noise_mse`)."""
    truth = _truth(subject)
    clean = subject.noisefree
    noise = float("nan") if clean is None else metrics.mse(truth, clean)
    return {**_contrast(subject, truth), "noise_mse": noise}


def summarize(folds: Sequence[Sequence[Row]]) -> dict[str, dict[str, float | list[float]]]:
    """Summarises scores over subjects and folds, as in the paper's tables.

    Args:
      folds: scores of each fold's held-out subjects.

    Returns:
      metric -> `{"mean", "sd", "folds", "folds_sd"}`: the mean over subjects within each fold, and
      their standard deviation; and the averages of both over folds. Undefined scores are left out;
      a fold without any is NaN.
    """
    names = list(dict.fromkeys(name for fold in folds for row in fold for name in row))
    table: dict[str, dict[str, float | list[float]]] = {}
    for name in names:
        values = [np.array([row[name] for row in fold], np.float64) for fold in folds]
        means = [_mean(v) for v in values]
        spreads = [_spread(v) for v in values]
        table[name] = {
            "mean": _mean(np.array(means)),
            "sd": _mean(np.array(spreads)),
            "folds": means,
            "folds_sd": spreads,
        }
    return table


def regions(subject: Subject) -> Mapping[str, Array | None]:
    """Returns the regions of saliency shares; None for masks that the data set lacks."""
    return {
        "volume": np.ones(subject.geometry.shape, bool),
        "white matter": subject.masks.white_matter,
        "ventricles": subject.masks.ventricles,
        "lesions": subject.masks.lesion,
    }


def _contrast(subject: Subject, flair: Array) -> Row:
    lesion, nawm = subject.masks.lesion, subject.masks.nawm
    first = second = rest = float("nan")
    if lesion is not None:
        rest = metrics.lesion_rest(flair, lesion, subject.masks.brain)
        if nawm is not None:
            first, second = metrics.lesion_ratios(flair, lesion, nawm)
    return {"ratio1": first, "ratio2": second, "lesion_rest": rest}


def _truth(subject: Subject) -> Array:
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR to compare with")
    return subject.flair


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _spread(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if known.size > 1 else float("nan")
