"""Intervals of a synthetic FLAIR: between which intensities the true one lies, voxel by voxel.

Independent of files and of how the model was trained and calibrated.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flaxflair.core.records import Array, InputError, Subject, Volume
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import Standard, to_subject_grid
from flaxflair.imaging.tissue_classes import classify
from flaxflair.models.error_scale import Calibration, ScaleForward, scale_inputs, scale_network
from flaxflair.models.inference import predict_streamed
from flaxflair.models.universal import VOXELS, WHITE, UniversalModel


class Interval(NamedTuple):
    """Lower and upper end of the interval of each voxel.

    Attributes:
      lower: float32[x, y, z], zero outside the brain.
      upper: likewise.
      coverage: nominal, 0 to 1.
    """

    lower: Volume
    upper: Volume
    coverage: float


def expect_intervals(model: object, coverage: float) -> Calibration:
    """Returns the calibration of a model.

    Args:
      model: of any kind.
      coverage: one of `COVERAGES`.

    Raises:
      InputError: the model has no calibrated intervals, or none of this coverage.
    """
    scale = model.scale if isinstance(model, UniversalModel) else None
    if scale is None or scale.calibration is None:
        raise InputError(
            "the model has no calibrated intervals; use the model in the package, or leave out "
            "--uncertainty"
        )
    scale.calibration.ends(("T1",), coverage)
    return scale.calibration


def predict_scale(
    model: UniversalModel,
    standard: Standard,
    flair: Array,
    lesion: Array,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> Array:
    """Returns the scale of the error, float32[x, y, z], white matter of the FLAIR at 1.

    Args:
      model: with an error scale.
      standard: session in standard form.
      flair: [x, y, z], from `predict_standard`.
      lesion: [x, y, z], lesion probability, likewise.
      tile_voxels: voxels computed at once; 0 for `VOXELS`.
      device: held while the network computes.

    Raises:
      InputError: the model has no error scale.
    """
    if model.scale is None:
        raise InputError("the model has no intervals; use the model in the package")
    network = scale_network()
    inputs = np.asarray(scale_inputs(*map(jnp.asarray, (standard.images, flair, lesion))))
    with device or nullcontext():
        return predict_streamed(
            ScaleForward(network.forward),
            (model.scale.params, jnp.asarray(standard.condition)),
            inputs,
            radius=network.radius,
            tile_voxels=tile_voxels or VOXELS,
            stride=network.stride,
        )


def predict_interval(
    model: UniversalModel,
    subject: Subject,
    standard: Standard,
    flair: Array,
    lesion: Array,
    coverage: float = 0.9,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> Interval:
    """Returns the interval of each voxel on the subject's grid, white matter at `WHITE`.

    Args:
      model: with a calibrated error scale.
      subject: the session.
      standard: its standard form.
      flair: [x, y, z] on the standard grid, from `predict_standard`.
      lesion: [x, y, z], lesion probability, likewise.
      coverage: nominal share of voxels inside their interval, one of `COVERAGES`.
      tile_voxels: see `predict_scale`.
      device: held while the network computes.

    Raises:
      InputError: the model has no intervals, or none of this coverage.
    """
    ends = expect_intervals(model, coverage).ends(subject.sequences, coverage)
    scale = predict_scale(model, standard, flair, lesion, tile_voxels=tile_voxels, device=device)
    channels = [INPUTS.index(name) for name in subject.sequences]
    classes = classify(standard.images[..., channels], subject.sequences, lesion)
    lower, upper = (
        _on_grid(subject, np.maximum(flair + ends[classes, k] * scale, 0), standard)
        for k in range(2)
    )
    return Interval(lower, upper, coverage)


def _on_grid(subject: Subject, array: Array, standard: Standard) -> Volume:
    back = to_subject_grid(subject, WHITE * array, standard.geometry)
    return Volume(back * subject.masks.brain, subject.geometry)
