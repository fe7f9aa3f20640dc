"""Comparison of rule-based lesion segmentations of the true and of every synthetic FLAIR.

The rule's parameters are chosen for each fold on the true FLAIRs of its training subjects, if there
are enough of them. Independent of networks and tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flaxflair.core.records import Array, Subject
from flaxflair.evaluation import lesion_segmentation, metrics
from flaxflair.evaluation.lesion_segmentation import Case, SegmentationConfig
from flaxflair.evaluation.scoring import Row
from flaxflair.paper.outcomes import true_flair

# Values tried for each parameter of the rule.
GRID: Mapping[str, Sequence[float]] = {
    "seed": (1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
    "white": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "relief": (0.0, 0.05, 0.1, 0.125, 0.15, 0.2),
    "edge": (0.35, 0.45, 0.55, 0.65),
}
TRUTH = "truth"
# With fewer training subjects the defaults are used. With parameters chosen on one patient with
# 1.3 mL of lesions, Dice was 0.20 on another with 50 mL; with the defaults it was 0.71.
FEWEST = 4


class LesionSegmentation(NamedTuple):
    """Lesion segmentation of one fold: parameters and scores.

    Attributes:
      config: parameters chosen on the training subjects.
      rows: method (or `truth`, the true FLAIR) -> subject -> scores. `agreement` is the Dice of the
        lesions found in the synthetic and in the true FLAIR, the paper's figure; `dice`, `recall`,
        `false_positives` and `volume_bias` compare with the true mask.
    """

    config: SegmentationConfig
    rows: Mapping[str, Mapping[str, Row]]


def segment_subject(subject: Subject, flair: Array, config: SegmentationConfig) -> Array:
    """Returns the lesions of a subject in a true or a synthetic FLAIR, bool[x, y, z]."""
    t1 = subject.images[..., subject.sequences.index("T1")]
    size = subject.geometry.voxel_size
    return lesion_segmentation.segment(flair, t1, subject.masks.brain, size, config)


def segment_fold(
    training: Sequence[Subject],
    heldout: Sequence[Subject],
    flairs: Mapping[str, Callable[[Subject], Array]],
) -> LesionSegmentation:
    """Chooses parameters on training subjects and segments the held-out ones.

    Args:
      training: subjects with FLAIR, T1 and lesion mask; those without a mask are ignored, and if
        fewer than `FEWEST` remain, the defaults are used.
      heldout: with FLAIR and T1.
      flairs: method -> subject -> its synthetic FLAIR.
    """
    cases = [
        Case(
            true_flair(subject),
            subject.images[..., subject.sequences.index("T1")],
            subject.masks.brain,
            subject.geometry.voxel_size,
            subject.masks.lesion,
        )
        for subject in training
        if subject.masks.lesion is not None
    ]
    config = lesion_segmentation.tune(cases, GRID) if len(cases) >= FEWEST else SegmentationConfig()
    rows: dict[str, dict[str, Row]] = {TRUTH: {}, **{method: {} for method in flairs}}
    for subject in heldout:
        true = segment_subject(subject, true_flair(subject), config)
        rows[TRUTH][subject.name] = _score(subject, true)
        for method, read in flairs.items():
            found = segment_subject(subject, read(subject), config)
            agreement = {"agreement": metrics.dice(found, true)}
            rows[method][subject.name] = agreement | _score(subject, found)
    return LesionSegmentation(config, rows)


def _score(subject: Subject, found: Array) -> Row:
    if subject.masks.lesion is None:
        return {}
    scores = metrics.lesion_scores(found, subject.masks.lesion)._asdict()
    return {name: float(value) for name, value in scores.items()}


def choose_examples(rows: Mapping[str, Row]) -> tuple[str, str]:
    """Returns the subjects of the highest and of the lowest agreement.

    Args:
      rows: subject -> scores of one method.
    """
    known = {name: row["agreement"] for name, row in rows.items() if row["agreement"] >= 0}
    return max(known, key=known.__getitem__), min(known, key=known.__getitem__)
