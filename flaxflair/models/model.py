"""Model: a fitted method with its normalisation, from intensities to intensities; and runs.

The interface for notebooks, the command line and other programs. Independent of training and of
storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from flaxflair.core.json_objects import read_object
from flaxflair.core.records import Array, InputError, Subject, Volume
from flaxflair.imaging.normalization import (
    Normalization,
    decode_flair,
    encode_flair,
    make_encoder,
    relative_levels,
    zero_outside,
)
from flaxflair.io.fingerprints import describe_changes
from flaxflair.io.session_files import SessionFiles
from flaxflair.models import universal
from flaxflair.models.estimators import Fitted, FittedNetwork
from flaxflair.models.saliency import p3s_streamed
from flaxflair.models.universal import UniversalModel, predict_flair, resolution_warnings

_MAX_LEVEL = 2.0  # ratio of the brightness of a session to the training's, without a warning
_MAX_SIZE = 128  # voxels along an axis from which a level is measured
_NO_LOCK = nullcontext()  # for prediction by a single thread


@dataclass(frozen=True)
class Model:
    """A fitted method, its normalisation, and the sequences it reads.

    Attributes:
      sequences: names of the input sequences, in the order of the channels.
      fitted: z-scores to z-scores.
      normalization: intensities to z-scores and back.
      region: `volume` or `brain`; if `brain`, the FLAIR is zero outside the brain.
      voxel_size: mm, median of the training images; None if unknown.
    """

    sequences: tuple[str, ...]
    fitted: Fitted
    normalization: Normalization
    region: str = "volume"
    voxel_size: tuple[float, float, float] | None = None


AnyModel: TypeAlias = Model | UniversalModel


class Run(NamedTuple):
    """A cross-validation, finished or not: its data set and folds.

    Attributes:
      folder: folder of the run (`--workdir`).
      source: input data set.
      heldout: held-out participants of each fold.
      summary: content of `summary.json`; empty if it does not exist yet.
      read: session -> path -> digest of the input files.
    """

    folder: Path
    source: Path
    heldout: list[list[str]]
    summary: dict[str, Any]
    read: Mapping[str, Mapping[str, str]]

    def expect_unchanged(self, name: str, now: Mapping[str, str]) -> None:
        """Checks that the files of a session are unchanged since the run.

        Args:
          name: name of the session.
          now: path -> digest; see `io.fingerprints`.

        Raises:
          InputError: the message names the first file that changed.
        """
        if changes := describe_changes({name: self.read.get(name, {})}, {name: now}):
            raise InputError(
                f"{self.source}: has changed since {self.folder} read it ({changes[0]}); restore it"
            )

    def fold_of(self, participant: str) -> int:
        """Returns the fold in which a participant is held out.

        Raises:
          InputError: the participant is not in the run.
        """
        for fold, names in enumerate(self.heldout):
            if participant in names:
                return fold
        raise InputError(f"{self.folder}: has no participant {participant!r}; name another")


def load_run(folder: str | Path) -> Run:
    """Loads the data set, folds and summary of a run; for its models, see `load_model`.

    Args:
      folder: folder of the run (`--workdir`).

    Raises:
      InputError: it is not the folder of a run.
    """
    folder = Path(folder)
    config, folds, summary = (folder / f"{name}.json" for name in ("config", "folds", "summary"))
    for path in (config, folds):
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the folder of a run (its --workdir)")
    try:
        folds_record = read_object(folds, _REMEDY)
        return Run(
            folder,
            Path(read_object(config, _REMEDY)["source"]),
            [list(fold) for fold in folds_record["heldout"]],
            read_object(summary, _REMEDY) if summary.is_file() else {},
            {name: dict(digests) for name, digests in folds_record["read"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: is not a run ({error}); {_REMEDY}") from None


_REMEDY = "give the unchanged folder of a run"


def predict(
    model: AnyModel,
    subject: Subject,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] = _NO_LOCK,
) -> Volume:
    """Synthesises the FLAIR of one session.

    Args:
      model: from `load_model`.
      subject: with the model's sequences, or for a universal model with any of them.
      tile_voxels: voxels computed at once, about 16 bytes each for every filter, for volumes that
        do not fit into memory; 0 for the whole volume. If not 0, the input is encoded in tiles too.
      device: lock held during the computation of the method, so that other threads can encode and
        decode.

    Returns:
      float32[x, y, z] on the subject's grid, in the units of the training FLAIRs; with a universal
      model, normal-appearing white matter has the intensity `universal.WHITE`.

    Raises:
      InputError: the sequences differ from the model's, or its tissues cannot be segmented.
    """
    if isinstance(model, UniversalModel):
        return predict_flair(model, subject, tile_voxels=tile_voxels, device=device)
    return predict_many(model, [subject], tile_voxels=tile_voxels, device=device)[0]


def predict_many(
    model: Model,
    subjects: Sequence[Subject],
    *,
    tile_voxels: int = 0,
    batch: int = 1,
    device: AbstractContextManager[Any] = _NO_LOCK,
) -> list[Volume]:
    """Synthesises the FLAIRs of sessions that share one grid shape, in one compiled call.

    See `predict` for arguments and errors; `batch` is the number of volumes computed at once.
    """
    for subject in subjects:
        _expect_sequences(model, subject)
    images = [subject.images for subject in subjects]
    brains = [subject.masks.brain for subject in subjects]
    flairs = _synthesise(model, images, brains, tile_voxels=tile_voxels, batch=batch, device=device)
    return [Volume(f, s.geometry) for f, s in zip(flairs, subjects, strict=True)]


def predict_array(
    model: Model, images: Array, brain: Array | None = None, *, tile_voxels: int = 0
) -> Array:
    """Synthesises the FLAIR of one session, given as arrays.

    Args:
      model: from `load_model`.
      images: [x, y, z, m], intensities of `model.sequences` in that order, on one grid whose axes
        run closest to right, anterior, superior.
      brain: bool[x, y, z]; needed if the model was trained on the brain, otherwise ignored.
      tile_voxels: see `predict`.

    Returns:
      float32[x, y, z], in the units of the training FLAIRs.

    Raises:
      InputError: the number of sequences is not the model's, or the brain is needed and missing.
    """
    return _synthesise(model, [images], [brain], tile_voxels=tile_voxels)[0]


def _synthesise(
    model: Model,
    images: Sequence[Array],
    brains: Sequence[Array | None],
    *,
    tile_voxels: int = 0,
    batch: int = 1,
    device: AbstractContextManager[Any] = _NO_LOCK,
) -> list[Array]:
    """Synthesises FLAIRs from images: encode, predict, decode."""
    read = Encoded if tile_voxels else encode
    encoded = [read(model, image, brain) for image, brain in zip(images, brains, strict=True)]
    # Outside the brain, a model of the brain may predict anything.
    insides = brains if model.region == "brain" else [None] * len(brains)
    with device:
        flairs = model.fitted.predict(encoded, insides, tile_voxels=tile_voxels, batch=batch)
    return [
        decode(model, flair, image, brain)
        for flair, image, brain in zip(flairs, images, brains, strict=True)
    ]


def _expect_sequences(model: Model, subject: Subject) -> None:
    if subject.sequences != model.sequences:
        raise InputError(
            f"{subject.name}: has {','.join(subject.sequences)}; the model reads "
            f"{','.join(model.sequences)}"
        )


def encode(model: Model, images: Array, brain: Array | None) -> Array:
    """Returns the z-scores of a session; with a model of the brain, zeroed outside it first.

    See `predict_array` for arguments and errors.

    Returns:
      float32[x, y, z, m].
    """
    return Encoded(model, images, brain)[:, :, :]


class Encoded:
    """Z-scores of a session, computed lazily for each tile.

    See `predict_array` for arguments and errors. Memory is that of one tile.
    """

    def __init__(self, model: Model, images: Array, brain: Array | None):
        if images.ndim != 4 or images.shape[-1] != len(model.sequences):
            raise InputError(
                f"images have shape {images.shape}; x, y, z and {len(model.sequences)} sequences "
                f"({','.join(model.sequences)}) are needed"
            )
        region = _region(model, brain)
        self._images = images
        self._region = region if model.region == "brain" else None
        self._encode = make_encoder(model.normalization, images, region, model.sequences)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns x y z m."""
        return self._images.shape

    def __getitem__(self, at: tuple[slice, slice, slice], /) -> Array:
        """Returns the z-scores of a tile, float32[x, y, z, m]."""
        part = self._images[at]
        if self._region is not None:
            part = zero_outside(self._region[at], part)
        return self._encode(part)


def decode(model: Model, flair: Array, images: Array, brain: Array | None) -> Array:
    """Returns the intensities of a predicted FLAIR.

    Args:
      model: model of the prediction.
      flair: [x, y, z], z-scores.
      images: [x, y, z, m], intensities of the inputs, for the level of the session.
      brain: see `predict_array`.

    Returns:
      float32[x, y, z], in the units of the training FLAIRs.
    """
    region = _region(model, brain)
    decoded = decode_flair(model.normalization, flair, images, region)
    return zero_outside(region, decoded) if model.region == "brain" else decoded


def method_name(model: AnyModel) -> str:
    """Returns the name of the method in tables and sidecars."""
    return "universal" if isinstance(model, UniversalModel) else model.fitted.name


def wanted_inputs(model: AnyModel) -> tuple[str, ...]:
    """Returns the sequences required in every session; none for a universal model."""
    return () if isinstance(model, UniversalModel) else model.sequences


def choose_inputs(model: AnyModel, files: SessionFiles) -> SessionFiles:
    """Returns the files of a session with the inputs of a model.

    A universal model reads all of its sequences that were scanned.

    Raises:
      InputError: a session has none of the sequences of a universal model.
    """
    if not isinstance(model, UniversalModel):
        return replace(files, inputs=model.sequences)
    inputs = tuple(name for name in model.sequences if name in files.sequences)
    if not inputs:
        raise InputError(
            f"{files.root}: {files.name} has none of {', '.join(model.sequences)}; "
            "at least one is needed to synthesise a FLAIR"
        )
    return replace(files, inputs=inputs)


def level_warnings(model: AnyModel, subject: Subject) -> tuple[str, ...]:
    """Returns the warnings of a model, and one for each input of unusual level or resolution."""
    if isinstance(model, UniversalModel):
        return (*model.warnings, *resolution_warnings(subject))
    encoded = Encoded(model, subject.images, subject.masks.brain)
    x, y, z = (slice(None, None, max(1, size // _MAX_SIZE)) for size in subject.geometry.shape)
    levels = relative_levels(model.normalization, encoded[x, y, z])
    return tuple(
        f"the {name} is {_times(level)} as bright as in the training data, which this model does "
        "not normalise; use a model with normalisation by session"
        for name, level in zip(model.sequences, levels, strict=True)
        if not 1 / _MAX_LEVEL <= level <= _MAX_LEVEL
    )


def _times(level: float) -> str:
    # Below, the level is lost in the rounding of z-scores.
    return f"{level:.2g} times" if level > 1e-3 else "less than 0.001 times"


def expect_gradient(model: AnyModel) -> None:
    """Checks that a model has saliency maps.

    Raises:
      InputError: it is not a network and so has no gradient.
    """
    if isinstance(model, Model) and not isinstance(model.fitted, FittedNetwork):
        raise InputError(
            f"a {model.fitted.name} has no gradient and so no saliency map; name a network"
        )


def saliency_maps(model: AnyModel, subject: Subject, *, tile_voxels: int = 0) -> Array:
    """Returns the P3S maps of one subject (Wei et al. 2019, eq. 3).

    Args:
      model: from `load_model`.
      subject: with a true FLAIR and the model's sequences.
      tile_voxels: voxels computed at once; 0 for the whole volume.

    Returns:
      float32[x, y, z, m], one map per sequence, in squared z-scores per z-score, or see
      `universal.saliency_maps`. With a model of the brain, errors outside it are excluded.

    Raises:
      InputError: the subject has no FLAIR, or its sequences differ from the model's; or the model
        has no gradient.
    """
    expect_gradient(model)
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR, which saliency requires; add it")
    if isinstance(model, UniversalModel):
        return universal.saliency_maps(model, subject, subject.flair, tile_voxels=tile_voxels)
    _expect_sequences(model, subject)
    brain, flair = subject.masks.brain, subject.flair
    images = encode(model, subject.images, brain)
    if model.region == "brain":
        flair = zero_outside(brain, flair)
    fitted = cast(FittedNetwork, model.fitted)
    return p3s_streamed(
        fitted.network.forward,
        fitted.params,
        images,
        encode_flair(model.normalization, flair, brain),
        weight=brain if model.region == "brain" else None,
        radius=fitted.network.radius,
        tile_voxels=tile_voxels,
        stride=fitted.network.stride,
    )


def _region(model: Model, brain: Array | None) -> Array:
    """Returns the brain mask if the model needs one, otherwise an empty array."""
    needed = model.normalization.needs_brain or model.region == "brain"
    if not needed:
        return np.empty(0, bool)
    if brain is None:
        raise InputError("this model was trained on the brain and needs a brain mask")
    return brain
