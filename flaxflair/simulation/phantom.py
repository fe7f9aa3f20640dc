"""The phantom: simulated multiple-sclerosis MRI, written as a BIDS data set like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flaxflair.simulation.dataset import Layout, alone, write_dataset


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
    """Writes a phantom data set: six sequences a subject, and the truth as a derivative.

    The data set appears under its name only when it is complete. Equal arguments give equal bytes,
    and subject k is the same person whatever the number of subjects, the layout or the scale.

    Args:
      out: folder to make; must be missing or empty.
      subjects: how many, patients and healthy.
      healthy: how many of them, the last ones, are healthy.
      seed: of everything random.
      layout: `raw`, each sequence on its own grid as a scanner leaves it; or `prepared`, all on the
        FLAIR's grid as a good preprocessing leaves them.
      scale: 1 is the paper's 208×256×40 voxels of 0.9×0.9×3 mm; less gives fewer, larger voxels
        over the same field of view, 0.25 gives 52×64×33 of 3.6 mm.
      on_subject: called with the index of each subject that is written, not always in order.

    Raises:
      InputError: `out` is not empty, another process makes it, or a number makes no sense.
    """
    with alone(Path(out)) as place:
        write_dataset(
            place,
            subjects=subjects,
            healthy=healthy,
            seed=seed,
            layout=layout,
            scale=scale,
            on_subject=on_subject or (lambda index: None),
        )
