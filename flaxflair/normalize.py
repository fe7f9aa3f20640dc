"""Normalisation: intensities to z-scores and back. Knows nothing of files or networks.

`normalize` and `denormalize` undo each other for one `Stats`. A `Normalization` says where the
statistics come from: `dataset`, one scale pooled over many images (the paper), or `brain`, every
subject's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flaxflair.volume import Array, InputError, Subject


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation of each channel.

    Attributes:
      mean: one value a channel, in the images' own units.
      std: likewise, above zero.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(np.isfinite(self.mean)) or not all(s > 0 for s in self.std):
            raise ValueError(f"unusable statistics: mean {self.mean}, SD {self.std}")


def pool(images: Iterable[Array]) -> Stats:
    """Returns statistics over all voxels of all images (Wei et al. 2019, section 2.3).

    Args:
      images: arrays [..., m], as many as wanted; seen one at a time.
    """
    count, total, square = 0, np.zeros(()), np.zeros(())
    for image in images:
        voxels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        # Merging means and squared deviations, not raw squares, keeps the digits of large offsets.
        size, mean = len(voxels), voxels.mean(axis=0)
        shift = mean - total
        square = square + voxels.var(axis=0) * size + shift**2 * count * size / (count + size)
        total = total + shift * size / (count + size)
        count += size
    if count == 0:
        raise ValueError("statistics of no image")
    return _stats(total, np.sqrt(square / count))


def stats_within(image: Array, region: Array) -> Stats:
    """Returns the statistics of one image [x, y, z, m] within a region bool[x, y, z]."""
    voxels = image[region].astype(np.float64)
    return _stats(voxels.mean(axis=0), voxels.std(axis=0))


def average(stats: Iterable[Stats]) -> Stats:
    """Returns the mean of several subjects' means, and of their standard deviations."""
    listed = list(stats)
    mean = np.mean([s.mean for s in listed], axis=0)
    return _stats(mean, np.mean([s.std for s in listed], axis=0))


def normalize(image: Array, stats: Stats) -> Array:
    """Returns z-scores, float32, of an image whose last axis is the channel."""
    mean, std = _float32(stats)
    return ((image - mean) / std).astype(np.float32)


def denormalize(image: Array, stats: Stats) -> Array:
    """Undoes `normalize`."""
    mean, std = _float32(stats)
    return (image * std + mean).astype(np.float32)


@dataclass(frozen=True)
class Normalization:
    """What was learnt from the training subjects about intensities; stored with a model.

    Attributes:
      images: statistics of the input sequences; None where every subject has its own.
      flair: statistics of the FLAIR; where every subject has its own, relative to `level`.
    """

    images: Stats | None
    flair: Stats


def fit(subjects: Sequence[Subject], method: str) -> Normalization:
    """Learns a normalisation from subjects with a FLAIR.

    Args:
      subjects: of the training folds.
      method: `dataset`, a z-score per sequence over all voxels of all images, or `brain`, a z-score
        per sequence and subject within the brain. What a z-score of the FLAIR is worth in
        intensities is then taken from the inputs: a receiver's gain is common to the sequences of a
        session, so the FLAIR's statistics are learnt, and used, relative to the inputs' `level`.

    Raises:
      InputError: a subject has no FLAIR, or no level.
    """
    if method == "brain":
        relative = []
        for subject in subjects:
            own = stats_within(_flair(subject)[..., None], subject.masks.brain)
            scale = 1 / level(subject.images, subject.masks.brain)
            relative.append(_scaled(own, scale))
        return Normalization(None, average(relative))
    flairs = (_flair(subject)[..., None] for subject in subjects)
    return Normalization(pool(subject.images for subject in subjects), pool(flairs))


def level(images: Array, brain: Array) -> float:
    """Returns how bright a session is: the geometric mean of its sequences' means in the brain.

    Raises:
      InputError: a mean is not positive, as after a z-score.
    """
    means = images[brain].mean(axis=0, dtype=np.float64)
    if not (means > 0).all():
        raise InputError(
            "a sequence has a brain mean that is not positive; give intensities as scanned"
        )
    return float(np.exp(np.log(means).mean()))


def encode_images(normalization: Normalization, images: Array, brain: Array) -> Array:
    """Returns the z-scores of input sequences, x y z m -> x y z m; `brain` is bool[x, y, z]."""
    return normalize(images, normalization.images or stats_within(images, brain))


def encode_flair(normalization: Normalization, flair: Array, brain: Array) -> Array:
    """Returns the z-scores of a FLAIR, x y z -> x y z: what a network is trained towards."""
    own = normalization.images is None
    stats = stats_within(flair[..., None], brain) if own else normalization.flair
    return normalize(flair[..., None], stats)[..., 0]


def decode_flair(normalization: Normalization, flair: Array, images: Array, brain: Array) -> Array:
    """Returns the intensities of a predicted FLAIR in z-scores, x y z -> x y z.

    Args:
      normalization: of the model.
      flair: [x, y, z], predicted.
      images: [x, y, z, m], the inputs' intensities, which tell the session's level.
      brain: bool[x, y, z].
    """
    own = normalization.images is None
    stats = _scaled(normalization.flair, level(images, brain)) if own else normalization.flair
    return denormalize(flair[..., None], stats)[..., 0]


def _scaled(stats: Stats, factor: float) -> Stats:
    return Stats(tuple(factor * v for v in stats.mean), tuple(factor * v for v in stats.std))


def _flair(subject: Subject) -> Array:
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR to learn from")
    return subject.flair


def _float32(stats: Stats) -> tuple[Array, Array]:
    return np.asarray(stats.mean, np.float32), np.asarray(stats.std, np.float32)


def _stats(mean: Array, std: Array) -> Stats:
    return Stats(tuple(float(v) for v in mean), tuple(float(v) for v in std))
