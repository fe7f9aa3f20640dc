"""Atomic writing of files. Independent of formats, except for JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_NAME_BYTES = 255  # of a file's name, on usual file systems
_MAX_BYTES = 200  # of a file's name in the name of its temporary file


class WriteError(OSError):
    """A file cannot be written; the message names it and the remedy."""


def describe_error(error: Exception) -> str:
    """Returns the message of an error; for errors of the operating system, with file and remedy."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    why = error.strerror or type(error).__name__
    return f"{error.filename}: {why}; check the name, and its permissions"


def expect_writable(folder: Path) -> None:
    """Checks that a folder is writable, before a long computation.

    Raises:
      WriteError: it is missing, not a folder, or read-only.
    """
    if folder.exists() and not folder.is_dir():
        raise WriteError(f"{folder}: is a file, not a folder; name a folder to write to")
    if not folder.is_dir():
        raise WriteError(f"{folder}: no such folder; create it, or name another one to write to")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise WriteError(f"{folder}: is read-only; name a folder that you may write to")


def expect_output(
    out: Path,
    inputs: Iterable[Path | None],
    suffixes: tuple[str, ...],
    what: str = "the output",
) -> None:
    """Checks that an output file does not replace an input and can be written.

    Args:
      out: file to write.
      inputs: files that are read; None for one that is not given. The extension protects others.
      suffixes: extensions of the format that is written.
      what: see `expect_name`.

    Raises:
      WriteError: it has another extension or is an input, or its folder is missing or read-only; or
        see `expect_name`.
    """
    if not out.name.endswith(suffixes) or out.name in suffixes:
        raise WriteError(f"{out}: is written as {' or '.join(suffixes)}; name such a file")
    expect_name(out, what)
    if out.resolve() in [path.resolve() for path in inputs if path is not None]:
        raise WriteError(f"{out}: is one of the inputs; name another file to write")
    expect_writable(out.parent)


def expect_name(path: Path, what: str) -> None:
    """Checks that a file of this name can be created in its folder.

    Args:
      path: file to write.
      what: what it is, for the message: `the sidecar of q.nii`.

    Raises:
      WriteError: the name is longer than the file system allows, or is that of a folder.
    """
    try:
        limit = os.pathconf(path.parent, "PC_NAME_MAX")
    except OSError:  # `expect_writable` reports the folder
        limit = _NAME_BYTES
    if (size := len(os.fsencode(path.name))) > limit:
        raise WriteError(
            f"{path}: as the name of {what}, it has {size} bytes, and the file system allows "
            f"{limit}; give a shorter name"
        )
    if path.is_dir():
        raise WriteError(
            f"{path}: is a folder, where {what} is to be written; remove it, or name another file"
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; see `write_parts`."""
    write_parts(path, [content])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a temporary file and renames it, so that readers see the whole file or none.

    Args:
      path: file to write.
      parts: its content in order, of which one part at a time is held.

    Raises:
      WriteError: the disk is full or the folder read-only; no partial file remains.
    """
    # Unique for each call: process numbers are shared by threads, and by hosts on a shared disk.
    # The target's name may itself have the 255 bytes that a file system allows.
    start = os.fsencode(path.name)[:_MAX_BYTES].decode(errors="ignore")
    part = path.with_name(f".{start}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "wb") as stream:
            for part_bytes in parts:
                stream.write(part_bytes)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            what = f"{path}: cannot be written ({error.strerror or error})"
            raise WriteError(f"{what}; free space there or name another folder") from None
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8.

    A byte of a file name that is not UTF-8 (0xe9) is written as its escape, a backslash and
    `udce9`; in JSON, that is read as the same name again.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically. NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def without_nan(value: Any) -> Any:
    """Returns nested dictionaries and lists with None for every float that is not finite."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(row: Mapping[str, float | None]) -> dict[str, float]:
    """Returns a row of numbers read from JSON, with NaN in place of None."""
    return {name: math.nan if value is None else value for name, value in row.items()}
