"""Files that are written whole or not at all. Knows nothing of formats."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_MOST_BYTES = 200  # of a file's name, in that of its beginnings


class WriteError(OSError):
    """A file cannot be written; the message names it and says what to do."""


def describe_error(error: Exception) -> str:
    """Returns an error as a sentence; one of the system names the file and what to look at."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    why = error.strerror or type(error).__name__
    return f"{error.filename}: {why}; check the name, and its permissions"


def expect_writable(folder: Path) -> None:
    """Refuses a folder that nothing can be written to, before hours are spent on what would be.

    Raises:
      WriteError: it is missing, no folder, or read-only.
    """
    if not folder.is_dir():
        raise WriteError(f"{folder}: no such folder; make it, or name another one to write to")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise WriteError(f"{folder}: is read-only; name a folder that you may write to")


def expect_output(out: Path, inputs: Iterable[Path]) -> None:
    """Refuses a file to be written that is one of those read, or cannot be written.

    Raises:
      WriteError: it is, or its folder is missing or read-only.
    """
    if out.resolve() in [path.resolve() for path in inputs]:
        raise WriteError(f"{out}: is one of the inputs; name another file to write")
    expect_writable(out.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it, so that readers see all of it or nothing.

    Raises:
      WriteError: the disk is full or the folder read-only; nothing is left behind.
    """
    # A name of its own for every call: threads, and hosts that share a disk, share process numbers.
    # A file system takes 255 bytes, and the name itself may have as many.
    start = os.fsencode(path.name)[:_MOST_BYTES].decode(errors="ignore")
    part = path.with_name(f".{start}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "wb") as stream:
            stream.write(content)
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all. JSON has no NaN: what is undefined is null."""
    text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def without_nan(value: Any) -> Any:
    """Returns a tree of dictionaries and lists with None for every float that is not finite."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(row: Mapping[str, float | None]) -> dict[str, float]:
    """Returns a row of numbers that was read from JSON, with NaN where it has None."""
    return {name: math.nan if value is None else value for name, value in row.items()}
