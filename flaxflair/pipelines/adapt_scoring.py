"""Errors of sessions that were left out of an adaptation: before, after, and of least squares.

The error is `nmse_fit` in the brain on the session's own grid, as `flaxflair evaluate` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flaxflair.baselines import least_squares
from flaxflair.core.records import Array
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation.metrics import nmse_fit
from flaxflair.imaging.standard import Standard, standardize, to_subject_grid
from flaxflair.io.datasets import load_session
from flaxflair.io.session_files import SessionFiles
from flaxflair.models.universal import UniversalModel, predict_standard
from flaxflair.networks.network import Params
from flaxflair.training.averaging import SHARES, Errors, average
from flaxflair.training.real_windows import RealSession


def score_session(
    files: SessionFiles, model: UniversalModel, tuned: Params, others: Sequence[RealSession]
) -> Errors:
    """Scores a session that a fine-tuning has not seen.

    Args:
      files: files of the session, prepared, with a FLAIR.
      model: model before.
      tuned: fine-tuned parameters.
      others: sessions of the fine-tuning, for least squares.
    """
    subject = load_session(files)
    standard = standardize(subject)
    assert subject.flair is not None
    truth, brain = subject.flair, subject.masks.brain

    def error(flair: Array) -> float:
        return nmse_fit(to_subject_grid(subject, flair, standard.geometry), truth, brain)

    def error_of(share: float) -> float:
        params = average(model.params, tuned, share) if share else model.params
        return error(predict_standard(replace(model, params=params), standard)[0])

    linear = fit_linear(standard, files.inputs, others)
    return Errors(
        before=error_of(0.0),
        tuned={share: error_of(share) for share in SHARES},
        least_squares=float("nan") if linear is None else error(linear),
    )


def fit_linear(
    standard: Standard, sequences: Sequence[str], others: Sequence[RealSession]
) -> Array | None:
    """Returns the FLAIR by least squares, fitted on the sessions that have the same sequences.

    Args:
      standard: session in standard form.
      sequences: its sequences.
      others: sessions to fit on.

    Returns:
      float32[x, y, z]; None if no session has all the sequences.
    """
    channels = [INPUTS.index(name) for name in sequences]
    fitting = [each for each in others if set(channels) <= set(each.present.tolist())]
    if not fitting:
        return None
    model = least_squares.fit(
        (_select(each, channels), np.asarray(each.flair), np.asarray(each.brain))
        for each in fitting
    )
    return least_squares.predict(model, standard.images[..., channels])


def mean_errors(sessions: Sequence[Errors]) -> Errors:
    """Returns the mean over the sessions of a participant."""
    linear = [each.least_squares for each in sessions if np.isfinite(each.least_squares)]
    return Errors(
        float(np.mean([each.before for each in sessions])),
        {n: float(np.mean([each.tuned[n] for each in sessions])) for n in sessions[0].tuned},
        float(np.mean(linear)) if linear else float("nan"),
    )


def to_json(errors: Errors) -> dict[str, Any]:
    """Returns errors as a JSON object, for `from_json`."""
    return {**errors._asdict(), "tuned": {str(n): value for n, value in errors.tuned.items()}}


def from_json(stored: Mapping[str, Any]) -> Errors:
    """Inverse of `to_json`.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: the object is none of `to_json`.
    """
    tuned = stored["tuned"]
    linear = stored["least_squares"]
    return Errors(
        float(stored["before"]),
        {float(share): float(value) for share, value in tuned.items()},
        float("nan") if linear is None else float(linear),
    )


def _select(session: RealSession, channels: Sequence[int]) -> Array:
    places = [session.present.tolist().index(channel) for channel in channels]
    return np.asarray(session.images[..., places], np.float32)
