"""The BIDS derivative that a run leaves: synthetic FLAIRs and saliency maps, and their sidecars.

Knows names and files; knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxflair import bids
from flaxflair.files import write_json
from flaxflair.nifti import write_volume
from flaxflair.orientation import to_native
from flaxflair.sequences import SEQUENCES
from flaxflair.volume import Array, Subject

NAME = "Synthetic FLAIR and saliency"


def page_path(root: Path, subject: Subject) -> Path:
    """Returns where the page of a session lies in the derivative: beside the subjects' folders."""
    return root / f"{subject.name}.html"


def start(root: Path, source: Path) -> None:
    """Makes the data set `root`, derived from `source`; see `bids.start_derivative`."""
    # BIDS has no suffix for a saliency map, and that of an image would be a trap: a pipeline that
    # collects T1w files must not pick up a map of one. Nor has it one for a transform or a page.
    unnamed = ("*_p3s.nii.gz", "*_p3s.json", "*_xfm.txt", "*.html")
    bids.start_derivative(root, NAME, source, unnamed)


def flair_path(root: Path, subject: Subject) -> Path:
    """Returns where a subject's synthetic FLAIR lies in the derivative."""
    folder, entities = _place(root, subject)
    return folder / bids.name_file("FLAIR", **entities, desc="synth")


def saliency_path(root: Path, subject: Subject, sequence: str) -> Path:
    """Returns where the saliency map of one of a subject's inputs lies in the derivative."""
    folder, entities = _place(root, subject)
    return folder / bids.name_file("p3s", **entities, desc=sequence)


def write_flair(
    root: Path, subject: Subject, flair: Array, *, extracted: bool, model: Mapping[str, Any]
) -> Path:
    """Writes `sub-01_desc-synth_FLAIR.nii.gz` and its sidecar, and returns the image's path.

    Args:
      root: of the derivative.
      subject: whose FLAIR it is; the image gets its native grid.
      flair: [x, y, z], in the units of the training FLAIRs.
      extracted: whether it is zero outside the brain.
      model: what the sidecar says of the model.
    """
    image = flair_path(root, subject)
    _write(image, flair, subject)
    sidecar = {
        "Description": f"Synthetic FLAIR, predicted from {', '.join(subject.sequences)}",
        "Sources": _sources(subject),
        "SkullStripped": extracted,
        "Model": model,
        "Warnings": list(subject.warnings),
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
    for channel, name in enumerate(subject.sequences):
        path = saliency_path(root, subject, name)
        _write(path, maps[..., channel], subject)
        sidecar = {
            "Description": f"Saliency of {SEQUENCES[name].title}: absolute derivative of the "
            "squared error of the synthetic FLAIR with respect to this input, both as z-scores",
            "Sources": _sources(subject),
        }
        write_json(bids.sidecar(path), sidecar)


def _write(path: Path, array: Array, subject: Subject) -> None:
    volume = to_native(array, subject)
    write_volume(path, volume.array, volume.geometry.affine)


def _place(root: Path, subject: Subject) -> tuple[Path, dict[str, str | None]]:
    folder = bids.subject_folder(root, subject.participant, subject.session)
    # A FLAIR in its own space says nothing; one in a template's says which.
    space = None if subject.space in (None, "FLAIR") else subject.space
    return folder, {"sub": subject.participant, "ses": subject.session, "space": space}


def _sources(subject: Subject) -> list[str]:
    return [f"bids:source:{path}" for path in subject.sources if "FLAIR.nii" not in path]
