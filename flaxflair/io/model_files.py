"""Stored models: a description and named arrays under one digest, in a folder or in one file.

The description is JSON and the arrays are safetensors, so that loading runs no code, whoever wrote
them. The digest tells a model that was damaged or changed since; it proves no author. Knows nothing
of what description and arrays mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flaxflair.core.atomic_files import write_bytes, write_json
from flaxflair.core.json_objects import parse_object, read_object
from flaxflair.core.records import Array, InputError

DESCRIPTION, ARRAYS = "model.json", "model.safetensors"
SUFFIX = ".safetensors"
_KEY = "flaxflair"  # of the description in the header of a single file
WAY_OUT = "take the model as it was saved, or train it again"


class Stored(NamedTuple):
    """A model as it was found.

    Attributes:
      path: of the description, for sentences.
      description: what it says of itself, its digest left out; nothing of it is checked yet.
      arrays: by name.
      digest: of both, as stored: `sha256:` and 64 hexadecimal digits, if it is whole.
    """

    path: Path
    description: dict[str, Any]
    arrays: dict[str, Array]
    digest: str

    def expect_whole(self) -> None:
        """Refuses what is not what was saved.

        Raises:
          InputError: the digest is another.
        """
        if (found := digest(self.description, self.arrays)) != self.digest:
            raise InputError(
                "the model is damaged or was changed since it was saved (its digest is "
                f"{found[:19]}… and was {self.digest[:19]}…)"
            )


def digest(description: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Returns `sha256:…` over a description and arrays, however they are stored."""
    total = hashlib.sha256(json.dumps(description, sort_keys=True, allow_nan=False).encode())
    for name, array in sorted(arrays.items()):
        # With its length, so that no name runs into the shape that follows it.
        head = json.dumps([name, array.dtype.str, list(array.shape)]).encode()
        total.update(len(head).to_bytes(8, "little") + head)
        total.update(np.ascontiguousarray(array).data)
    return f"sha256:{total.hexdigest()}"


def write_folder(folder: Path, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes `model.safetensors` and then `model.json`, each whole or not at all.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    write_bytes(folder / ARRAYS, save(_contiguous(arrays)))
    own = {**description, "digest": digest(description, arrays)}
    write_json(folder / DESCRIPTION, own)


def write_file(path: Path, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes one file, the description in its header; whole or not at all.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    own = {**description, "digest": digest(description, arrays)}
    write_bytes(path, save(_contiguous(arrays), {_KEY: json.dumps(own, allow_nan=False)}))


def read_folder(folder: Path) -> Stored:
    """Reads what `write_folder` wrote.

    Raises:
      InputError: there is none, or it cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(f"{path}: no such file; train the fold first, or name another run or fold")
    description = read_object(path, WAY_OUT)
    arrays, _ = _read_arrays(folder / ARRAYS)
    return _split(path, description, arrays)


def read_file(path: Path) -> Stored:
    """Reads what `write_file` wrote.

    Raises:
      InputError: there is none, or it cannot be read.
    """
    arrays, header = _read_arrays(path)
    if _KEY not in header:
        raise InputError(
            f"{path}: its header describes no model of flaxflair; "
            "take a file that `flaxflair export` wrote"
        )
    return _split(path, parse_object(path, header[_KEY], WAY_OUT), arrays)


def _split(path: Path, description: dict[str, Any], arrays: dict[str, Array]) -> Stored:
    own = dict(description)
    found = own.pop("digest", None)
    if not isinstance(found, str):
        raise InputError(
            f"{path}: holds no digest, so that nobody can tell whether it is whole; {WAY_OUT}"
        )
    return Stored(path, own, arrays, found)


def _read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {WAY_OUT}")
    try:
        with safe_open(path, framework="numpy") as stored:
            names = stored.keys()
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{path}: is damaged or no safetensors file ({_first_line(error)}); {WAY_OUT}"
        ) from None


def _contiguous(arrays: Mapping[str, Array]) -> dict[str, Array]:
    # safetensors writes the memory as it lies, whatever the strides say.
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
