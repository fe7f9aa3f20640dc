"""Stored models: a description and named arrays with one digest, in a folder or in one file.

The description is JSON and the arrays are safetensors, so loading never executes code of a file.
The digest detects damage and changes; it does not authenticate the author. Independent of the
meaning of description and arrays.
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
_KEY = "flaxflair"  # key of the description in the header of a single file
REMEDY = "restore the model as it was saved, or train it again"


class Stored(NamedTuple):
    """A stored model, not validated.

    Attributes:
      path: path of the description, for messages.
      description: JSON object without the digest.
      arrays: name -> array.
      digest: stored digest of both: `sha256:` and 64 hexadecimal digits, if intact.
    """

    path: Path
    description: dict[str, Any]
    arrays: dict[str, Array]
    digest: str

    def expect_intact(self) -> None:
        """Verifies the digest.

        Raises:
          InputError: the digest differs.
        """
        if (found := digest(self.description, self.arrays)) != self.digest:
            raise InputError(
                "the model is damaged or was changed since it was saved (its digest is "
                f"{found[:19]}… and was {self.digest[:19]}…)"
            )


def digest(description: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Returns `sha256:…` of a description and arrays, independent of their storage."""
    total = hashlib.sha256(json.dumps(description, sort_keys=True, allow_nan=False).encode())
    for name, array in sorted(arrays.items()):
        # Prefixed by its length, so that different inputs never give the same bytes.
        head = json.dumps([name, array.dtype.str, list(array.shape)]).encode()
        total.update(len(head).to_bytes(8, "little") + head)
        total.update(np.ascontiguousarray(array).data)
    return f"sha256:{total.hexdigest()}"


def write_folder(folder: Path, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes `model.safetensors` and then `model.json`, each atomically.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    write_bytes(folder / ARRAYS, save(_contiguous(arrays)))
    stored = {**description, "digest": digest(description, arrays)}
    write_json(folder / DESCRIPTION, stored)


def write_file(path: Path, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes one file atomically, with the description in its header.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    stored = {**description, "digest": digest(description, arrays)}
    write_bytes(path, save(_contiguous(arrays), {_KEY: json.dumps(stored, allow_nan=False)}))


def read_folder(folder: Path) -> Stored:
    """Reads a model written by `write_folder`.

    Raises:
      InputError: the model is missing or cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(f"{path}: no such file; train the fold first, or name another run or fold")
    description = read_object(path, REMEDY)
    arrays, _ = _read_arrays(folder / ARRAYS)
    return _split(path, description, arrays)


def read_file(path: Path) -> Stored:
    """Reads a model written by `write_file`.

    Raises:
      InputError: the model is missing or cannot be read.
    """
    arrays, header = _read_arrays(path)
    if _KEY not in header:
        raise InputError(
            f"{path}: its header describes no model of flaxflair; "
            "give a file written by `flaxflair export`"
        )
    return _split(path, parse_object(path, header[_KEY], REMEDY), arrays)


def _split(path: Path, description: dict[str, Any], arrays: dict[str, Array]) -> Stored:
    rest = dict(description)
    found = rest.pop("digest", None)
    if not isinstance(found, str):
        raise InputError(f"{path}: holds no digest, so its integrity cannot be verified; {REMEDY}")
    return Stored(path, rest, arrays, found)


def _read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {REMEDY}")
    try:
        with safe_open(path, framework="numpy") as stored:
            names = stored.keys()
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{path}: is damaged or not a safetensors file ({_first_line(error)}); {REMEDY}"
        ) from None


def _contiguous(arrays: Mapping[str, Array]) -> dict[str, Array]:
    # safetensors writes memory in its order, regardless of strides.
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
