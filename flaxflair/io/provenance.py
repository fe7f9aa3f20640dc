"""Whether an image is a scan or a synthetic FLAIR, by its header and its sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flaxflair.core.json_objects import read_object
from flaxflair.core.notice import NOTICE_KEY, is_notice
from flaxflair.core.records import InputError
from flaxflair.core.sequences import TARGET
from flaxflair.imaging.findings import Finding
from flaxflair.io.bids import sidecar
from flaxflair.io.nifti import read_description


def is_synthetic(path: Path) -> bool:
    """Whether the description in a NIfTI header, or the notice in a sidecar, is `core.notice`'s.

    Args:
      path: image that `read_volume` accepts; a sidecar that cannot be read is ignored.

    Raises:
      InputError: the header cannot be read.
    """
    if is_notice(read_description(path)):
        return True
    beside = sidecar(path)
    try:
        return beside.is_file() and is_notice(read_object(beside, "").get(NOTICE_KEY))
    except InputError:  # reported by the readers of sidecars
        return False


def check_provenance(paths: Mapping[str, Path], *, truth: bool) -> list[Finding]:
    """Finds synthetic FLAIRs among the images of a session.

    Args:
      paths: sequence -> readable image.
      truth: whether the FLAIR is a truth, to train on or to compare with, so that a synthetic one
        stops the session; otherwise it is a warning, as for the other sequences.
    """
    return [
        Finding("stop", name, "is a synthetic FLAIR and no truth; give the scanned FLAIR")
        if truth and name == TARGET
        else Finding("warn", name, f"is a synthetic FLAIR, not a scanned {name}; give the scan")
        for name, path in paths.items()
        if is_synthetic(path)
    ]
