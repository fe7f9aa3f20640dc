"""Outcomes: what a finished study measured, read from the files that it left.

Knows the folder of a run and no table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxflair import derivative
from flaxflair.evaluate import Row
from flaxflair.files import with_nan
from flaxflair.nifti import read_volume
from flaxflair.volume import Array, Subject


class Outcome(NamedTuple):
    """What one study measured on the subjects it held out.

    Attributes:
      folder: of the run.
      folds: fold -> names of its subjects.
      rows: subject -> scores of the study's method.
      truth: subject -> scores of the true FLAIR.
      shares: subject -> region -> sequence -> share of the saliency; empty for a baseline.
      seconds: of all folds.
    """

    folder: Path
    folds: Mapping[int, Sequence[str]]
    rows: Mapping[str, Row]
    truth: Mapping[str, Row]
    shares: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds: float

    def values(self, metric: str, folds: Sequence[int] | None = None) -> Array:
        """Returns a metric of each subject, float64[n], in the order of the folds."""
        return np.array([self.rows[name].get(metric, math.nan) for name in self.names(folds)])

    def names(self, folds: Sequence[int] | None = None) -> list[str]:
        """Returns the subjects of some folds, or of all."""
        chosen = self.folds if folds is None else folds
        return [name for fold in sorted(chosen) for name in self.folds[fold]]

    def by_fold(self, metric: str, folds: Sequence[int] | None = None) -> dict[int, Array]:
        """Returns fold -> a metric of each of its subjects."""
        chosen = self.folds if folds is None else folds
        return {fold: self.values(metric, [fold]) for fold in sorted(chosen)}


def read_outcome(folder: Path, method: str) -> Outcome:
    """Reads what a study measured.

    Args:
      folder: of the run.
      method: whose rows are wanted.
    """
    paths = sorted(folder.glob("fold-*/scores.json"), key=lambda path: int(path.parent.name[5:]))
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows, truth, shares = {}, {}, {}
    for scores in stored:
        names = scores["heldout"]
        rows |= dict(zip(names, map(with_nan, scores["methods"][method]), strict=True))
        truth |= dict(zip(names, map(with_nan, scores["truth"]), strict=True))
        shares |= {
            name: {region: with_nan(own) for region, own in regions.items()}
            for name, regions in scores["saliency"].items()
        }
    folds = {scores["fold"]: scores["heldout"] for scores in stored}
    seconds = sum(scores["seconds"] for scores in stored)
    return Outcome(folder, folds, rows, truth, shares, seconds)


def read_flair(folder: Path, subject: Subject) -> Array:
    """Returns the synthetic FLAIR that a study left of a subject, float32[x, y, z]."""
    return read_volume(derivative.flair_path(folder / "derivative", subject)).array


def true_flair(subject: Subject) -> Array:
    """Returns the FLAIR of a subject of a cohort to evaluate on, float32[x, y, z]."""
    assert subject.flair is not None  # `load_cohort` refuses a session without one
    return subject.flair


class Curve(NamedTuple):
    """A learning curve.

    Attributes:
      epochs: int[n].
      loss: float64[n], mean squared error of z-scores in training.
      error: float64[n], the same of the watched subjects; NaN at epochs without a look.
    """

    epochs: Array
    loss: Array
    error: Array

    def told(self) -> tuple[Array, Array]:
        """Returns epochs and the error that was watched there, or the loss where none was."""
        known = self.error if np.isfinite(self.error).any() else self.loss
        seen = np.isfinite(known)
        return self.epochs[seen], known[seen]


def read_curve(folder: Path, fold: int) -> Curve:
    """Reads the learning curve of one fold from a run's journal."""
    by_epoch = {}  # a run that was cut off tells an epoch again
    with open(folder / "log.jsonl", encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if event["event"] == "epoch" and event["fold"] == fold:
                by_epoch[event["epoch"]] = event["loss"], event["error"]
    epochs = sorted(by_epoch)
    values = [[math.nan if v is None else v for v in by_epoch[epoch]] for epoch in epochs]
    table = np.array(values, np.float64).reshape(-1, 2)
    return Curve(np.array(epochs), table[:, 0], table[:, 1])


def flatness(curve: Curve) -> float:
    """Returns what the last fifth of training still brought, relative to the error at its start.

    The error that was watched, or the training loss where none was; NaN for a curve of one point.
    """
    epochs, values = curve.told()
    late = values[epochs >= 0.8 * curve.epochs[-1]] if len(values) else values
    return float((late[0] - late[-1]) / late[0]) if len(late) > 1 else math.nan
