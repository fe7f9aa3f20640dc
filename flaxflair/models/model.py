"""Model: a fitted method and all it needs to be used, applied as one; and runs, which made it.

What a notebook, the command line and another program use. Takes intensities and gives intensities;
knows nothing of how it was trained, nor of how it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

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
from flaxflair.io.fingerprints import say_changes
from flaxflair.io.session_files import SessionFiles
from flaxflair.models.estimators import Fitted, FittedNetwork
from flaxflair.models.saliency import p3s_streamed
from flaxflair.models.universal import UniversalModel, predict_flair, resolution_warnings

# A session this much brighter or darker than the training's is another problem.
_MOST_LEVEL = 2.0
# Voxels along an axis that tell a level well enough.
_FINE = 128
# Where only one thread predicts, nothing has to be held.
_UNSHARED = nullcontext()


@dataclass(frozen=True)
class Model:
    """A fitted method, its normalisation, and the sequences it reads.

    Attributes:
      sequences: names of the input sequences, in the order of the channels.
      fitted: z-scores to z-scores.
      normalization: intensities to z-scores and back.
      region: `volume`, or `brain`: then the FLAIR outside the brain is zero.
      voxel_size: mm, the median of its training images'; None if that is not known.
    """

    sequences: tuple[str, ...]
    fitted: Fitted
    normalization: Normalization
    region: str = "volume"
    voxel_size: tuple[float, float, float] | None = None


AnyModel: TypeAlias = Model | UniversalModel


class Run(NamedTuple):
    """A run that has begun: where its data lie and who was held out when.

    Attributes:
      folder: given to `--workdir`.
      source: the data set that it reads.
      heldout: participants of each fold.
      summary: what `summary.json` holds; empty while no run of it has ended.
      read: session -> path -> digest of the files that it read.
    """

    folder: Path
    source: Path
    heldout: list[list[str]]
    summary: dict[str, Any]
    read: Mapping[str, Mapping[str, str]]

    def expect_unchanged(self, name: str, now: Mapping[str, str]) -> None:
        """Refuses a session whose files are not those that the run read.

        Args:
          name: of the session.
          now: path -> digest; see `io.fingerprints`.

        Raises:
          InputError: the message names the first file that changed.
        """
        if changes := say_changes({name: self.read.get(name, {})}, {name: now}):
            raise InputError(
                f"{self.source}: has changed since {self.folder} read it ({changes[0]}); "
                "bring it back as it was"
            )

    def fold_of(self, participant: str) -> int:
        """Returns the fold whose model never saw a participant.

        Raises:
          InputError: the run knows no such participant.
        """
        for fold, names in enumerate(self.heldout):
            if participant in names:
                return fold
        raise InputError(f"{self.folder}: knows no participant {participant!r}")


def load_run(folder: str | Path) -> Run:
    """Loads what a run says of itself; its models come from `load_model`.

    Args:
      folder: given to `--workdir`.

    Raises:
      InputError: it is not the folder of a run.
    """
    folder = Path(folder)
    config, folds, summary = (folder / f"{name}.json" for name in ("config", "folds", "summary"))
    for path in (config, folds):
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the folder of a run (its --workdir)")
    try:
        said = read_object(folds, _WAY_OUT)
        return Run(
            folder,
            Path(read_object(config, _WAY_OUT)["source"]),
            [list(fold) for fold in said["heldout"]],
            read_object(summary, _WAY_OUT) if summary.is_file() else {},
            {name: dict(own) for name, own in said["read"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: is no run ({error} is not as it was); {_WAY_OUT}") from None


_WAY_OUT = "give the folder of a run as it was left"


def predict(
    model: AnyModel,
    subject: Subject,
    *,
    voxels: int = 0,
    device: AbstractContextManager[Any] = _UNSHARED,
) -> Volume:
    """Synthesises the FLAIR of one session.

    Args:
      model: from `load_model`.
      subject: with the model's sequences, or for a universal model with any of them.
      voxels: computed at a time, for volumes that do not fit into memory, about 16 bytes each for
        every filter; 0 for the whole volume at once. Only with tiles is the input encoded tile by
        tile.
      device: held while the method itself computes, so that other threads encode and decode
        meanwhile.

    Returns:
      float32[x, y, z] on the subject's grid, in the units of the training FLAIRs; of a universal
      model, normal-appearing white matter is at `universal.WHITE`.

    Raises:
      InputError: the subject has other sequences than the model, or its tissues cannot be found.
    """
    if isinstance(model, UniversalModel):
        return predict_flair(model, subject, voxels=voxels, device=device)
    return predict_many(model, [subject], voxels=voxels, device=device)[0]


def predict_many(
    model: Model,
    subjects: Sequence[Subject],
    *,
    voxels: int = 0,
    batch: int = 1,
    device: AbstractContextManager[Any] = _UNSHARED,
) -> list[Volume]:
    """Synthesises the FLAIRs of sessions that share one grid shape, in one compiled call.

    See `predict` for arguments and errors; `batch` is the number of volumes side by side.
    """
    for subject in subjects:
        _expect_sequences(model, subject)
    images = [subject.images for subject in subjects]
    brains = [subject.masks.brain for subject in subjects]
    flairs = _synthesise(model, images, brains, voxels=voxels, batch=batch, device=device)
    return [Volume(f, s.geometry) for f, s in zip(flairs, subjects, strict=True)]


def predict_array(
    model: Model, images: Array, brain: Array | None = None, *, voxels: int = 0
) -> Array:
    """Synthesises the FLAIR of one session, given as arrays.

    Args:
      model: from `load_model`.
      images: [x, y, z, m], intensities of `model.sequences` in that order, on one grid whose axes
        run closest to right, anterior, superior.
      brain: bool[x, y, z]; needed if the model was trained on the brain, else of no effect.
      voxels: see `predict`.

    Returns:
      float32[x, y, z], in the units of the training FLAIRs.

    Raises:
      InputError: the number of sequences is not the model's, or the brain is needed and missing.
    """
    return _synthesise(model, [images], [brain], voxels=voxels)[0]


def _synthesise(
    model: Model,
    images: Sequence[Array],
    brains: Sequence[Array | None],
    *,
    voxels: int = 0,
    batch: int = 1,
    device: AbstractContextManager[Any] = _UNSHARED,
) -> list[Array]:
    """Turns images into FLAIRs: encode, predict, decode. All other functions come here."""
    read = Encoded if voxels else encode
    encoded = [read(model, image, brain) for image, brain in zip(images, brains, strict=True)]
    # Outside the brain, a model of the brain may predict anything.
    insides = brains if model.region == "brain" else [None] * len(brains)
    with device:
        flairs = model.fitted.predict(encoded, insides, voxels=voxels, batch=batch)
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
    """Returns what the network reads: z-scores, zeroed outside the brain first if the model does.

    See `predict_array` for arguments and errors.

    Returns:
      float32[x, y, z, m].
    """
    return Encoded(model, images, brain)[:, :, :]


class Encoded:
    """What the network reads of a session, made tile by tile as it is asked for.

    See `predict_array` for arguments and errors. Never holds more than the tile.
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
    """Returns the intensities of a FLAIR that the network predicted.

    Args:
      model: that predicted it.
      flair: [x, y, z], z-scores.
      images: [x, y, z, m], the inputs' intensities, which tell the session's level.
      brain: see `predict_array`.

    Returns:
      float32[x, y, z], in the units of the training FLAIRs.
    """
    region = _region(model, brain)
    decoded = decode_flair(model.normalization, flair, images, region)
    return zero_outside(region, decoded) if model.region == "brain" else decoded


def method_name(model: AnyModel) -> str:
    """Returns what tables and sidecars call the method."""
    return "universal" if isinstance(model, UniversalModel) else model.fitted.name


def wanted_inputs(model: AnyModel) -> tuple[str, ...]:
    """Returns the sequences that every session must have: none of a universal model's."""
    return () if isinstance(model, UniversalModel) else model.sequences


def choose_inputs(model: AnyModel, files: SessionFiles) -> SessionFiles:
    """Returns the files of a session with those inputs that a model reads.

    A universal model reads whichever of its sequences there are.

    Raises:
      InputError: a universal model finds none of its sequences.
    """
    if not isinstance(model, UniversalModel):
        return replace(files, inputs=model.sequences)
    inputs = tuple(name for name in model.sequences if name in files.sequences)
    if not inputs:
        raise InputError(
            f"{files.root}: {files.name} has none of {', '.join(model.sequences)}; "
            "a FLAIR is synthesised from one of them or more"
        )
    return replace(files, inputs=inputs)


def level_warnings(model: AnyModel, subject: Subject) -> tuple[str, ...]:
    """Returns the warnings of a model, and one of each input unlike those it was trained on."""
    if isinstance(model, UniversalModel):
        return (*model.warnings, *resolution_warnings(subject))
    encoded = Encoded(model, subject.images, subject.masks.brain)
    x, y, z = (slice(None, None, max(1, size // _FINE)) for size in subject.geometry.shape)
    levels = relative_levels(model.normalization, encoded[x, y, z])
    return tuple(
        f"the {name} is {level:.2g} times as bright as those that the model was trained on, which "
        "this model does not even out; take a model that is normalised by session"
        for name, level in zip(model.sequences, levels, strict=True)
        if not 1 / _MOST_LEVEL <= level <= _MOST_LEVEL
    )


def expect_gradient(model: AnyModel) -> tuple[Model, FittedNetwork]:
    """Returns a model that saliency maps can be made of, and its network.

    Raises:
      InputError: it is universal, or no network, and so has no gradient.
    """
    if isinstance(model, UniversalModel):
        raise InputError("saliency is of a network that was trained on one data set; name its run")
    fitted = model.fitted
    if not isinstance(fitted, FittedNetwork):
        raise InputError(f"a {fitted.name} has no gradient to make a saliency map of; name another")
    return model, fitted


def saliency_maps(model: AnyModel, subject: Subject, *, voxels: int = 0) -> Array:
    """Returns the P3S maps of one subject (Wei et al. 2019, eq. 3).

    Args:
      model: from `load_model`.
      subject: with a true FLAIR and the model's sequences.
      voxels: computed at a time; 0 for the whole volume at once.

    Returns:
      float32[x, y, z, m], one map a sequence, in squared z-scores per z-score. With a model of the
      brain, errors outside the brain do not count.

    Raises:
      InputError: the subject has no FLAIR, or other sequences than the model; or the model is no
        network, and so has no gradient.
    """
    trained, fitted = expect_gradient(model)
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR, and saliency is of the error against it")
    _expect_sequences(trained, subject)
    brain = subject.masks.brain
    images = encode(trained, subject.images, brain)
    flair = subject.flair
    if trained.region == "brain":
        flair = zero_outside(brain, flair)
    target = encode_flair(trained.normalization, flair, brain)
    return p3s_streamed(
        fitted.network.forward,
        fitted.params,
        images,
        target,
        weight=brain if trained.region == "brain" else None,
        radius=fitted.network.radius,
        voxels=voxels,
        stride=fitted.network.stride,
    )


def _region(model: Model, brain: Array | None) -> Array:
    """Returns the brain mask if the model needs one, else nothing in its place."""
    needed = model.normalization.needs_brain or model.region == "brain"
    if not needed:
        return np.empty(0, bool)
    if brain is None:
        raise InputError("this model was trained on the brain and needs a brain mask")
    return brain
