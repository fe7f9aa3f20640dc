"""Fingerprints: digests of the files that are read of a session, and what changed between two.

Knows files; knows nothing of what is made of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from flaxflair.io import bids
from flaxflair.io.session_files import SessionFiles

Fingerprint = Mapping[str, str]


def digest_file(path: Path) -> str:
    """Returns `sha256:…` of a file's bytes."""
    with open(path, "rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def fingerprint(
    files: SessionFiles, sequences: Collection[str], *, sidecars: bool = False
) -> dict[str, str]:
    """Returns path -> digest of all that may be read of a session.

    Args:
      files: of the session.
      sequences: names of those that are read.
      sidecars: whether the JSON files beside them are read, too.

    Returns:
      Paths relative to the data set's root.
    """
    return {
        Path(os.path.relpath(path, files.root)).as_posix(): digest_file(path)
        for path in _list_files(files, sequences, sidecars)
    }


def _list_files(files: SessionFiles, sequences: Collection[str], sidecars: bool) -> Iterator[Path]:
    for image in files.images:
        if image.sequence in sequences:
            yield image.path
            if sidecars and (beside := bids.sidecar(image.path)).is_file():
                yield beside
    for image in files.find("mask", desc="brain"):
        yield image.path
        break
    if files.flair != "ignored":
        yield from (i.path for i in files.find("mask") if "label" in i.entities)
        yield from (i.path for i in files.find("FLAIR", desc="noisefree"))


def say_changes(before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]) -> list[str]:
    """Returns one clause for each session or file that is new, gone or another.

    Args:
      before: session -> fingerprint.
      now: likewise.
    """
    said = [f"{name} was added" for name in sorted(now.keys() - before.keys())]
    said += [f"{name} is gone" for name in sorted(before.keys() - now.keys())]
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        said += [f"{path} was added" for path in sorted(new.keys() - old.keys())]
        said += [f"{path} is gone" for path in sorted(old.keys() - new.keys())]
        both = sorted(old.keys() & new.keys())
        said += [f"{path} is not what it was" for path in both if old[path] != new[path]]
    return said
