"""The phantom: simulated multiple-sclerosis MRI, written as a BIDS data set like any other.

    anatomy     an individual head, as tissue fractions, from the ICBM152 template
    lesions     where multiple sclerosis strikes, and how
    relaxation  tissues at 3 T, and the signal equations
    scanner     grids, motion, bias, averaging, noise
    simulate    one subject, joined from these
    dataset     files
    fields      random fields and seeded streams
    rigid       rotations and shifts

Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

Layout = Literal["raw", "prepared"]


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
      InputError: `out` is not empty, or a number makes no sense.
    """
    from flaxflair.phantom.dataset import write_dataset

    write_dataset(
        Path(out),
        subjects=subjects,
        healthy=healthy,
        seed=seed,
        layout=layout,
        scale=scale,
        on_subject=on_subject or (lambda index: None),
    )
