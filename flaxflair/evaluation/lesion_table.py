"""Table of the lesions of a session, as rows of text, with a description of each column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flaxflair.evaluation.lesion_evidence import DETECTION, DetectionConfig, Lesion
from flaxflair.imaging.brain_places import FLUID, MIDLINE

MISSING = "n/a"  # of BIDS


def describe_columns(
    sequences: Sequence[str], config: DetectionConfig = DETECTION
) -> dict[str, Mapping[str, Any]]:
    """Returns column -> its description, in the order of the table, as in BIDS.

    Args:
      sequences: inputs of the session; a column for each if there are several.
      config: parameters of the detection.
    """
    low, high = config.interval
    centre = "coordinate of the lesion's voxel nearest to its centroid, in the image's world (RAS+)"
    columns: dict[str, Mapping[str, Any]] = {
        "index": {"Description": "number of the lesion, by decreasing volume"},
        **{axis: {"Description": centre, "Units": "mm"} for axis in ("x", "y", "z")},
        "side": {
            "Description": f"side of that voxel; midline: within {MIDLINE:g} mm of the plane "
            "fitted to the middle of the brain mask",
            "Levels": {name: name for name in ("left", "right", "midline")},
        },
        "depth": {
            "Description": "depth of that voxel below the surface of the brain mask",
            "Units": "mm",
        },
        "fluid_distance": {
            "Description": "distance of the lesion's nearest voxel to fluid, ventricular or not: "
            f"synthetic FLAIR below {FLUID:g} of white matter",
            "Units": "mm",
        },
        "volume": {
            "Description": f"volume at a lesion probability of at least {config.threshold:g}",
            "Units": "mm^3",
        },
        "volume_low": {"Description": f"volume at {high:g}", "Units": "mm^3"},
        "volume_high": {
            "Description": f"volume at {low:g}, each voxel counted for the nearest lesion",
            "Units": "mm^3",
        },
        "contrast": {"Description": "mean of the synthetic FLAIR over its white-matter level"},
        "probability_mean": {"Description": "mean lesion probability in the lesion"},
        "probability_max": {"Description": "maximum lesion probability in the lesion"},
    }
    for name in sequences if len(sequences) > 1 else ():
        columns[f"without_{name}"] = {
            "Description": "mean lesion probability in the same voxels, predicted without the "
            f"{name}"
        }
    return columns


def lesion_rows(lesions: Sequence[Lesion], sequences: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the cells of each lesion, in the order of `describe_columns`."""
    for lesion in lesions:
        yield (
            str(lesion.number),
            *(f"{mm:.1f}" for mm in lesion.position),
            lesion.side,
            *(_finite(mm, 1) for mm in (lesion.depth, lesion.to_fluid)),
            *(f"{volume:.1f}" for volume in (lesion.volume, *lesion.volume_interval)),
            *(f"{value:.3f}" for value in (lesion.contrast, lesion.mean, lesion.peak)),
            *(
                _finite(lesion.without.get(name, np.nan), 3)
                for name in (sequences if len(sequences) > 1 else ())
            ),
        )


def _finite(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else MISSING
