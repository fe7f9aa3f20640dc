"""The BIDS derivative that a run leaves: synthetic FLAIRs and saliency maps, and their sidecars.

Knows names and files; knows nothing of networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxflair import bids
from flaxflair.files import write_bytes, write_json
from flaxflair.nifti import write_volume
from flaxflair.sequences import SEQUENCES
from flaxflair.volume import Array, InputError, Subject

NAME = "Synthetic FLAIR and saliency"


def start(root: Path, source: Path) -> None:
    """Makes the data set `root`, derived from the data set `source`.

    Any number of processes may do so at once, for the same source.

    Raises:
      InputError: another data set lies there.
    """
    links = {"source": source.resolve().as_uri()}
    _refuse_other(root / "dataset_description.json", links)
    bids.describe_derivative(root, NAME, links)
    # BIDS has no suffix for a saliency map, and that of an image would be a trap: a pipeline that
    # collects T1w files must not pick up a map of one.
    write_bytes(root / ".bidsignore", b"*_p3s.nii.gz\n*_p3s.json\n")


def _refuse_other(description: Path, links: Mapping[str, str]) -> None:
    if not description.is_file():
        return
    try:
        there = json.loads(description.read_text(encoding="utf-8"))
        own = there["Name"] == NAME and there["DatasetLinks"] == links
    except (ValueError, KeyError, TypeError):
        own = False
    if not own:
        raise InputError(
            f"{description}: describes another data set than the synthetic FLAIRs of "
            f"{links['source']}; name another folder to write to"
        )


def flair_path(root: Path, subject: Subject) -> Path:
    """Returns where a subject's synthetic FLAIR lies in the derivative."""
    folder, entities = _place(root, subject)
    return folder / bids.name_file("FLAIR", **entities, desc="synth")


def write_flair(
    root: Path, subject: Subject, flair: Array, *, extracted: bool, model: Mapping[str, Any]
) -> Path:
    """Writes `sub-01_desc-synth_FLAIR.nii.gz` and its sidecar, and returns the image's path.

    Args:
      root: of the derivative.
      subject: whose FLAIR it is; the image gets its affine.
      flair: [x, y, z], in the units of the training FLAIRs.
      extracted: whether it is zero outside the brain.
      model: what the sidecar says of the model.
    """
    image = flair_path(root, subject)
    write_volume(image, flair, subject.geometry.affine)
    sidecar = {
        "Description": f"Synthetic FLAIR, predicted from {', '.join(subject.sequences)}",
        "Sources": _sources(subject),
        "SkullStripped": extracted,
        "Model": model,
    }
    write_json(bids.sidecar(image), sidecar)
    return image


def write_saliency(root: Path, subject: Subject, maps: Array) -> None:
    """Writes `sub-01_desc-T1_p3s.nii.gz` and a sidecar for each sequence.

    Args:
      root: of the derivative.
      subject: whose maps they are.
      maps: [x, y, z, m], from `model.saliency_maps`.
    """
    folder, entities = _place(root, subject)
    for channel, name in enumerate(subject.sequences):
        path = folder / bids.name_file("p3s", **entities, desc=name)
        write_volume(path, maps[..., channel], subject.geometry.affine)
        sidecar = {
            "Description": f"Saliency of {SEQUENCES[name].title}: absolute derivative of the "
            "squared error of the synthetic FLAIR with respect to this input, both as z-scores",
            "Sources": _sources(subject),
        }
        write_json(bids.sidecar(path), sidecar)


def _place(root: Path, subject: Subject) -> tuple[Path, dict[str, str | None]]:
    folder = bids.subject_folder(root, subject.participant, subject.session)
    # A FLAIR in its own space says nothing; one in a template's says which.
    space = None if subject.space in (None, "FLAIR") else subject.space
    return folder, {"sub": subject.participant, "ses": subject.session, "space": space}


def _sources(subject: Subject) -> list[str]:
    return [f"bids:source:{path}" for path in subject.sources if "FLAIR.nii" not in path]
