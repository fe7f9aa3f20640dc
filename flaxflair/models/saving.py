"""Saving and loading of models, as the fold of a run or as a single file.

File formats are defined in `io.model_files`, valid descriptions in `description`.
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
    REMEDY,
    SUFFIX,
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
    parse_calibration,
    parse_conditional,
    parse_network,
    parse_normalization,
)
from flaxflair.models.error_scale import Calibration, ErrorScale, scale_network
from flaxflair.models.estimators import Packed, pack_params, unpack, unpack_params
from flaxflair.models.model import AnyModel, Model
from flaxflair.models.universal import UniversalModel, make_network

# Default model of `load_model`.
SHIPPED = Path(__file__).parent / "weights" / "universal.safetensors"
UNIVERSAL_FILE = "universal.safetensors"  # in the folder of a universal model's training
_SCALE = "scale/"  # prefix of the arrays of an error scale


def save_model(folder: Path, model: Model) -> None:
    """Saves a model in the folder of a fold: its arrays, and then `model.json`.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, *_to_stored(model))


def export_model(
    model: AnyModel,
    path: str | Path,
    *,
    half: bool = False,
    about: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Writes a model as a single file for `load_model`.

    Args:
      model: model of any kind.
      path: `.safetensors` to write; its folder must exist.
      half: whether weights are rounded to float16, for half the file size.
      about: additional facts on a universal model; see `UniversalModel.about`.
      calibration: of the intervals of a universal model; None for the present one.

    Raises:
      InputError: `about` is given for another kind of model or is invalid; or a calibration for
        a model without error scale.
      WriteError: `path` has another extension, or its folder is missing, read-only or full.
    """
    path = Path(path)
    expect_output(path, (), (SUFFIX,))
    if about:
        if not isinstance(model, UniversalModel):
            raise InputError("only a universal model has facts; omit --about")
        model = replace(model, about={**model.about, **about})
    if calibration is not None:
        if not isinstance(model, UniversalModel) or model.scale is None:
            raise InputError("the model has no error scale to calibrate; train it first")
        model = replace(model, scale=replace(model.scale, calibration=calibration))
    description, arrays = _to_stored(model)
    expect_description(json.loads(json.dumps(description)))  # as it is read, without tuples
    if half:
        arrays = {name: _halve(array) for name, array in arrays.items()}
    write_file(path, description, arrays)


def load_model(source: str | Path | None = None, fold: int = 0) -> AnyModel:
    """Loads a model: the default model, one fold of a finished run, or a single file.

    Never executes code of the file.

    Args:
      source: folder of a run (`--workdir`), or a `.safetensors` file of `export_model`; None for
        the universal model in the package.
      fold: fold of the run; 0 for a single file or a universal model.

    Raises:
      InputError: the run, fold or file does not exist; or it is not finished, damaged, changed
        since it was saved, or not a model.
    """
    source = SHIPPED if source is None else Path(source)
    if (source / UNIVERSAL_FILE).is_file():
        source = source / UNIVERSAL_FILE
    if source.suffix == SUFFIX and not source.is_dir():
        if fold:
            raise InputError(f"{source}: holds one model and has no fold {fold}; omit the fold")
        return _from_stored(read_file(source))
    if source.is_file():
        raise InputError(f"{source}: is not a model; give the folder of a run, or a {SUFFIX} file")
    return _from_stored(read_folder(source / f"fold-{fold}"))


def digest_model(model: AnyModel) -> str:
    """Returns `sha256:…` of description and parameters; the same before and after saving."""
    return digest(*_to_stored(model))


def _to_stored(model: AnyModel) -> tuple[dict[str, Any], dict[str, Array]]:
    if isinstance(model, UniversalModel):
        network = {**asdict(model.config), "widths": list(model.config.widths)}
        description = {"method": UNIVERSAL, "network": network, "about": dict(model.about)}
        arrays = pack_params(model.params)
        if model.scale is not None:
            calibration = model.scale.calibration
            description["scale"] = {} if calibration is None else asdict(calibration)
            scale = pack_params(model.scale.params)
            arrays |= {f"{_SCALE}{name}": array for name, array in scale.items()}
        return description, arrays
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


def _divide(arrays: Mapping[str, Array], prefix: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns the arrays without a prefix, and those with it, by name after it."""
    own = {name: array for name, array in arrays.items() if not name.startswith(prefix)}
    others = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    return own, others


def _halve(array: Array) -> Array:
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _from_stored(stored: Stored) -> AnyModel:
    description = stored.description
    try:
        expect_description(description)
        stored.expect_intact()
        if description["method"] == UNIVERSAL:
            config = parse_conditional(description["network"])
            network = make_network(config)
            own, others = _divide(stored.arrays, _SCALE)
            params = unpack_params(network.init, own)
            scale = None
            if "scale" in description or others:
                calibration = parse_calibration(description.get("scale", {}))
                scale = ErrorScale(unpack_params(scale_network().init, others), calibration)
            return UniversalModel(config, network, params, description["about"], scale)
        sequences = tuple(description["sequences"])
        network = parse_network(description["network"]) if "network" in description else None
        fitted = unpack(Packed(description["method"], network, stored.arrays), len(sequences))
        normalization = parse_normalization(description["normalization"], len(sequences))
    except InputError as error:
        raise InputError(f"{stored.path}: {error}; {REMEDY}") from None
    size = description["voxel_size"]
    voxel_size = None if size is None else (size[0], size[1], size[2])
    return Model(sequences, fitted, normalization, description["region"], voxel_size)
