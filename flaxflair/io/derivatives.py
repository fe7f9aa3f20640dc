"""The BIDS derivative of a run: synthetic FLAIRs, saliency maps and their sidecars.

Writes the images and reads them back. Arrays of a subject are in RAS order; files have the axis
order of the source images. Independent of networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxflair.core.atomic_files import WriteError, expect_name, expect_output, write_json
from flaxflair.core.notice import NOTICE, NOTICE_KEY
from flaxflair.core.records import Array, GeometryError, Subject, Verdict, Volume
from flaxflair.core.sequences import SEQUENCES, TARGET
from flaxflair.imaging.orientation import from_native, to_native
from flaxflair.io import bids
from flaxflair.io.nifti import expect_image_output, read_volume, write_volume

NAME = "Synthetic FLAIR and saliency"
# Field of a sidecar: the sequences that the FLAIR was predicted from.
SEQUENCES_USED = "SequencesUsed"
_FROM_SOURCE = "bids:source:"  # prefix of paths in the source data set


def page_path(root: Path, session: str) -> Path:
    """Returns the path of the HTML page of a session in the derivative."""
    return root / f"{session}.html"


def start(root: Path, source: Path) -> None:
    """Creates the data set `root`, derived from `source`; see `bids.start_derivative`."""
    # BIDS has no name for saliency maps, transforms, pages, verdicts, bounds and tables of lesions.
    # The suffix of the input would be wrong for a map: a pipeline that collects T1w files must not
    # include it.
    unnamed = [f"*_{name}" for name in ("p3s.nii.gz", "p3s.json", "bound.nii.gz", "bound.json")]
    unnamed += ["*_xfm.txt", "*.html", "quality.tsv", "quality.json", "*_morph.tsv", "*_morph.json"]
    bids.start_derivative(root, NAME, source, unnamed)


def flair_path(root: Path, subject: Subject) -> Path:
    """Returns the path of a subject's synthetic FLAIR in the derivative."""
    folder, entities = _locate(root, subject)
    return folder / bids.name_file("FLAIR", **entities, desc="synth")


def saliency_path(root: Path, subject: Subject, sequence: str) -> Path:
    """Returns the path of the saliency map of one input in the derivative."""
    folder, entities = _locate(root, subject)
    return folder / bids.name_file("p3s", **entities, desc=sequence)


class Destination(NamedTuple):
    """Output paths of the synthetic FLAIR of a session.

    Attributes:
      image: `.nii` or `.nii.gz`; its sidecar is in the same folder.
      page: HTML page for inspection.
      title: title of the page.
      scheme: prefix of sources in the sidecar: `bids:source:`, or empty.
    """

    image: Path
    page: Path
    title: str
    scheme: str


def in_derivative(root: Path, subject: Subject) -> Destination:
    """Returns the output paths of a subject's FLAIR in a derivative."""
    title = f"Synthetic FLAIR of {subject.name}"
    return Destination(
        flair_path(root, subject), page_path(root, subject.name), title, _FROM_SOURCE
    )


def at_file(path: Path, page: Path | None = None) -> Destination:
    """Returns the output paths of a single file; by default, the page is in the same folder."""
    default_page = path.with_name(bids.strip_extension(path.name) + ".html")
    return Destination(path, page or default_page, path.name, "")


def expect_file(out: Path, inputs: Iterable[Path], page: Path | None = None) -> None:
    """Checks a single output file, its sidecar and its page before any computation.

    Args:
      out: image to write.
      inputs: files that are read.
      page: HTML page to write; None for none.

    Raises:
      WriteError: see `expect_output`; or its sidecar is the sidecar of an input.
    """
    inputs = list(inputs)
    expect_image_output(out, inputs)
    expect_name(bids.sidecar(out), f"the sidecar of {out.name}")
    if page is not None:
        expect_output(page, inputs, (".html",), f"the page of {out.name}")
    sidecar = bids.sidecar(out).resolve()
    for path in inputs:
        if bids.sidecar(path).resolve() == sidecar:
            raise WriteError(f"{out}: its sidecar would replace that of {path}; name another file")


def write_flair(
    destination: Destination,
    subject: Subject,
    flair: Volume,
    *,
    extracted: bool,
    model: Mapping[str, Any],
    verdict: Verdict | None = None,
) -> Volume:
    """Writes a synthetic FLAIR, on the grid of the subject's files, and its sidecar.

    Header and sidecar carry the notice that it is no scan (`core.notice`).

    Args:
      destination: output paths.
      subject: subject of the FLAIR.
      flair: float32[x, y, z] on the subject's grid, in the units of the training FLAIRs.
      extracted: whether it is zero outside the brain.
      model: facts on the model for the sidecar.
      verdict: verdict on the session; None if it was not judged.

    Returns:
      The volume written, in the axis order of the file.
    """
    written = write_image(destination.image, flair.array, subject, NOTICE)
    sidecar = {
        "Description": f"Synthetic FLAIR, predicted from {', '.join(subject.sequences)}",
        NOTICE_KEY: NOTICE,
        SEQUENCES_USED: list(subject.sequences),
        **describe_origin(subject, destination.scheme),
        "SkullStripped": extracted,
        "Model": model,
        "Warnings": list(subject.warnings),
    }
    if verdict is not None:
        rounded = {name: float(f"{value:.4g}") for name, value in subject.quality.items()}
        graded = {"Grade": verdict.grade, "Reasons": list(verdict.reasons)}
        sidecar |= {"Verdict": graded, "Quality": rounded}
    write_json(bids.sidecar(destination.image), sidecar)
    return written


def write_saliency(root: Path, subject: Subject, maps: Array) -> None:
    """Writes `sub-01_desc-T1_p3s.nii.gz` and a sidecar for each sequence.

    Args:
      root: root of the derivative.
      subject: subject of the maps.
      maps: [x, y, z, m], from `model.saliency_maps`.
    """
    for channel, name in enumerate(subject.sequences):
        path = saliency_path(root, subject, name)
        write_image(path, maps[..., channel], subject)
        sidecar = {
            "Description": f"Saliency of {SEQUENCES[name].title}: absolute derivative of the "
            "squared error of the synthetic FLAIR with respect to this input, both as z-scores",
            **describe_origin(subject, _FROM_SOURCE),
        }
        write_json(bids.sidecar(path), sidecar)


def read_flair(root: Path, subject: Subject) -> Array:
    """Returns the image that `write_flair` wrote, float32[x, y, z]; see `read_image`."""
    return read_image(flair_path(root, subject), subject)


def read_saliency(root: Path, subject: Subject) -> Array | None:
    """Returns the maps that `write_saliency` wrote, float32[x, y, z, m]; None if one is missing.

    Raises:
      InputError: see `read_image`.
    """
    paths = [saliency_path(root, subject, name) for name in subject.sequences]
    if not all(path.is_file() for path in paths):
        return None
    return np.stack([read_image(path, subject) for path in paths], axis=-1)


def write_image(path: Path, array: Array, subject: Subject, description: str = "") -> Volume:
    """Writes an image of a subject in the axis order of the subject's files.

    Args:
      path: `.nii` or `.nii.gz`; the folder must exist.
      array: [x, y, z], on the subject's grid.
      subject: subject of the image.
      description: text of the header; see `write_volume`.

    Returns:
      The volume written, in the axis order of the file.
    """
    volume = to_native(array, subject)
    write_volume(path, volume.array, volume.geometry.affine, description)
    return volume


def read_image(path: Path, subject: Subject) -> Array:
    """Returns the image that `write_image` wrote, on the subject's grid, float32[x, y, z].

    Raises:
      InputError: the file is missing or cannot be used.
      GeometryError: the grid of the file differs from the subject's.
    """
    volume = read_volume(path)
    try:
        return from_native(volume, subject)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}; predict the session again") from None


def _locate(root: Path, subject: Subject) -> tuple[Path, dict[str, str | None]]:
    folder = bids.subject_folder(root, subject.participant, subject.session)
    entities = {"sub": subject.participant, "ses": subject.session}
    return folder, {**entities, "space": _space_of(subject)}


def _space_of(subject: Subject) -> str | None:
    """Returns the `space` of a subject's images; `FLAIR` is that of a FLAIR itself, and omitted."""
    return None if subject.space == TARGET else subject.space


def describe_origin(subject: Subject, scheme: str) -> dict[str, Any]:
    """Returns the fields of a sidecar on the inputs, and on the one whose grid the image has.

    BIDS requires the latter, `SpatialReference`, of images with a `space` that is no standard one.

    Args:
      subject: subject of the image.
      scheme: see `Destination`.
    """
    # All sources but a FLAIR, which comes last and of which only the grid is used.
    inputs = [f"{scheme}{path}" for path in subject.sources[: len(subject.sequences)]]
    if not inputs or _space_of(subject) is None:
        return {"Sources": inputs}
    suffixes = [SEQUENCES[name].suffix for name in subject.sequences]
    index = suffixes.index(subject.space) if subject.space in suffixes else 0
    return {"Sources": inputs, "SpatialReference": inputs[index]}


def stem_of(image: Path) -> str:
    """Returns the beginning of the names of files beside a synthetic FLAIR.

    `sub-01_desc-synth_FLAIR.nii.gz` -> `sub-01`, and `F.nii` -> `F`.
    """
    return bids.strip_extension(image.name).removesuffix("_desc-synth_FLAIR")
