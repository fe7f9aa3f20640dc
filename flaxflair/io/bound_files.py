"""Files of the intervals of a session, beside its synthetic FLAIR: a lower and an upper bound.

The suffix `bound` is none of BIDS, so that no pipeline takes one for a FLAIR. Independent of
networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxflair.core.atomic_files import expect_name, write_json
from flaxflair.core.notice import NOTICE, NOTICE_KEY
from flaxflair.core.records import Array, Subject
from flaxflair.io import bids
from flaxflair.io.derivatives import Destination, describe_origin, stem_of, write_image
from flaxflair.io.nifti import expect_image_output

_ENDS = ("lower", "upper")


def endings(coverage: float) -> tuple[str, ...]:
    """Returns the endings of the names of both images.

    Args:
      coverage: 0 to 1.
    """
    return tuple(f"_desc-{end}{100 * coverage:g}_bound.nii.gz" for end in _ENDS)


def bound_paths(image: Path, coverage: float) -> tuple[Path, ...]:
    """Returns the paths of the lower and the upper bound beside a synthetic FLAIR.

    `sub-01_desc-synth_FLAIR.nii.gz` -> `sub-01_desc-lower90_bound.nii.gz`, and `F.nii` ->
    `F_desc-lower90_bound.nii.gz`.

    Args:
      image: synthetic FLAIR.
      coverage: 0 to 1.
    """
    return tuple(image.with_name(f"{stem_of(image)}{end}") for end in endings(coverage))


def expect_bound_files(image: Path, inputs: Iterable[Path], coverage: float) -> None:
    """Checks the files of the bounds before any computation.

    Args:
      image: synthetic FLAIR to write.
      inputs: files that are read.
      coverage: 0 to 1.

    Raises:
      WriteError: see `expect_image_output`.
    """
    inputs = list(inputs)
    for path in bound_paths(image, coverage):
        expect_image_output(path, inputs)
        expect_name(bids.sidecar(path), f"the sidecar of {path.name}")


def write_bounds(
    destination: Destination,
    subject: Subject,
    lower: Array,
    upper: Array,
    coverage: float,
    model: Mapping[str, Any],
) -> None:
    """Writes both bounds on the grid of the subject's files, and their sidecars.

    Args:
      destination: output paths of the FLAIR.
      subject: the session.
      lower: float32[x, y, z] on the subject's grid.
      upper: likewise.
      coverage: nominal share of voxels between the bounds, 0 to 1.
      model: facts on the model for the sidecars.

    Raises:
      WriteError: a file cannot be written.
    """
    paths = bound_paths(destination.image, coverage)
    for end, path, array in zip(_ENDS, paths, (lower, upper), strict=True):
        write_image(path, array, subject, NOTICE)
        sidecar = {
            "Description": f"{end.capitalize()} bound of the intensity of the true FLAIR, where "
            f"the white matter of the synthetic one is at 1000; about {100 * coverage:g} % of the "
            "voxels of a brain are between both bounds",
            NOTICE_KEY: NOTICE,
            "Coverage": coverage,
            **describe_origin(subject, destination.scheme),
            "Model": model,
            "Warnings": list(subject.warnings),
        }
        write_json(bids.sidecar(path), sidecar)
