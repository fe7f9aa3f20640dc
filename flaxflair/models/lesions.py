"""Lesions of a session by a universal model: where they are, and which inputs they rest on.

One pass of the network gives the FLAIR and the lesion probability. One further pass for each input,
without it, shows which lesions were seen in that input only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from flaxflair.core.records import Array, Geometry, InputError, Subject, Volume
from flaxflair.evaluation.lesion_evidence import Lesion, find_lesions, measure_lesions
from flaxflair.imaging.normalization import zero_outside
from flaxflair.imaging.standard import Standard, standardize, to_subject_grid
from flaxflair.models.model import AnyModel, method_name
from flaxflair.models.universal import UniversalModel, predict_standard, to_flair


class LesionPrediction(NamedTuple):
    """Lesions of one session.

    Attributes:
      probability: float32[x, y, z] on the subject's grid, zero outside the brain.
      lesions: lesions, by decreasing volume.
    """

    probability: Array
    lesions: tuple[Lesion, ...]


def expect_lesions(model: AnyModel) -> UniversalModel:
    """Returns a model that predicts lesions.

    Raises:
      InputError: it is not a universal model.
    """
    if not isinstance(model, UniversalModel):
        raise InputError(
            f"lesions: the model is of the kind {method_name(model)!r}, which predicts a FLAIR and "
            "no lesions; name a universal model (that of the package if --model is left out), or "
            "leave --lesions out"
        )
    return model


def predict_with_lesions(
    model: UniversalModel,
    subject: Subject,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> tuple[Volume, LesionPrediction]:
    """Synthesises the FLAIR of one session and finds its lesions.

    The lesions are found and measured on the standard grid of 1 mm, whatever the voxels of the
    session are.

    Args:
      model: from `load_model`.
      subject: with one or more of `INPUTS`.
      tile_voxels: voxels computed at once; 0 for `universal.VOXELS`.
      device: held while the network computes.

    Returns:
      The FLAIR that `predict_flair` returns, and the lesions.

    Raises:
      InputError: see `standardize`.
    """
    maps = predict_maps(model, subject, tile_voxels=tile_voxels, device=device)
    lesions = trace_lesions(model, subject, maps, tile_voxels=tile_voxels, device=device)
    return to_flair(subject, maps.flair, maps.standard.geometry), lesions


class Maps(NamedTuple):
    """Output of the network on the standard grid.

    Attributes:
      standard: the session in standard form.
      flair: float32[x, y, z], white matter about 1.
      probability: float32[x, y, z], that a voxel is lesion; zero outside the brain.
    """

    standard: Standard
    flair: Array
    probability: Array


def trace_lesions(
    model: UniversalModel,
    subject: Subject,
    maps: Maps,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> LesionPrediction:
    """Finds the lesions of a session, with one further pass of the network for each input.

    Args:
      model: from `load_model`.
      subject: the session.
      maps: from `predict_maps`.
      tile_voxels: see `predict_with_lesions`.
      device: held while the network computes.
    """
    geometry, brain = maps.standard.geometry, maps.standard.brain
    labels = find_lesions(maps.probability, geometry.voxel_size)
    several = len(subject.sequences) > 1 and labels.any()
    without = {}
    for name in subject.sequences if several else ():
        rest = predict_maps(model, leave_out(subject, name), tile_voxels=tile_voxels, device=device)
        without[name] = rest.probability
    lesions = measure_lesions(labels, maps.probability, maps.flair, brain, geometry, without)
    return LesionPrediction(to_probability(subject, maps.probability, geometry), lesions)


def predict_maps(
    model: UniversalModel,
    subject: Subject,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> Maps:
    """Returns FLAIR and lesion probability on the standard grid; see `predict_with_lesions`."""
    standard = standardize(subject)
    flair, probability = predict_standard(model, standard, tile_voxels=tile_voxels, device=device)
    probability = zero_outside(standard.brain, probability)
    return Maps(standard, flair, probability)


def to_probability(subject: Subject, probability: Array, geometry: Geometry) -> Array:
    """Returns a probability on the subject's grid, zero outside the brain; float32[x, y, z].

    Args:
      subject: the session.
      probability: [x, y, z], on the standard grid.
      geometry: the standard grid.
    """
    on_grid = np.clip(to_subject_grid(subject, probability, geometry), 0, 1)
    return zero_outside(subject.masks.brain, on_grid)


def leave_out(subject: Subject, sequence: str) -> Subject:
    """Returns a session as if one of its sequences had not been scanned."""
    kept = [n for n, name in enumerate(subject.sequences) if name != sequence]
    names = tuple(subject.sequences[n] for n in kept)
    return replace(subject, sequences=names, images=subject.images[..., kept])
