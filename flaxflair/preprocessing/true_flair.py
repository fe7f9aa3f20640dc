"""True FLAIR of a predicted session on the grid of its synthetic FLAIR, to score it."""

from __future__ import annotations

import numpy as np

from flaxflair.core.records import Array, InputError, Volume
from flaxflair.core.sequences import TARGET
from flaxflair.imaging.findings import refuse_or_warn
from flaxflair.io.datasets import read_onto
from flaxflair.io.nifti import read_volume
from flaxflair.io.provenance import check_provenance
from flaxflair.io.session_files import SessionFiles
from flaxflair.preprocessing.options import Preparation
from flaxflair.preprocessing.session import prepare_session


def read_true_flair(
    files: SessionFiles, scan: tuple[str, Volume] | None, brain: Volume
) -> Array | None:
    """Reads the true FLAIR of a session; a raw one is registered onto a prepared scan first.

    Args:
      files: session of the source data set.
      scan: sequence and image of a prepared scan on the grid of the synthetic FLAIR, if the source
        is raw; None if the source is prepared, its images on that grid already.
      brain: brain on that grid, 0 or 1, in RAS order.

    Returns:
      float32[x, y, z] on the grid of `brain`, zero where the true FLAIR was not scanned; None if
      the session has none.

    Raises:
      InputError: the FLAIR cannot be used, or is a synthetic one.
      GeometryError: the grids of prepared images differ.
    """
    image = files.image_of(TARGET)
    if image is None:
        return None
    paths = {TARGET: image.path}
    refuse_or_warn(check_provenance(paths, truth=True), paths)
    if scan is None:
        return read_onto(image.path, "synthetic FLAIR", brain.geometry, "predict it again")
    sequence, volume = scan
    volumes = {sequence: volume, TARGET: read_volume(image.path)}
    mask = Volume(brain.array.astype(np.float32), brain.geometry)
    try:
        prepared = prepare_session(volumes, Preparation(reference=sequence), brain=mask)
    except InputError as error:
        raise InputError(f"{image.path}: {error}") from None
    return prepared.images[TARGET]
