"""What a universal model gives beside the FLAIR of a session: lesions, and intervals.

Computed with the FLAIR from one pass of the network, and written beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxflair.core.records import Array, Subject, Volume
from flaxflair.evaluation.lesion_table import describe_columns, lesion_rows
from flaxflair.io import bound_files, lesion_files
from flaxflair.io.derivatives import Destination
from flaxflair.models.intervals import Interval, expect_intervals, predict_interval
from flaxflair.models.lesions import (
    LesionPrediction,
    expect_lesions,
    predict_maps,
    trace_lesions,
)
from flaxflair.models.model import AnyModel, predict
from flaxflair.models.universal import to_flair
from flaxflair.visualization.lesion_list import LesionList


class Extras(NamedTuple):
    """What is wanted beside a FLAIR.

    Attributes:
      lesions: whether lesions are wanted.
      coverage: of the intervals, one of `error_scale.COVERAGES`; None for no intervals.
    """

    lesions: bool = False
    coverage: float | None = None

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the names of the files of every session, for its receipt."""
        bounds = () if self.coverage is None else bound_files.endings(self.coverage)
        return (*(lesion_files.ENDINGS if self.lesions else ()), *bounds)

    def expect_model(self, model: AnyModel) -> None:
        """Checks that a model has what is wanted.

        Raises:
          InputError: it is not universal, or has no intervals of this coverage.
        """
        if self.lesions:
            expect_lesions(model)
        if self.coverage is not None:
            expect_intervals(model, self.coverage)

    def expect_files(self, image: Path, inputs: Iterable[Path]) -> None:
        """Checks the output files beside a FLAIR before any computation.

        Args:
          image: synthetic FLAIR to write.
          inputs: files that are read.

        Raises:
          WriteError: see `expect_image_output`.
        """
        inputs = list(inputs)
        if self.lesions:
            lesion_files.expect_lesion_files(image, inputs)
        if self.coverage is not None:
            bound_files.expect_bound_files(image, inputs, self.coverage)


NOTHING = Extras()


class Found(NamedTuple):
    """What was predicted beside a FLAIR; None where it is not wanted."""

    lesions: LesionPrediction | None = None
    interval: Interval | None = None


class Shown(NamedTuple):
    """What of it is shown on the page of the session.

    Attributes:
      lesions: list of lesions.
      overlays: title -> [x, y, z] on the subject's grid.
    """

    lesions: LesionList | None
    overlays: Mapping[str, Array]


def predict_session(
    model: AnyModel, subject: Subject, extras: Extras, **computation: Any
) -> tuple[Volume, Found]:
    """Returns the FLAIR of a session, and what is wanted beside it.

    Args:
      model: from `load_model`; see `Extras.expect_model`.
      subject: the session.
      extras: what is wanted.
      **computation: `tile_voxels` and `device` of `model.predict`.

    Raises:
      InputError: see `model.predict`.
    """
    if extras == NOTHING:
        return predict(model, subject, **computation), Found()
    universal = expect_lesions(model)
    maps = predict_maps(universal, subject, **computation)
    lesions = trace_lesions(universal, subject, maps, **computation) if extras.lesions else None
    interval = None
    if extras.coverage is not None:
        interval = predict_interval(
            universal,
            subject,
            maps.standard,
            maps.flair,
            maps.probability,
            extras.coverage,
            **computation,
        )
    flair = to_flair(subject, maps.flair, maps.standard.geometry)
    return flair, Found(lesions, interval)


def write(
    destination: Destination, subject: Subject, found: Found, model: Mapping[str, Any]
) -> Shown:
    """Writes what was predicted beside a FLAIR, and returns what its page shows.

    Args:
      destination: output paths of the FLAIR.
      subject: the session.
      found: what was predicted.
      model: facts on the model for the sidecars.

    Raises:
      WriteError: a file cannot be written.
    """
    listed, overlays = None, {}
    if found.lesions is not None:
        columns = describe_columns(subject.sequences)
        rows = tuple(lesion_rows(found.lesions.lesions, subject.sequences))
        probability = found.lesions.probability
        lesion_files.write_lesions(destination, subject, probability, columns, rows, model)
        listed = LesionList(probability, tuple(columns), rows)
    if found.interval is not None:
        lower, upper, coverage = found.interval
        bound_files.write_bounds(destination, subject, lower.array, upper.array, coverage, model)
        title = f"width of the {100 * coverage:g} % interval"
        overlays[title] = upper.array - lower.array
    return Shown(listed, overlays)
