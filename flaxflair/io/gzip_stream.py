"""Streams: the bytes of an image file, gzip or plain, as many as are asked for and no more.

A gzip stream is decompressed as it is read, so that a small file that expands without end costs
what its reader wants of it. Knows nothing of image formats.
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
# Deflate codes at most 258 bytes by 2 bits.
_MOST_EXPANSION = 1032
_CHUNK = 2**20


class Stream:
    """The content of an open file, from its beginning.

    Attributes:
      path: of the file.
      zipped: whether it is decompressed.
      most: bytes that the content can have at most; if it is not zipped, those that it has.
    """

    def __init__(self, path: Path, source: BinaryIO, stored: int, *, zipped: bool):
        self.path = path
        self.zipped = zipped
        self.most = stored * _MOST_EXPANSION if zipped else stored
        self._source = source

    def read(self, count: int) -> bytes:
        """Returns the next bytes; fewer only where the content ends."""
        parts, missing = [], count
        while missing and (part := self._source.read(missing)):
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> int:
        """Passes over the next bytes and returns how many there were."""
        passed = 0
        while passed < count and (part := self._source.read(min(_CHUNK, count - passed))):
            passed += len(part)
        return passed


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """Opens an image file; a stream read to its end has been compared with its checksum.

    Raises:
      InputError: it is missing, no regular file, empty, a pointer or a web page; or, while it is
        read, cannot be read or is damaged.
    """
    try:
        with _open(path) as raw:
            size = os.fstat(raw.fileno()).st_size
            if _is_gzip(path, raw):
                unzipped = igzip.IGzipFile(fileobj=raw, mode="rb")
                yield Stream(path, cast(BinaryIO, unzipped), size, zipped=True)
            else:
                yield Stream(path, raw, size, zipped=False)
    # isal's stub calls its exception an instance.
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
        raise InputError(f"{path}: is no regular file; write the image to a file first")
    return open(path, "rb")


def _explain_link(path: Path) -> str:
    """Returns what is wrong with a link that leads nowhere, and what to do."""
    target = os.readlink(path)
    if ".git/annex" in Path(target).as_posix():
        return "its content is not on this machine (git-annex); run 'datalad get' on it"
    return f"is a link to {target}, which does not exist; restore that file or the link"


def _is_gzip(path: Path, raw: BinaryIO) -> bool:
    """Tells whether a file is gzip, and refuses what is no image at all."""
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
