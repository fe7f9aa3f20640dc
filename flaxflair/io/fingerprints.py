"""Fingerprints: digests of the input files of a session, and differences between them.

Independent of the use of the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from flaxflair.io import bids
from flaxflair.io.masks import BRAIN
from flaxflair.io.session_files import SessionFiles

Fingerprint = Mapping[str, str]


def digest_file(path: Path) -> str:
    """Returns `sha256:…` of a file's bytes."""
    with open(path, "rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def fingerprint(
    files: SessionFiles, sequences: Collection[str], *, sidecars: bool = False
) -> dict[str, str]:
    """Returns path -> digest of all files of a session that may be read.

    Args:
      files: files of the session.
      sequences: names of the sequences read.
      sidecars: whether their sidecars are included.

    Returns:
      Path relative to the data set's root -> `sha256:…`.
    """
    return {
        Path(os.path.relpath(path, files.root)).as_posix(): digest_file(path)
        for path in _list_files(files, sequences, sidecars)
    }


def _list_files(files: SessionFiles, sequences: Collection[str], sidecars: bool) -> Iterator[Path]:
    for image in files.images:
        if image.sequence in sequences:
            yield image.path
            if sidecars and (sidecar := bids.sidecar(image.path)).is_file():
                yield sidecar
    if (brain := files.mask_of(BRAIN)) is not None:
        yield brain.path
    if files.flair != "ignored":
        yield from (mask.path for mask in files.labelled_masks().values())
        yield from (i.path for i in files.find("FLAIR", desc="noisefree"))


def describe_changes(
    before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> list[str]:
    """Returns one clause for each session or file that was added, removed or changed.

    Args:
      before: session -> fingerprint.
      now: session -> fingerprint.
    """
    changes = [f"{name} was added" for name in sorted(now.keys() - before.keys())]
    changes += [f"{name} was removed" for name in sorted(before.keys() - now.keys())]
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        changes += [f"{path} was added" for path in sorted(new.keys() - old.keys())]
        changes += [f"{path} was removed" for path in sorted(old.keys() - new.keys())]
        both = sorted(old.keys() & new.keys())
        changes += [f"{path} has changed" for path in both if old[path] != new[path]]
    return changes
