"""Streams: the bytes of an image file, gzip or plain, read on demand.

A gzip stream is decompressed as it is read, so that a small file of unlimited expansion costs only
the bytes that are read. Independent of image formats.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip
from isal.igzip_lib import IsalError

from flaxflair.core.records import InputError

_GZIP = b"\x1f\x8b"
# Deflate encodes at most 258 bytes in 2 bits.
_MAX_EXPANSION = 1032
_CHUNK = 2**20


class Stream:
    """The content of an open file, from its beginning.

    Attributes:
      path: path of the file.
      zipped: whether it is decompressed.
      max_bytes: upper limit of the length of the content; exact if it is not zipped.
    """

    def __init__(self, path: Path, source: BinaryIO, stored: int, *, zipped: bool):
        self.path = path
        self.zipped = zipped
        self.max_bytes = stored * _MAX_EXPANSION if zipped else stored
        self._source = source

    def read(self, count: int) -> bytes:
        """Returns the next bytes; fewer only where the content ends."""
        parts, missing = [], count
        while missing and (part := self._source.read(missing)):
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> int:
        """Skips up to `count` bytes and returns the number skipped."""
        passed = 0
        while passed < count and (part := self._source.read(min(_CHUNK, count - passed))):
            passed += len(part)
        return passed


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """Opens an image file; the checksum is verified if the stream is read to its end.

    Raises:
      InputError: the file is missing, not a regular file, empty, a pointer or a web page; or it
        cannot be read or is damaged, which is raised while it is read.
    """
    try:
        with _open(path) as raw:
            size = os.fstat(raw.fileno()).st_size
            if _is_gzip(path, raw):
                unzipped = igzip.IGzipFile(fileobj=raw, mode="rb")
                yield Stream(path, cast(BinaryIO, unzipped), size, zipped=True)
            else:
                yield Stream(path, raw, size, zipped=False)
    # isal's stub declares its exception as an instance.
    except (EOFError, zlib.error, IsalError, igzip.BadGzipFile) as error:  # pyright: ignore
        raise InputError(
            f"{path}: the gzip stream is corrupt or cut short ({error}); copy it again"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); give a file you may read") from None


def _open(path: Path) -> BinaryIO:
    if not path.exists():
        if path.is_symlink():
            raise InputError(f"{path}: {_explain_link(path)}")
        raise InputError(f"{path}: no such file; give the path of a NIfTI image")
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: is not a regular file; write the image to a file first")
    return open(path, "rb")


def _explain_link(path: Path) -> str:
    """Returns the problem of a broken link, and its remedy."""
    target = os.readlink(path)
    if ".git/annex" in Path(target).as_posix():
        return "its content is not on this machine (git-annex); run 'datalad get' on it"
    return f"is a link to {target}, which does not exist; restore that file or the link"


def _is_gzip(path: Path, raw: BinaryIO) -> bool:
    """Whether a file is gzip; raises InputError if it is obviously not an image."""
    first = raw.read(256)
    raw.seek(0)
    if not first:
        raise InputError(f"{path}: the file is empty; copy it again")
    if first[:2] == _GZIP:
        return True
    head = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!", b"<html", b"<head", b"<?xml")):
        raise InputError(f"{path}: holds a web page, not an image; download the file again")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: holds a pointer, not an image; run 'git lfs pull'")
    if head.startswith((b"../", b".git/annex", b"/annex")):
        raise InputError(f"{path}: holds a pointer, not an image; run 'datalad get' on it")
    if path.name.endswith(".gz"):
        raise InputError(f"{path}: is named .gz and is not gzip; rename or copy it again")
    return False
