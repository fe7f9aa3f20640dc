"""BIDS: which files a data set holds, and how derivatives are named and described.

Finds images by their entities and writes the JSON and TSV files around images. Knows nothing of
voxels.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """

    path: Path
    relative: str
    suffix: str
    entities: Mapping[str, str]

    @property
    def participant(self) -> str:
        """`sub-01`."""
        return f"sub-{self.entities['sub']}"

    @property
    def session(self) -> str | None:
        """`ses-1`, or None."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else None

    @property
    def sequence(self) -> str | None:
        """Name of the pulse sequence it holds, if it is one of ours and was not synthesised."""
        if self.entities.get("desc") in ("synth", "noisefree"):
            return None
        return identify(self.suffix, self.entities.get("acq"))


def find_images(root: Path) -> list[Image]:
    """Returns every NIfTI image below `root` that names a subject, `derivatives/` left out.

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
            found.append(Image(root / relative, relative, str(file.suffix), entities))
    return sorted(found, key=lambda image: image.relative)


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
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if rows and "participant_id" not in rows[0]:
        raise InputError(f"{path}: has no column participant_id; see the BIDS specification")
    return {row["participant_id"]: (row.get("group") or "").strip() for row in rows}


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


def sidecar(image: Path) -> Path:
    """Returns the path of the JSON file that belongs to an image."""
    return image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")


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


def describe_derivative(root: Path, name: str, links: Mapping[str, str]) -> None:
    """Writes `dataset_description.json` of a derivative made by this package.

    Args:
      root: of the derivative; made if missing.
      name: title of the data set.
      links: name -> URI of each data set it derives from; a sidecar says `bids:name:path`.
    """
    root.mkdir(parents=True, exist_ok=True)
    generated = {"Name": "flaxflair", "Version": version("flaxflair")}
    write_json(
        root / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [generated],
            "SourceDatasets": [{"URL": uri} for uri in links.values()],
            "DatasetLinks": dict(links),
        },
    )
