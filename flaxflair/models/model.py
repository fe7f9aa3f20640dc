"""Model: a fitted method and all it needs to be used; saved, loaded and applied as one.

What a notebook, the command line and another program use. Takes intensities and gives intensities;
knows nothing of how it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxflair import normalize
from flaxflair.config import NETWORK
from flaxflair.files import expect_output, write_json
from flaxflair.methods import Fitted, FittedBaseline, FittedNetwork, load_fitted
from flaxflair.nifti import read_volume, write_volume
from flaxflair.normalize import Normalization, Stats
from flaxflair.orientation import from_ras, to_ras
from flaxflair.saliency import p3s_streamed
from flaxflair.volume import Array, GeometryError, InputError, Subject, Volume
from flaxflair.windows import Sliceable


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


class Run(NamedTuple):
    """A run that has begun: where its data lie and who was held out when.

    Attributes:
      folder: given to `--workdir`.
      source: the data set that it reads.
      heldout: participants of each fold.
      summary: what `summary.json` holds; empty while no run of it has ended.
    """

    folder: Path
    source: Path
    heldout: list[list[str]]
    summary: dict[str, Any]

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
    return Run(
        folder,
        Path(json.loads(config.read_text())["source"]),
        json.loads(folds.read_text())["heldout"],
        json.loads(summary.read_text()) if summary.is_file() else {},
    )


def save_model(folder: Path, model: Model) -> None:
    """Saves a model: `model.json`, written last, and what its method learnt beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    fitted = model.fitted
    content = {
        "method": fitted.name if isinstance(fitted, FittedBaseline) else NETWORK,
        "sequences": model.sequences,
        "region": model.region,
        "voxel_size": model.voxel_size,
        **fitted.save(folder),
        "normalization": asdict(model.normalization),
    }
    write_json(folder / "model.json", content)


def load_model(run: str | Path, fold: int = 0) -> Model:
    """Loads the model that one fold of a finished run left.

    Args:
      run: folder given to `--workdir`.
      fold: which of its folds.

    Raises:
      InputError: there is no such run or fold, or it is not finished.
    """
    folder = Path(run) / f"fold-{fold}"
    path = folder / "model.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; train the fold first, or name another run or fold")
    content = json.loads(path.read_text())
    sequences = tuple(content["sequences"])
    fitted = load_fitted(folder, content["method"], len(sequences), content)
    stored = content["normalization"]
    normalization = Normalization(
        _stats(stored["images"]),
        _stats(stored["flair"]),
        stored["method"],
        tuple(tuple(row) for row in stored["places"]),
        tuple(stored["gain"]),
    )
    size = content["voxel_size"]
    return Model(
        sequences, fitted, normalization, content["region"], None if size is None else tuple(size)
    )


def _stats(stored: dict[str, list[float]]) -> Stats:
    return Stats(tuple(stored["mean"]), tuple(stored["std"]))


def predict_array(
    model: Model, images: Array, brain: Array | None = None, *, voxels: int = 0
) -> Array:
    """Synthesises the FLAIR of one session.

    Args:
      model: from `load_model`.
      images: [x, y, z, m], intensities of `model.sequences` in that order, on one grid whose axes
        run closest to right, anterior, superior.
      brain: bool[x, y, z]; needed if the model was trained on the brain, else of no effect.
      voxels: computed at a time, for volumes that do not fit into memory, about 16 bytes each for
        every filter; 0 for the whole volume at once.

    Returns:
      float32[x, y, z], in the units of the training FLAIRs.

    Raises:
      InputError: the number of sequences is not the model's, or the brain is needed and missing.
    """
    return predict_many(model, [images], [brain], voxels=voxels)[0]


def predict_many(
    model: Model,
    images: Sequence[Array],
    brains: Sequence[Array | None],
    *,
    voxels: int = 0,
    batch: int = 1,
) -> list[Array]:
    """Synthesises the FLAIRs of sessions that share one grid shape, in one compiled call.

    See `predict_array` for arguments and errors; `batch` is the number of volumes side by side.
    """
    read = Encoded if voxels else encode
    encoded = [read(model, image, brain) for image, brain in zip(images, brains, strict=True)]
    flairs = predict_encoded(model, encoded, brains, voxels=voxels, batch=batch)
    return [
        decode(model, flair, image, brain)
        for flair, image, brain in zip(flairs, images, brains, strict=True)
    ]


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
        self._encode = normalize.make_encoder(model.normalization, images, region)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns x y z m."""
        return self._images.shape

    def __getitem__(self, at: tuple[slice, slice, slice], /) -> Array:
        """Returns the z-scores of a tile, float32[x, y, z, m]."""
        part = self._images[at]
        if self._region is not None:
            part = normalize.zero_outside(self._region[at], part)
        return self._encode(part)


def predict_encoded(
    model: Model,
    encoded: Sequence[Sliceable],
    brains: Sequence[Array | None],
    *,
    voxels: int = 0,
    batch: int = 1,
) -> list[Array]:
    """Applies the method alone, the one step on the device: z-scores to z-scores.

    Args:
      model: from `load_model`.
      encoded: [x, y, z, m], from `encode` or as `Encoded`, all of one grid.
      brains: bool[x, y, z] each; outside them, a model of the brain may predict anything.
      voxels: see `predict_array`.
      batch: volumes side by side.

    Returns:
      float32[x, y, z] each, for `decode`.
    """
    insides = brains if model.region == "brain" else [None] * len(brains)
    return model.fitted.predict(encoded, insides, voxels=voxels, batch=batch)


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
    decoded = normalize.decode_flair(model.normalization, flair, images, region)
    return normalize.zero_outside(region, decoded) if model.region == "brain" else decoded


def saliency_maps(model: Model, subject: Subject, *, voxels: int = 0) -> Array:
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
    fitted = model.fitted
    if not isinstance(fitted, FittedNetwork):
        raise InputError(
            f"a {fitted.name} has no gradient to make a saliency map of; name a network"
        )
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR, and saliency is of the error against it")
    if subject.sequences != model.sequences:
        raise InputError(
            f"{subject.name}: has {','.join(subject.sequences)}; the model reads "
            f"{','.join(model.sequences)}"
        )
    brain = subject.masks.brain
    images = encode(model, subject.images, brain)
    flair = subject.flair
    if model.region == "brain":
        flair = normalize.zero_outside(brain, flair)
    target = normalize.encode_flair(model.normalization, flair, brain)
    return p3s_streamed(
        fitted.network.forward,
        fitted.params,
        images,
        target,
        weight=brain if model.region == "brain" else None,
        radius=fitted.network.radius,
        voxels=voxels,
        stride=fitted.network.stride,
    )


def predict_files(
    model: Model,
    inputs: Mapping[str, str | Path],
    out: str | Path,
    *,
    brain: str | Path | None = None,
    voxels: int = 0,
) -> Volume:
    """Synthesises a FLAIR from prepared NIfTI files and writes it on their grid.

    Args:
      model: from `load_model`.
      inputs: sequence name -> file, at least the model's sequences, all on one grid.
      out: `.nii` or `.nii.gz` to write; its folder must exist.
      brain: file of the brain mask; see `predict_array`.
      voxels: see `predict_array`.

    Returns:
      What was written.

    Raises:
      InputError: a sequence is missing or a file cannot be used; the message names it.
      GeometryError: the grids differ.
      WriteError: `out` is one of the inputs, or its folder is missing, read-only or full.
    """
    missing = [name for name in model.sequences if name not in inputs]
    if missing:
        raise InputError(f"no file for {missing[0]}; the model reads {','.join(model.sequences)}")
    paths = [Path(inputs[name]) for name in model.sequences]
    expect_output(Path(out), [*paths, *([Path(brain)] if brain else [])])
    first = read_volume(paths[0])
    native = first.geometry
    first = to_ras(first)
    geometry = first.geometry

    def read(path: Path) -> Array:
        volume = to_ras(read_volume(path))
        if not volume.geometry.matches(geometry):
            raise GeometryError(f"{path}: its grid differs from that of {paths[0]}")
        return volume.array

    # One by one into place: a list of volumes and their stack would be twice the inputs' size.
    stacked = np.empty((*geometry.shape, len(paths)), np.float32)
    stacked[..., 0] = first.array
    del first
    for channel, path in enumerate(paths[1:], start=1):
        stacked[..., channel] = read(path)
    region = None if brain is None else read(Path(brain)) > 0.5
    flair = from_ras(predict_array(model, stacked, region, voxels=voxels), native)
    write_volume(out, flair, native.affine)
    return Volume(flair, native)


def _region(model: Model, brain: Array | None) -> Array:
    """Returns the brain mask if the model needs one, else nothing in its place."""
    needed = model.normalization.needs_brain or model.region == "brain"
    if not needed:
        return np.empty(0, bool)
    if brain is None:
        raise InputError("this model was trained on the brain and needs a brain mask")
    return brain
