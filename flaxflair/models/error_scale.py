"""Error scale of a universal model: a small network, and its calibration on left-out patients.

The network predicts the scale b of the error of each voxel (Laplace distribution) from the
standardised inputs, the synthetic FLAIR and the lesion probability. An interval of coverage p is
[f + b·q((1 - p)/2), f + b·q((1 + p)/2)], where f is the synthetic FLAIR and q(a) the a-quantile of
error/b, for each tissue and group of sequences, among patients whom the model has not seen (one
factor per group: Laves et al. 2020, Proc. Mach. Learn. Res. 121:393). Independent of files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flaxflair.core.records import Array, InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import CONDITION
from flaxflair.imaging.tissue_classes import CLASSES
from flaxflair.networks.conditional import build
from flaxflair.networks.network import ConditionalNetwork, Params

COVERAGES = (0.5, 0.8, 0.9, 0.95)
# Probabilities of the calibrated quantiles: the lower and upper ends of `COVERAGES`.
PROBABILITIES = tuple(sorted(round((1 + sign * p) / 2, 4) for p in COVERAGES for sign in (-1, 1)))
# Sequences on which fluid is dark and bright: how much the inputs determine depends mostly on
# whether there are some of either.
_T1_WEIGHTED = ("T1", "T1SE")
GROUPS = ("T1", "T2", "T1+T2")
_WIDTHS = (16, 32)
_TYPICAL = np.log(0.1)  # logarithm of a typical scale; white matter is at 1
_RANGE = (-6.0, 1.0)  # of the logarithm of the scale


@dataclass(frozen=True)
class Calibration:
    """Quantiles of the error divided by its predicted scale.

    Attributes:
      quantiles: group of sequences -> class of tissue -> value at each of `PROBABILITIES`.
      patients: those on whom they were measured, left out of the training.
    """

    quantiles: Mapping[str, Mapping[str, tuple[float, ...]]]
    patients: tuple[str, ...]

    def ends(self, sequences: Collection[str], coverage: float) -> Array:
        """Returns the quantiles at both ends of an interval for each of `CLASSES`, float32[k, 2].

        Args:
          sequences: inputs of the session.
          coverage: one of `COVERAGES`.

        Raises:
          InputError: the coverage is not one of `COVERAGES`.
        """
        if coverage not in COVERAGES:
            known = ", ".join(f"{100 * p:g}" for p in COVERAGES)
            raise InputError(
                f"the model has no intervals of {100 * coverage:g} %; choose from {known}"
            )
        at = [PROBABILITIES.index(round((1 + sign * coverage) / 2, 4)) for sign in (-1, 1)]
        rows = self.quantiles[group_of(sequences)]
        return np.array([[rows[name][k] for k in at] for name in CLASSES], np.float32)


@dataclass(frozen=True)
class ErrorScale:
    """The network of the error scale.

    Attributes:
      params: parameters of `scale_network()`.
      calibration: None before calibration.
    """

    params: Params = field(repr=False)
    calibration: Calibration | None = None


def group_of(sequences: Collection[str]) -> str:
    """Returns the group of `GROUPS` that a set of sequences is calibrated with.

    T1 and spin-echo T1 count as T1, and T2, PD and DIR as T2.
    """
    first = any(name in _T1_WEIGHTED for name in sequences)
    second = any(name not in _T1_WEIGHTED for name in sequences)
    return GROUPS[2] if first and second else GROUPS[0] if first else GROUPS[1]


@cache
def scale_network() -> ConditionalNetwork:
    """Returns the network, whose first output is the logarithm of the scale before `to_scale`."""
    return build(len(INPUTS) + 2, CONDITION, widths=_WIDTHS, convolutions=2, reduction=2, fine=0)


def scale_inputs(
    images: Float[jax.Array, "b x y z m"],
    flair: Float[jax.Array, "b x y z"],
    lesion: Float[jax.Array, "b x y z"],
) -> Float[jax.Array, "b x y z m+2"]:
    """Returns the input of the network.

    Args:
      images: standardised inputs.
      flair: synthetic FLAIR, white matter about 1.
      lesion: lesion probability.
    """
    return jnp.concatenate([images, flair[..., None], lesion[..., None]], axis=-1)


def to_scale(output: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """Returns the scale of the error, from the output of the network."""
    return jnp.exp(jnp.clip(output + _TYPICAL, *_RANGE))


@dataclass(frozen=True)
class ScaleForward:
    """The scale as a function of parameters and condition; equal for equal networks."""

    apply: Callable[..., tuple[jax.Array, jax.Array]]

    def __call__(self, params: tuple[Params, jax.Array], inputs: jax.Array) -> jax.Array:
        """Returns the scale, b x y z, from b x y z m+2."""
        weights, condition = params
        conditions = jnp.broadcast_to(condition, (inputs.shape[0], condition.shape[0]))
        return to_scale(self.apply(weights, inputs, conditions)[0])


def calibrate(
    samples: Sequence[tuple[str, Array, Array, Array]], patients: Sequence[str]
) -> Calibration:
    """Returns the calibration of a network on sessions that its model has not seen.

    Every patient has the same weight in a quantile. A class that no session of a group holds has
    the quantiles of all classes of the group.

    Args:
      samples: for each session and set of inputs: group; error divided by its scale, float[n];
        class of each voxel, index into `CLASSES`, int[n]; and patient, index, int[n].
      patients: labels.

    Raises:
      InputError: a group has no session.
    """
    quantiles: dict[str, dict[str, tuple[float, ...]]] = {}
    for group in GROUPS:
        parts = [rest for name, *rest in samples if name == group]
        if not parts:
            raise InputError(f"no session has the inputs {group}; calibrate with sessions of each")
        errors, classes, owners = (np.concatenate(part) for part in zip(*parts, strict=True))
        whole = _quantiles(errors, owners)
        quantiles[group] = {}
        for number, name in enumerate(CLASSES):
            inside = classes == number
            quantiles[group][name] = _quantiles(errors[inside], owners[inside]) or whole
    return Calibration(quantiles, tuple(patients))


def _quantiles(errors: Array, owners: Array) -> tuple[float, ...]:
    """Returns the quantiles at `PROBABILITIES` with equal weight of each owner; () if empty."""
    if not errors.size:
        return ()
    weights = 1 / np.bincount(owners)[owners]
    found = np.quantile(errors, PROBABILITIES, weights=weights, method="inverted_cdf")
    return tuple(round(float(value), 4) for value in found)
