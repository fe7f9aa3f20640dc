"""BIDS: which files a data set holds, and how derivatives are named and described.

Finds images by their entities and writes the JSON and TSV files around images. Knows nothing of
voxels.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ancpbids

from flaxflair.files import write_bytes, write_json
from flaxflair.sequences import SEQUENCES, identify
from flaxflair.volume import InputError

BIDS_VERSION = "1.10.0"


@dataclass(frozen=True)
class Image:
    """One image file of a data set.

    Attributes:
      path: where it lies.
      relative: its path below the data set's root.
      suffix: BIDS suffix (`T1w`, `mask`).
      entities: BIDS entities (`{"sub": "01", "space": "FLAIR"}`).
      sequence: name of the pulse sequence it holds, if it is one of ours and was not synthesised.
    """

    path: Path
    relative: str
    suffix: str
    entities: Mapping[str, str]
    sequence: str | None

    @property
    def participant(self) -> str:
        """`sub-01`."""
        return f"sub-{self.entities['sub']}"

    @property
    def session(self) -> str | None:
        """`ses-1`, or None."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else None


def find_images(root: Path, patterns: Mapping[str, str] | None = None) -> list[Image]:
    """Returns every NIfTI image below `root` that names a subject, `derivatives/` left out.

    Args:
      root: of the data set.
      patterns: sequence -> pattern of the paths below `root` that hold it (`*_ce-gd_T1w.nii.gz`),
        where its own name does not say so. What fits none is known by suffix and `acq` label.

    Raises:
      InputError: `root` is missing or is not a BIDS data set.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the root of a prepared BIDS data set")
    if not (root / "dataset_description.json").is_file():
        raise InputError(f"{root}: holds no dataset_description.json, so it is no BIDS data set")
    files: Any = ancpbids.load_dataset(str(root)).query(extension=[".nii.gz", ".nii"])
    found = []
    for file in files:
        relative = Path(file.get_relative_path()).as_posix()
        entities = {str(key): str(value) for key, value in file.entities.items()}
        if "sub" in entities and not relative.startswith("derivatives/"):
            sequence = _identify(relative, str(file.suffix), entities, patterns or {})
            found.append(Image(root / relative, relative, str(file.suffix), entities, sequence))
    return sorted(found, key=lambda image: image.relative)


def _identify(
    relative: str, suffix: str, entities: Mapping[str, str], patterns: Mapping[str, str]
) -> str | None:
    if entities.get("desc") in ("synth", "noisefree"):
        return None
    for sequence, pattern in patterns.items():
        if fnmatchcase(relative, pattern):
            return sequence
    return identify(suffix, entities.get("acq"))


def find_derivatives(root: Path) -> list[Image]:
    """Returns the images of every derivative data set that lies in `root/derivatives`."""
    folders = sorted((root / "derivatives").glob("*/dataset_description.json"))
    return [image for folder in folders for image in find_images(folder.parent)]


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
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", restkey="", restval=""))
    if rows and "participant_id" not in rows[0]:
        raise InputError(f"{path}: has no column participant_id; see the BIDS specification")
    for row in rows:
        row.pop("", None)  # what stands beyond the last column
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
    """Returns a file name without `.nii` or `.nii.gz`."""
    return name.removesuffix(".gz").removesuffix(".nii")


def sidecar(image: Path) -> Path:
    """Returns the path of the JSON file that belongs to an image."""
    return image.with_name(strip_extension(image.name) + ".json")


def is_derivative(root: Path) -> bool:
    """Whether a data set says of itself that it is a derivative, and so was prepared.

    Raises:
      InputError: its description cannot be read.
    """
    path = root / "dataset_description.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("DatasetType") == "derivative"
    except FileNotFoundError:
        raise InputError(f"{root}: holds no {path.name}, so it is no BIDS data set") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no JSON object ({error}); correct it") from None


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
    description = root / "dataset_description.json"
    if description.is_file():
        try:
            there = json.loads(description.read_text(encoding="utf-8"))
            own = there["Name"] == name and there["DatasetLinks"] == links
        except (ValueError, KeyError, TypeError):
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
    write_bytes(root / ".bidsignore", "".join(f"{pattern}\n" for pattern in unnamed).encode())
