"""Saving: models to disk and back, as the fold of a run or as one file to hand on.

Knows which parts a model has; `stored` knows the files and `description` what may stand in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from flaxflair.core.atomic_files import expect_output
from flaxflair.core.records import Array, InputError
from flaxflair.io.model_files import (
    SUFFIX,
    WAY_OUT,
    Stored,
    digest,
    read_file,
    read_folder,
    write_file,
    write_folder,
)
from flaxflair.models.description import (
    UNIVERSAL,
    expect_description,
    parse_conditional,
    parse_network,
    parse_normalization,
)
from flaxflair.models.estimators import Packed, pack_params, unpack, unpack_params
from flaxflair.models.model import AnyModel, Model
from flaxflair.models.universal import UniversalModel, make_network

# The model that `load_model` takes unless another is named.
SHIPPED = Path(__file__).parent / "weights" / "universal.safetensors"
UNIVERSAL_FILE = "universal.safetensors"  # in the folder of a universal model's training


def save_model(folder: Path, model: Model) -> None:
    """Saves a model as the folder of a fold: `model.json`, written last, and its arrays beside it.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, *_take_apart(model))


def export_model(
    model: AnyModel,
    path: str | Path,
    *,
    half: bool = False,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model as one file, which `load_model` takes.

    Args:
      model: any.
      path: `.safetensors` to write; its folder must exist.
      half: whether weights are rounded to float16, in half of the bytes.
      about: facts to state of a universal model, beside its own; see `UniversalModel.about`.

    Raises:
      InputError: the name does not end so, or facts are given that a model cannot state.
      WriteError: the folder is missing, read-only or full.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: a model is exported as {SUFFIX}; name the file so")
    expect_output(path, ())
    if about:
        if not isinstance(model, UniversalModel):
            raise InputError("only a universal model states facts of itself; leave --about out")
        model = replace(model, about={**model.about, **about})
    description, arrays = _take_apart(model)
    expect_description(json.loads(json.dumps(description)))  # as it will be read, without tuples
    if half:
        arrays = {name: _halve(array) for name, array in arrays.items()}
    write_file(path, description, arrays)


def load_model(source: str | Path | None = None, fold: int = 0) -> AnyModel:
    """Loads a model: the shipped one, one fold of a finished run, or a single file.

    Runs no code of whoever made it.

    Args:
      source: folder given to `--workdir`, or a `.safetensors` that `export_model` wrote; None for
        the universal model that is part of the package.
      fold: which of the run's folds; 0 for a single file or a universal model.

    Raises:
      InputError: there is no such run, fold or file; it is not finished, damaged, changed since it
        was saved, or no model.
    """
    source = SHIPPED if source is None else Path(source)
    if (source / UNIVERSAL_FILE).is_file():
        source = source / UNIVERSAL_FILE
    if source.suffix == SUFFIX and not source.is_dir():
        if fold:
            raise InputError(f"{source}: holds one model, so there is no fold {fold}; leave it out")
        return _put_together(read_file(source))
    if source.is_file():
        raise InputError(f"{source}: is no model; give the folder of a run, or a {SUFFIX} file")
    return _put_together(read_folder(source / f"fold-{fold}"))


def digest_model(model: AnyModel) -> str:
    """Returns `sha256:…` of all that a model computes with; the same before and after saving."""
    return digest(*_take_apart(model))


def _take_apart(model: AnyModel) -> tuple[dict[str, Any], dict[str, Array]]:
    if isinstance(model, UniversalModel):
        network = {**asdict(model.config), "widths": list(model.config.widths)}
        description = {"method": UNIVERSAL, "network": network, "about": dict(model.about)}
        return description, pack_params(model.params)
    method, network, arrays = model.fitted.pack()
    description = {
        "method": method,
        "sequences": list(model.sequences),
        "region": model.region,
        "voxel_size": None if model.voxel_size is None else list(model.voxel_size),
        **({} if network is None else {"network": asdict(network)}),
        "normalization": asdict(model.normalization),
    }
    return description, arrays


def _halve(array: Array) -> Array:
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _put_together(stored: Stored) -> AnyModel:
    said = stored.description
    try:
        expect_description(said)
        stored.expect_whole()
        if said["method"] == UNIVERSAL:
            config = parse_conditional(said["network"])
            network = make_network(config)
            params = unpack_params(network.init, stored.arrays)
            return UniversalModel(config, network, params, said["about"])
        sequences = tuple(said["sequences"])
        network = parse_network(said["network"]) if "network" in said else None
        fitted = unpack(Packed(said["method"], network, stored.arrays), len(sequences))
        normalization = parse_normalization(said["normalization"], len(sequences))
    except InputError as error:
        raise InputError(f"{stored.path}: {error}; {WAY_OUT}") from None
    size = said["voxel_size"]
    voxel_size = None if size is None else (size[0], size[1], size[2])
    return Model(sequences, fitted, normalization, said["region"], voxel_size)
