"""Results of finished studies, read from the folders of their runs.

Independent of tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxflair.core.atomic_files import with_nan
from flaxflair.core.records import Array, Subject
from flaxflair.evaluation.scoring import Row
from flaxflair.io import derivatives


class Outcome(NamedTuple):
    """Results of one study on its held-out subjects.

    Attributes:
      folder: folder of the run.
      folds: fold -> names of its subjects.
      rows: subject -> scores of the study's method.
      truth: subject -> scores of the true FLAIR.
      shares: subject -> region -> sequence -> share of the saliency; empty for a baseline.
      seconds: total duration of all folds.
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
    """Reads the results of a study.

    Args:
      folder: folder of the run.
      method: method whose scores are read.
    """
    paths = sorted(folder.glob("fold-*/scores.json"), key=lambda path: int(path.parent.name[5:]))
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows, truth, shares = {}, {}, {}
    for scores in stored:
        names = scores["heldout"]
        rows |= dict(zip(names, map(with_nan, scores["methods"][method]), strict=True))
        truth |= dict(zip(names, map(with_nan, scores["truth"]), strict=True))
        shares |= {
            name: {region: with_nan(table) for region, table in regions.items()}
            for name, regions in scores["saliency"].items()
        }
    folds = {scores["fold"]: scores["heldout"] for scores in stored}
    seconds = sum(scores["seconds"] for scores in stored)
    return Outcome(folder, folds, rows, truth, shares, seconds)


def read_flair(folder: Path, subject: Subject) -> Array:
    """Returns a study's synthetic FLAIR of a subject, float32[x, y, z]."""
    return derivatives.read_flair(folder / "derivative", subject)


def true_flair(subject: Subject) -> Array:
    """Returns the true FLAIR of a subject of an evaluation cohort, float32[x, y, z]."""
    assert subject.flair is not None  # `load_cohort` refuses a session without one
    return subject.flair


class Curve(NamedTuple):
    """A learning curve.

    Attributes:
      epochs: int[n].
      loss: float64[n], mean squared error of z-scores in training.
      error: float64[n], the same of the monitored subjects; NaN at epochs without evaluation.
    """

    epochs: Array
    loss: Array
    error: Array

    def monitored(self) -> tuple[Array, Array]:
        """Returns epochs and monitored error, or training loss if no error was monitored."""
        known = self.error if np.isfinite(self.error).any() else self.loss
        seen = np.isfinite(known)
        return self.epochs[seen], known[seen]


def read_curve(folder: Path, fold: int) -> Curve:
    """Reads the learning curve of one fold from a run's event log."""
    by_epoch = {}  # a resumed run may log an epoch twice
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
    """Returns the decrease of the error over the last fifth of training, relative to its start.

    Uses the monitored error, or the training loss without one; NaN for a curve of one point.
    """
    epochs, values = curve.monitored()
    late = values[epochs >= 0.8 * curve.epochs[-1]] if len(values) else values
    return float((late[0] - late[-1]) / late[0]) if len(late) > 1 else math.nan
