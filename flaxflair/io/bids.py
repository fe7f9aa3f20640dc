"""BIDS: images of a data set, file names, and descriptions of derivatives.

Finds images by their entities and writes JSON and TSV files. Independent of voxels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from flaxflair.core.atomic_files import write_bytes, write_json, write_text
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES, identify
from flaxflair.core.text_files import read_text
from flaxflair.io.bids_tree import Entry, Key, walk

BIDS_VERSION = "1.10.0"
# Hidden folder of a derivative with one receipt for each session; see `io.receipts`.
RECEIPTS = ".flaxflair"


@dataclass(frozen=True)
class Image:
    """One image file of a data set.

    Attributes:
      path: path of the file.
      relative: path relative to the data set's root.
      suffix: BIDS suffix (`T1w`, `mask`).
      entities: BIDS entities (`{"sub": "01", "space": "FLAIR"}`).
      sequence: name of the pulse sequence, if it is in `SEQUENCES` and not synthetic; or None.
      datatype: name of its folder (`anat`).
      fault: why its participant or session is ambiguous, or None.
    """

    path: Path
    relative: str
    suffix: str
    entities: Mapping[str, str]
    sequence: str | None
    datatype: str = "anat"
    fault: str | None = None

    @property
    def participant(self) -> str:
        """`sub-01`."""
        return f"sub-{self.entities['sub']}"

    @property
    def session(self) -> str | None:
        """`ses-1`, or None."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else None


@dataclass(frozen=True)
class Survey:
    """Content of the subjects' folders of a data set.

    Attributes:
      images: sorted by path.
      faults: (`sub-01`, `ses-1` or None) -> why the session cannot be used.
      sessions: keys of sessions with a fault or with any scan, used or not.
      foreign: (`sub-01`, `ses-1` or None) -> relative paths of scans in unsupported formats.
    """

    images: list[Image]
    faults: Mapping[Key, str]
    sessions: frozenset[Key]
    foreign: Mapping[Key, Sequence[str]]


def find_images(root: Path, patterns: Mapping[str, str] | None = None) -> list[Image]:
    """Returns the images found by `survey`."""
    return survey(root, patterns).images


def survey(root: Path, patterns: Mapping[str, str] | None = None) -> Survey:
    """Finds every NIfTI image in the subjects' folders, `sub-*` directly below `root`.

    Files listed in `.bidsignore` are excluded.

    Args:
      root: root of the data set.
      patterns: sequence -> pattern of paths relative to `root` (`*_ce-gd_T1w.nii.gz`); only images
        that match it are then of that sequence. Other sequences are identified by
        `sequences.NAME_RULES`, in folders `anat` only.

    Raises:
      InputError: `root` is missing or is not a BIDS data set, or a pattern matches no image.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the root of a prepared BIDS data set")
    description = root / _DESCRIPTION
    if not description.is_file():
        raise InputError(f"{root}: holds no {_DESCRIPTION}, so it is not a BIDS data set")
    read_object(description, "correct it")
    tree = walk(root)
    patterns = patterns or {}
    for sequence, pattern in patterns.items():
        if not any(fnmatchcase(entry.relative, pattern) for entry in tree.entries):
            raise InputError(
                f"{root}: no image matches the pattern {sequence}={pattern}; give a pattern of "
                "paths relative to the data set, such as sub-01/anat/sub-01_T1w.nii.gz"
            )
    faults, images, sessions = dict(tree.faults), [], set(tree.faults)
    for entry in tree.entries:
        sequence = _identify(entry, patterns)
        image = Image(
            entry.path,
            entry.relative,
            entry.suffix,
            entry.entities,
            sequence,
            entry.datatype,
            entry.fault,
        )
        images.append(image)
        if sequence is not None or is_scan(entry):
            key = image.participant, image.session
            sessions.add(key)
            if entry.fault is not None:
                faults.setdefault(key, entry.fault)
    return Survey(images, faults, frozenset(sessions), tree.foreign)


_DESCRIPTION = "dataset_description.json"
_SUFFIXES = {sequence.suffix for sequence in SEQUENCES.values()}
_NOT_SCANNED = ("synth", "noisefree")


def is_scan(image: Image | Entry) -> bool:
    """Whether an image is a scan by its name, used or not: not synthetic, with a known suffix."""
    is_scan = image.datatype == "anat" and image.entities.get("desc") not in _NOT_SCANNED
    return is_scan and image.suffix in _SUFFIXES


def _identify(entry: Entry, patterns: Mapping[str, str]) -> str | None:
    if entry.entities.get("desc") in _NOT_SCANNED:
        return None
    for sequence, pattern in patterns.items():
        if fnmatchcase(entry.relative, pattern):
            return sequence
    sequence = identify(entry.suffix, entry.entities) if entry.datatype == "anat" else None
    return None if sequence in patterns else sequence


def find_derivatives(root: Path) -> list[Image]:
    """Returns the images of every derivative data set in `root/derivatives`.

    `Image.relative` is relative to `root`.
    """
    found = []
    for description in sorted((root / "derivatives").glob(f"*/{_DESCRIPTION}")):
        folder = description.parent
        for image in find_images(folder):
            relative = image.path.relative_to(root).as_posix()
            found.append(replace(image, relative=relative))
    return found


def find_generated(root: Path) -> frozenset[str]:
    """Returns the names of the folders in `root/derivatives` created by `start_derivative`."""
    generated = set()
    for description in (root / "derivatives").glob(f"*/{_DESCRIPTION}"):
        content = read_object(description, "correct it")
        generated_by = content.get("GeneratedBy")
        items = generated_by if isinstance(generated_by, list) else []
        names = [item.get("Name") for item in items if isinstance(item, dict)]
        if "flaxflair" in names and "DatasetLinks" in content:
            generated.add(description.parent.name)
    return frozenset(generated)


def read_groups(root: Path) -> dict[str, str]:
    """Returns participant -> group, from `participants.tsv`; empty if it does not exist.

    Raises:
      InputError: the table has no `participant_id` column.
    """
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    rows = _read_participants(path)
    return {row["participant_id"]: row.get("group", "").strip() for row in rows}


def _read_participants(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table, with the prefix `sub-` added to participant labels."""
    # BIDS tables have no quotation: a quotation mark is part of a cell.
    lines = read_text(path, "remove it").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    columns, *cells = [line.split("\t") for line in lines if line.strip()] or [[]]
    if cells and "participant_id" not in columns:
        raise InputError(f"{path}: has no column participant_id; see the BIDS specification")
    rows: dict[str, dict[str, str]] = {}
    for values in cells:
        row = dict.fromkeys(columns, "") | dict(zip(columns, values, strict=False))
        name = f"sub-{row['participant_id'].strip().removeprefix('sub-')}"
        row["participant_id"] = name
        if rows.setdefault(name, row) != row:
            raise InputError(f"{path}: has two different rows of {name}; keep one of them")
    return list(rows.values())


def copy_participants(source: Path, root: Path) -> None:
    """Copies the participants table of a data set to its derivative.

    Only participants with a folder in the derivative are included, as BIDS requires.
    """
    path = source / "participants.tsv"
    if not path.is_file():
        return
    present = {folder.name for folder in root.glob("sub-*/")}
    rows = [row for row in _read_participants(path) if row["participant_id"] in present]
    if rows:
        columns = tuple(rows[0])
        write_tsv(root / path.name, columns, (tuple(row.values()) for row in rows))
    columns_json = path.with_suffix(".json")
    if rows and columns_json.is_file():
        write_bytes(root / columns_json.name, columns_json.read_bytes())


_ORDER = ("sub", "ses", "acq", "space", "label", "desc")


def name_file(suffix: str, **entities: str | None) -> str:
    """Returns a BIDS file name, its entities in the order of the specification.

    Args:
      suffix: `FLAIR`, `mask`.
      **entities: `sub`, `ses`, `acq`, `space`, `label`, `desc`, with or without their prefix; None
        omits one.
    """
    parts = [
        f"{name}-{re.sub(f'^{name}-', '', value)}"
        for name in _ORDER
        if (value := entities.get(name)) is not None
    ]
    return "_".join([*parts, suffix]) + ".nii.gz"


def strip_extension(name: str) -> str:
    """Returns a file name without `.nii`, or `.hdr` or `.img` of a pair, and without `.gz`."""
    return re.sub(r"\.(nii|hdr|img)$", "", name.removesuffix(".gz"))


def sidecar(image: Path) -> Path:
    """Returns the path of the sidecar (JSON file) of an image."""
    return image.with_name(strip_extension(image.name) + ".json")


def is_derivative(root: Path) -> bool:
    """Whether the description of a data set states that it is a derivative, and so is prepared.

    Raises:
      InputError: its description cannot be read.
    """
    path = root / _DESCRIPTION
    if not path.is_file():
        raise InputError(f"{root}: holds no {path.name}, so it is not a BIDS data set")
    return read_object(path, "correct it").get("DatasetType") == "derivative"


def name_sequence(sequence: str, **entities: str | None) -> str:
    """Returns the file name of one pulse sequence, including its `acq` label."""
    spec = SEQUENCES[sequence]
    return name_file(spec.suffix, acq=spec.acquisition, **entities)


def subject_folder(root: Path, participant: str, session: str | None) -> Path:
    """Returns `root/sub-01[/ses-1]/anat`, created if missing."""
    folder = root / participant / (session or "") / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_tsv(path: Path, columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    """Writes a tab-separated table atomically."""
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


def _expect_outside(root: Path, source: Path) -> None:
    """Refuses a derivative where the images of its source are looked for."""
    inner, outer = root.resolve(), source.resolve()
    if inner == outer:
        raise InputError(f"{root}: is the data set itself; name another folder to write to")
    if inner.is_relative_to(outer):
        first = inner.relative_to(outer).parts[0]
        if first.startswith("sub-"):
            raise InputError(
                f"{root}: is in the folder {first} of the data set {source}, which holds the scans "
                "of a participant; name another folder to write to, such as "
                f"{source / 'derivatives' / inner.name}"
            )


def start_derivative(root: Path, name: str, source: Path, unnamed: Sequence[str]) -> None:
    """Creates the data set `root`, derived by this package from the data set `source`.

    Several processes may call it concurrently for the same source.

    Args:
      root: root of the derivative; created if missing.
      name: title of the data set.
      source: source data set; sidecars refer to it as `bids:source:path`.
      unnamed: patterns of files without a BIDS name, for `.bidsignore`.

    Raises:
      InputError: `root` is `source`, is in a subject's folder of it, or holds another data set.
    """
    _expect_outside(root, source)
    links = {"source": source.resolve().as_uri()}
    description = root / _DESCRIPTION
    if description.is_file():
        try:
            content = read_object(description, "")
            same = content.get("Name") == name and content.get("DatasetLinks") == links
        except InputError:
            same = False
        if not same:
            raise InputError(
                f"{description}: describes another data set than {name} of {links['source']}; "
                "name another folder to write to"
            )
    root.mkdir(parents=True, exist_ok=True)
    write_json(
        description,
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "flaxflair", "Version": version("flaxflair")}],
            "SourceDatasets": [{"URL": uri} for uri in links.values()],
            "DatasetLinks": links,
        },
    )
    ignored = (*unnamed, f"{RECEIPTS}/")
    write_text(root / ".bidsignore", "".join(f"{pattern}\n" for pattern in ignored))
