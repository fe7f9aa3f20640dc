"""Reading of UTF-8 text files, with or without a byte order mark."""

from __future__ import annotations

from pathlib import Path

from flaxflair.core.records import InputError


def read_text(path: Path, remedy: str) -> str:
    """Reads a text file.

    Args:
      path: path of the file.
      remedy: what to do if it cannot be used, for the message.

    Raises:
      InputError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: is not UTF-8 text (byte 0x{content[error.start]:02x} of line {line}); "
            f"save it as UTF-8, or {remedy}"
        ) from None
