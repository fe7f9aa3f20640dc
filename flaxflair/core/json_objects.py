"""JSON objects, read: what is none is refused in one sentence. Knows nothing of what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flaxflair.core.records import InputError

_MOST_CHARACTERS = 200  # of a parser's complaint


def read_object(path: Path, way_out: str) -> dict[str, Any]:
    """Reads a JSON file.

    Args:
      path: of the file.
      way_out: what to do if it is of no use, for the sentence.

    Raises:
      InputError: it cannot be read, or holds no JSON object.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {way_out}") from None
    return parse_object(path, text, way_out)


def parse_object(path: Path, text: bytes | str, way_out: str) -> dict[str, Any]:
    """Parses a JSON object that stands in a file; see `read_object`. NaN and the like are none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        said = (str(error).splitlines() or [""])[0][:_MOST_CHARACTERS]
        raise InputError(f"{path}: is not JSON ({said}); {way_out}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; {way_out}")
    return found
