"""Reading of JSON objects from files. Independent of their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flaxflair.core.records import InputError

_MAX_CHARACTERS = 200  # of the parser's message


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON file.

    Args:
      path: path of the file.
      remedy: what to do if it cannot be used, for the message.

    Raises:
      InputError: it cannot be read, or holds no JSON object.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    return parse_object(path, text, remedy)


def parse_object(path: Path, text: bytes | str, remedy: str) -> dict[str, Any]:
    """Parses the JSON object of a file; see `read_object`. NaN and infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        message = (str(error).splitlines() or [""])[0][:_MAX_CHARACTERS]
        raise InputError(f"{path}: is not JSON ({message}); {remedy}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; {remedy}")
    return found
