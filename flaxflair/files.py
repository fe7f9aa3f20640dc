"""Files that are written whole or not at all. Knows nothing of formats."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it, so that readers see all of it or nothing.

    Raises:
      OSError: the disk is full or the folder read-only; nothing is left behind.
    """
    # A name of its own for every call: threads, and hosts that share a disk, share process numbers.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
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
