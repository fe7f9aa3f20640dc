"""The phantom: simulated multiple-sclerosis MRI, written as a BIDS data set like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flaxflair.simulation.dataset import Layout, lock_dataset, write_dataset


def write_phantom(
    out: Path,
    *,
    subjects: int = 24,
    healthy: int = 4,
    seed: int = 0,
    layout: Layout = "prepared",
    scale: float = 1.0,
    on_subject: Callable[[int], None] | None = None,
) -> None:
    """Writes a phantom data set: six sequences per subject, and the truth as a derivative.

    The folder is created only when the data set is complete. Equal arguments give equal bytes, and
    subject k does not depend on the number of subjects, the layout or the scale.

    Args:
      out: folder to create; must be missing or empty.
      subjects: number of subjects, patients and healthy.
      healthy: number of healthy subjects, which are the last ones.
      seed: seed of all random streams.
      layout: `raw`, each sequence on the grid of its acquisition; or `prepared`, all on the FLAIR's
        grid after good preprocessing.
      scale: 1 is the paper's 208×256×40 voxels of 0.9×0.9×3 mm; smaller scales have fewer,
        larger voxels over the same field of view; 0.25 is 52×64×33 of 3.6 mm.
      on_subject: called with the index of each subject written, in any order.

    Raises:
      InputError: `out` is not empty, another process creates it, or a number is out of range.
    """
    with lock_dataset(Path(out)) as folder:
        write_dataset(
            folder,
            subjects=subjects,
            healthy=healthy,
            seed=seed,
            layout=layout,
            scale=scale,
            on_subject=on_subject or (lambda index: None),
        )
