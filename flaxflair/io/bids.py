"""BIDS: which files a data set holds, and how derivatives are named and described.

Finds images by their entities and writes the JSON and TSV files around images. Knows nothing of
voxels.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from flaxflair.core.atomic_files import write_bytes, write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES, identify
from flaxflair.core.text_files import read_text
from flaxflair.io.bids_tree import Entry, Key, walk

BIDS_VERSION = "1.10.0"
# Hidden folder of a derivative: what was made of each session; see `io.receipts`.
RECEIPTS = ".flaxflair"


@dataclass(frozen=True)
class Image:
    """One image file of a data set.

    Attributes:
      path: where it lies.
      relative: its path below the data set's root.
      suffix: BIDS suffix (`T1w`, `mask`).
      entities: BIDS entities (`{"sub": "01", "space": "FLAIR"}`).
      sequence: name of the pulse sequence it holds, if it is one of ours and was not synthesised.
      datatype: name of its folder (`anat`).
      fault: why it cannot be told whose image it is, or None.
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
    """What the subjects' folders of a data set hold.

    Attributes:
      images: by path.
      faults: (`sub-01`, `ses-1` or None) -> why what lies there cannot be used.
      sessions: those that cannot be used, or hold a scan, if only one that no rule takes.
      foreign: likewise -> paths of what by their names are scans in no format that is read.
    """

    images: list[Image]
    faults: Mapping[Key, str]
    sessions: frozenset[Key]
    foreign: Mapping[Key, Sequence[str]]


def find_images(root: Path, patterns: Mapping[str, str] | None = None) -> list[Image]:
    """Returns the images of `survey`."""
    return survey(root, patterns).images


def survey(root: Path, patterns: Mapping[str, str] | None = None) -> Survey:
    """Finds every NIfTI image in the subjects' folders, `sub-*` directly below `root`.

    What `.bidsignore` names is left out.

    Args:
      root: of the data set.
      patterns: sequence -> pattern of the paths below `root` that hold it (`*_ce-gd_T1w.nii.gz`),
        and nothing else then does. The other sequences are known by `sequences.NAME_RULES`, of
        images in a folder `anat`.

    Raises:
      InputError: `root` is missing or is not a BIDS data set, or a pattern fits no image.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the root of a prepared BIDS data set")
    description = root / _DESCRIPTION
    if not description.is_file():
        raise InputError(f"{root}: holds no {_DESCRIPTION}, so it is no BIDS data set")
    read_object(description, "correct it")
    tree = walk(root)
    patterns = patterns or {}
    for sequence, pattern in patterns.items():
        if not any(fnmatchcase(entry.relative, pattern) for entry in tree.entries):
            raise InputError(
                f"{root}: no image fits the pattern {sequence}={pattern}; it is of whole paths "
                "below the data set, such as sub-01/anat/sub-01_T1w.nii.gz"
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
        if sequence is not None or _is_scan(entry):
            key = image.participant, image.session
            sessions.add(key)
            if entry.fault is not None:
                faults.setdefault(key, entry.fault)
    return Survey(images, faults, frozenset(sessions), tree.foreign)


_DESCRIPTION = "dataset_description.json"


_SUFFIXES = {sequence.suffix for sequence in SEQUENCES.values()}
_SIMULATED = ("synth", "noisefree")


def _is_scan(entry: Entry) -> bool:
    scanned = entry.datatype == "anat" and entry.entities.get("desc") not in _SIMULATED
    return scanned and entry.suffix in _SUFFIXES


def _identify(entry: Entry, patterns: Mapping[str, str]) -> str | None:
    if entry.entities.get("desc") in _SIMULATED:
        return None
    for sequence, pattern in patterns.items():
        if fnmatchcase(entry.relative, pattern):
            return sequence
    named = identify(entry.suffix, entry.entities) if entry.datatype == "anat" else None
    return None if named in patterns else named


def find_derivatives(root: Path) -> list[Image]:
    """Returns the images of every derivative data set that lies in `root/derivatives`.

    Their paths are relative to `root`.
    """
    found = []
    for description in sorted((root / "derivatives").glob(f"*/{_DESCRIPTION}")):
        folder = description.parent
        for image in find_images(folder):
            relative = image.path.relative_to(root).as_posix()
            found.append(replace(image, relative=relative))
    return found


def find_made_here(root: Path) -> frozenset[str]:
    """Returns the names of the folders in `root/derivatives` that `start_derivative` made."""
    made = set()
    for description in (root / "derivatives").glob(f"*/{_DESCRIPTION}"):
        said = read_object(description, "correct it")
        by = said.get("GeneratedBy")
        items = by if isinstance(by, list) else []
        names = [item.get("Name") for item in items if isinstance(item, dict)]
        if "flaxflair" in names and "DatasetLinks" in said:
            made.add(description.parent.name)
    return frozenset(made)


def read_groups(root: Path) -> dict[str, str]:
    """Returns participant -> group, from `participants.tsv`; empty if there is none.

    Raises:
      InputError: the table has no `participant_id` column.
    """
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    rows = _read_participants(path)
    return {row["participant_id"]: row.get("group", "").strip() for row in rows}


def _read_participants(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table, the labels of participants with their prefix."""
    lines = read_text(path, "remove it").splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t", restkey="", restval=""))
    if rows and "participant_id" not in rows[0]:
        raise InputError(f"{path}: has no column participant_id; see the BIDS specification")
    for row in rows:
        row.pop("", None)  # what stands beyond the last column
        row["participant_id"] = f"sub-{row['participant_id'].strip().removeprefix('sub-')}"
    return rows


def keep_participants(source: Path, root: Path) -> None:
    """Writes what a data set says of its participants into one derived from it.

    Of those alone who have a folder there: the specification wants a table to name no others.
    """
    path = source / "participants.tsv"
    if not path.is_file():
        return
    there = {folder.name for folder in root.glob("sub-*/")}
    rows = [row for row in _read_participants(path) if row["participant_id"] in there]
    if rows:
        columns = tuple(rows[0])
        write_tsv(root / path.name, columns, (tuple(row.values()) for row in rows))
    said = path.with_suffix(".json")
    if rows and said.is_file():
        write_bytes(root / said.name, said.read_bytes())


_ORDER = ("sub", "ses", "acq", "space", "label", "desc")


def name_file(suffix: str, **entities: str | None) -> str:
    """Returns a BIDS file name, its entities in the order the specification wants.

    Args:
      suffix: `FLAIR`, `mask`.
      **entities: `sub`, `ses`, `acq`, `space`, `label`, `desc`, with or without their prefix; None
        leaves one out.
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
    """Returns the path of the JSON file that belongs to an image."""
    return image.with_name(strip_extension(image.name) + ".json")


def is_derivative(root: Path) -> bool:
    """Whether a data set says of itself that it is a derivative, and so was prepared.

    Raises:
      InputError: its description cannot be read.
    """
    path = root / _DESCRIPTION
    if not path.is_file():
        raise InputError(f"{root}: holds no {path.name}, so it is no BIDS data set")
    return read_object(path, "correct it").get("DatasetType") == "derivative"


def name_sequence(sequence: str, **entities: str | None) -> str:
    """Returns the file name of one pulse sequence, `acq` label included."""
    spec = SEQUENCES[sequence]
    return name_file(spec.suffix, acq=spec.acquisition, **entities)


def subject_folder(root: Path, participant: str, session: str | None) -> Path:
    """Returns (and makes) `root/sub-01[/ses-1]/anat`."""
    folder = root / participant / (session or "") / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_tsv(path: Path, columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    """Writes a tab-separated table, whole or not at all."""
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def start_derivative(root: Path, name: str, source: Path, unnamed: Sequence[str]) -> None:
    """Makes the data set `root`, derived by this package from the data set `source`.

    Any number of processes may do so at once, for the same source.

    Args:
      root: of the derivative; made if missing.
      name: title of the data set.
      source: what it derives from; a sidecar says `bids:source:path`.
      unnamed: patterns of the files that BIDS has no name for, and a validator is to leave alone.

    Raises:
      InputError: `root` is `source`, or another data set lies there.
    """
    if root.resolve() == source.resolve():
        raise InputError(f"{root}: is the data set itself; name another folder to write to")
    links = {"source": source.resolve().as_uri()}
    description = root / _DESCRIPTION
    if description.is_file():
        try:
            there = read_object(description, "")
            own = there.get("Name") == name and there.get("DatasetLinks") == links
        except InputError:
            own = False
        if not own:
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
    write_bytes(root / ".bidsignore", "".join(f"{pattern}\n" for pattern in ignored).encode())
