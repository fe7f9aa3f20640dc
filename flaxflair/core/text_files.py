"""Text files in UTF-8, with or without a byte order mark; others are refused by name."""

from __future__ import annotations

from pathlib import Path

from flaxflair.core.records import InputError


def read_text(path: Path, way_out: str) -> str:
    """Reads a text file.

    Args:
      path: of the file.
      way_out: what to do if it is of no use, for the sentence.

    Raises:
      InputError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {way_out}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: is no UTF-8 text (byte 0x{content[error.start]:02x} of line {line}); "
            f"save it as UTF-8, or {way_out}"
        ) from None
