"""Files of a data set: those that lie where BIDS puts the scans of a subject, and their names.

Walks `sub-*/[ses-*/]DATATYPE/` directly below the root and nothing else: `sourcedata/`, `code/`,
data sets within the data set and outputs are never entered, and no link can lead in circles. Knows
nothing of sequences or of voxels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from flaxflair.core.text_files import read_text

_LABEL = re.compile(r"[0-9A-Za-z+]+")
_EXTENSION = re.compile(r"\.nii(\.gz)?$")
# What other extensions images have; the header of a pair stands for it.
_FOREIGN = re.compile(
    r"\.(hdr|mgz|mgh|nrrd|nhdr|mnc|mif|dcm|nii\.zst|nii\.bz2|nii(\.gz)?)(\.gz)?$", re.I
)
Key = tuple[str, str | None]


@dataclass(frozen=True)
class Entry:
    """One NIfTI image of a subject's folder.

    Attributes:
      path: where it lies.
      relative: its path below the data set's root.
      datatype: name of its folder (`anat`).
      entities: of its name (`{"sub": "01"}`), but `sub` and `ses` are those of its folder.
      suffix: BIDS suffix (`T1w`, `mask`).
      fault: why it cannot be told whose image it is, or None.
    """

    path: Path
    relative: str
    datatype: str
    entities: Mapping[str, str]
    suffix: str
    fault: str | None


@dataclass(frozen=True)
class Tree:
    """What the subjects' folders of a data set hold.

    Attributes:
      entries: images, by path.
      faults: (`sub-01`, `ses-1` or None) -> why the folder cannot be used.
      foreign: likewise -> paths below the root of images in `anat` with no extension of NIfTI.
    """

    entries: list[Entry] = field(default_factory=list)
    faults: dict[Key, str] = field(default_factory=dict)
    foreign: dict[Key, list[str]] = field(default_factory=dict)


def walk(root: Path) -> Tree:
    """Returns the images of every subject's folder; a folder that cannot be read is a fault."""
    tree = Tree()
    ignored = _read_ignored(root)

    def enter(folder: Path, key: Key) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            tree.faults[key] = f"{folder}: cannot be read ({error.strerror}); see its permissions"

    for subject in sorted(root.glob("sub-*")):
        if _EXTENSION.search(subject.name) or _is_ignored(f"{subject.name}/", ignored):
            continue
        if not os.path.islink(subject) and not subject.is_dir():
            continue
        for below in enter(subject, (subject.name, None)):
            key = (subject.name, below.name if below.name.startswith("ses-") else None)
            if key[1] is None:
                _collect(root, below, key, tree, ignored)
                continue
            if below.is_symlink() or below.is_dir():
                for datatype in enter(Path(below.path), key):
                    _collect(root, datatype, key, tree, ignored)
    tree.entries.sort(key=lambda entry: entry.relative)
    return tree


def _collect(
    root: Path, folder: os.DirEntry[str], key: Key, tree: Tree, ignored: list[str]
) -> None:
    """Adds the images of one folder of a data type to the tree."""
    try:
        if not folder.is_dir():
            return
        names = sorted(os.listdir(folder.path))
    except OSError as error:
        tree.faults[key] = f"{folder.path}: cannot be read ({error.strerror}); see its permissions"
        return
    for name in names:
        path = Path(folder.path) / name
        relative = path.relative_to(root).as_posix()
        if _is_ignored(relative, ignored):
            continue
        if (parsed := parse_name(name)) is None:
            if folder.name == "anat" and not _EXTENSION.search(name) and _FOREIGN.search(name):
                tree.foreign.setdefault(key, []).append(relative)
            continue
        entities, suffix = parsed
        fault = _contradiction(relative, entities, key)
        own = {"sub": key[0].removeprefix("sub-")}
        own |= {} if key[1] is None else {"ses": key[1].removeprefix("ses-")}
        rest = {name: label for name, label in entities.items() if name not in ("sub", "ses")}
        tree.entries.append(Entry(path, relative, folder.name, own | rest, suffix, fault))


def parse_name(name: str) -> tuple[dict[str, str], str] | None:
    """Returns the entities and the suffix of a NIfTI file's name.

    None if it is no such name, or no name of a subject's file: parts of `entity-label`, `sub` among
    them, and a suffix.
    """
    *parts, suffix = _EXTENSION.sub("", name).split("_")
    pairs = [part.partition("-") for part in parts]
    if not _EXTENSION.search(name) or "-" in suffix:
        return None
    entities = {entity: label for entity, dash, label in pairs if dash}
    return (entities, suffix) if "sub" in entities else None


def _contradiction(relative: str, entities: Mapping[str, str], key: Key) -> str | None:
    """Returns why it cannot be told whose image a file is, or None."""
    for entity, folder in zip(("sub", "ses"), key, strict=True):
        own = f"{entity}-{entities[entity]}" if entity in entities else None
        label = "" if folder is None else folder.removeprefix(f"{entity}-")
        if folder is not None and not _LABEL.fullmatch(label):
            return (
                f"{relative}: BIDS allows letters and digits in a label, so {folder} is none; "
                "rename the folder and its files"
            )
        if own != folder:
            return (
                f"{relative}: its name says {own or f'no {entity}-'} and its folder "
                f"{folder or f'no {entity}-'}; rename it, or move it where it belongs"
            )
    return None


def _read_ignored(root: Path) -> list[str]:
    """Returns the patterns of `.bidsignore`, if there is one."""
    path = root / ".bidsignore"
    lines = read_text(path, "correct it").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _is_ignored(relative: str, patterns: list[str]) -> bool:
    """Tells whether `.bidsignore` names a path, by the rules of `.gitignore`: the last one counts.

    A pattern with a slash is of the path from the root, one without is of any part of it.
    """
    parts = relative.rstrip("/").split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    folders = above if relative.endswith("/") else above[:-1]
    ignored = False
    for pattern in patterns:
        body = pattern.removeprefix("!")
        candidates = folders if body.endswith("/") else above
        body = body.rstrip("/")
        if "/" in body.removeprefix("**/"):
            body = body.removeprefix("/").replace("**/", "*")
            fits = any(fnmatchcase(path, body) for path in candidates)
        else:
            name = body.removeprefix("**/")
            fits = any(fnmatchcase(path.rsplit("/", 1)[-1], name) for path in candidates)
        if fits:
            ignored = not pattern.startswith("!")
    return ignored
