"""Averages of the weights of a model and of its fine-tuned copy, and how the share is chosen.

The average of both is often better than either on data like that of the fine-tuning, and loses less
on other data (Wortsman et al. 2022, arXiv:2109.01903). Independent of networks and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from flaxflair.networks.network import Params

SHARES = (0.25, 0.5, 1.0)  # of the fine-tuned weights, from which one is chosen
CAUTIOUS = 0.25  # share without a participant to choose it by


class Errors(NamedTuple):
    """Errors of the FLAIR of a participant who was left out of a fine-tuning.

    Attributes:
      before: error of the model before.
      tuned: share of the fine-tuned weights -> error of the average.
      least_squares: error of least squares, fitted on the other participants; NaN if none of them
        has the sequences.
    """

    before: float
    tuned: Mapping[float, float]
    least_squares: float


def average(before: Params, tuned: Params, share: float) -> Params:
    """Returns `(1 - share) * before + share * tuned`, leaf by leaf, on the host."""

    def mix(one: jax.Array, other: jax.Array) -> np.ndarray:
        a, b = np.asarray(one), np.asarray(other)
        return ((1 - share) * a + share * b).astype(a.dtype)

    return jax.tree.map(mix, before, tuned)


def choose_share(left_out: Sequence[Errors]) -> float:
    """Returns the share of least mean error, the smallest of equal ones; `CAUTIOUS` without any."""
    if not left_out:
        return CAUTIOUS
    means = {n: float(np.mean([each.tuned[n] for each in left_out])) for n in left_out[0].tuned}
    return min(sorted(means), key=lambda share: means[share])


def errors_after(left_out: Sequence[Errors]) -> list[float]:
    """Returns the error of each participant with the share that the others choose.

    A participant's own error has no part in the choice, which would make it look too small.
    """
    return [
        each.tuned[choose_share([*left_out[:n], *left_out[n + 1 :]])]
        for n, each in enumerate(left_out)
    ]
