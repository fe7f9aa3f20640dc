"""Storage of the library as memory-mapped arrays, which processes share.

Independent of sampling.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError
from flaxflair.simulation.generator.anatomies import Anatomy, LesionLibrary, Library


def save_library(folder: Path, library: Library) -> None:
    """Writes a library; `folder` must not exist, and is created only when complete.

    Raises:
      WriteError: the disk is full or the folder read-only.
    """
    with write_folder(folder) as partial:
        for number, anatomy in enumerate(library.anatomies):
            _save(partial / f"anatomy-{number:03d}", anatomy)
        _save(partial / "lesions", library.lesions)


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that is renamed to `folder` at the end of the block.

    The partial folder of a killed process is removed.

    Raises:
      WriteError: the disk is full or the folder read-only; nothing is left.
    """
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        why = error.strerror or error
        raise WriteError(
            f"{folder}: cannot be written ({why}); free space there or name another folder"
        ) from None


def load_arrays(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns name -> array of `folder/NAME.npy`, mapped into memory, read-only.

    Raises:
      InputError: one is missing or damaged.
    """
    arrays = {}
    for name in names:
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            raise InputError(
                f"{path}: is missing or damaged; remove {folder.parent}, and it is made anew"
            ) from None
    return arrays


def open_library(folder: Path) -> Library:
    """Opens a library written by `save_library`, its arrays mapped into memory, read-only.

    Raises:
      InputError: the folder holds none.
    """
    anatomies = sorted(folder.glob("anatomy-*"))
    if not anatomies or not (folder / "lesions").is_dir():
        raise InputError(f"{folder}: holds no library of anatomies and lesions; make it anew")
    return Library(
        tuple(Anatomy(**_open(each, Anatomy)) for each in anatomies),
        LesionLibrary(**_open(folder / "lesions", LesionLibrary)),
    )


def _save(folder: Path, record: Anatomy | LesionLibrary) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for field in fields(record):
        np.save(folder / f"{field.name}.npy", getattr(record, field.name))


def _open(folder: Path, kind: type[Anatomy] | type[LesionLibrary]) -> dict[str, np.ndarray]:
    return load_arrays(folder, (field.name for field in fields(kind)))
