"""Directory walk of a BIDS data set, and parsing of file names.

Reads `sub-*/[ses-*/]DATATYPE/` directly below the root and nothing else: `sourcedata/`, `code/`,
nested data sets and outputs are not entered, and cyclic links cannot occur. Independent of
sequences and voxels.
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
# Extensions of unsupported image formats; a pair of files is represented by its header.
_FOREIGN = re.compile(
    r"\.(hdr|mgz|mgh|nrrd|nhdr|mnc|mif|dcm|nii\.zst|nii\.bz2|nii(\.gz)?)(\.gz)?$", re.I
)
Key = tuple[str, str | None]


@dataclass(frozen=True)
class Entry:
    """One NIfTI image in a subject's folder.

    Attributes:
      path: path of the file.
      relative: path relative to the data set's root.
      datatype: name of its folder (`anat`).
      entities: entities of its name (`{"sub": "01"}`), with `sub` and `ses` of its folder.
      suffix: BIDS suffix (`T1w`, `mask`).
      fault: why its participant or session is ambiguous, or None.
    """

    path: Path
    relative: str
    datatype: str
    entities: Mapping[str, str]
    suffix: str
    fault: str | None


@dataclass(frozen=True)
class Tree:
    """Content of the subjects' folders of a data set.

    Attributes:
      entries: images, sorted by path.
      faults: (`sub-01`, `ses-1` or None) -> why the folder cannot be used.
      foreign: (`sub-01`, `ses-1` or None) -> relative paths of images in `anat` in other formats
        than NIfTI.
    """

    entries: list[Entry] = field(default_factory=list)
    faults: dict[Key, str] = field(default_factory=dict)
    foreign: dict[Key, list[str]] = field(default_factory=dict)


def walk(root: Path) -> Tree:
    """Returns the images of all subjects' folders; an unreadable folder is a fault."""
    tree = Tree()
    ignored = _read_ignored(root)

    def scan(folder: Path, key: Key) -> Iterator[os.DirEntry[str]]:
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
        for below in scan(subject, (subject.name, None)):
            key = (subject.name, below.name if below.name.startswith("ses-") else None)
            if key[1] is None:
                _collect(root, below, key, tree, ignored)
                continue
            if below.is_symlink() or below.is_dir():
                for datatype in scan(Path(below.path), key):
                    _collect(root, datatype, key, tree, ignored)
    tree.entries.sort(key=lambda entry: entry.relative)
    return tree


def _collect(
    root: Path, folder: os.DirEntry[str], key: Key, tree: Tree, ignored: list[str]
) -> None:
    """Adds the images of one data-type folder to the tree."""
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
        fault = _find_fault(relative, entities, key)
        of_folder = {"sub": key[0].removeprefix("sub-")}
        of_folder |= {} if key[1] is None else {"ses": key[1].removeprefix("ses-")}
        rest = {name: label for name, label in entities.items() if name not in ("sub", "ses")}
        tree.entries.append(Entry(path, relative, folder.name, of_folder | rest, suffix, fault))


def parse_name(name: str) -> tuple[dict[str, str], str] | None:
    """Returns the entities and the suffix of the name of a NIfTI file.

    Returns None if the name is not of a NIfTI file of a subject: parts `entity-label` that include
    `sub`, and a suffix.
    """
    *parts, suffix = _EXTENSION.sub("", name).split("_")
    pairs = [part.partition("-") for part in parts]
    if not _EXTENSION.search(name) or "-" in suffix:
        return None
    entities = {entity: label for entity, dash, label in pairs if dash}
    return (entities, suffix) if "sub" in entities else None


def _find_fault(relative: str, entities: Mapping[str, str], key: Key) -> str | None:
    """Returns why the participant or session of a file is ambiguous, or None."""
    for entity, folder in zip(("sub", "ses"), key, strict=True):
        named = f"{entity}-{entities[entity]}" if entity in entities else None
        label = "" if folder is None else folder.removeprefix(f"{entity}-")
        if folder is not None and not _LABEL.fullmatch(label):
            return (
                f"{relative}: BIDS allows only letters and digits in a label, so {folder} is "
                "invalid; rename the folder and its files"
            )
        if named != folder:
            return (
                f"{relative}: its name has {named or f'no {entity}-'} and its folder "
                f"{folder or f'no {entity}-'}; rename it, or move it to the right folder"
            )
    return None


def _read_ignored(root: Path) -> list[str]:
    """Returns the patterns of `.bidsignore`; empty if it does not exist."""
    path = root / ".bidsignore"
    lines = read_text(path, "correct it").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _is_ignored(relative: str, patterns: list[str]) -> bool:
    """Whether `.bidsignore` excludes a path, by the rules of `.gitignore`: the last match decides.

    A pattern with a slash applies to the path from the root, one without to any part of it.
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
            matches = any(fnmatchcase(path, body) for path in candidates)
        else:
            name = body.removeprefix("**/")
            matches = any(fnmatchcase(path.rsplit("/", 1)[-1], name) for path in candidates)
        if matches:
            ignored = not pattern.startswith("!")
    return ignored
