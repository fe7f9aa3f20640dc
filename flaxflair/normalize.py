"""Normalisation: intensities to z-scores and back, and to zero outside the brain.

Knows nothing of files or networks.

`normalize` and `denormalize` undo each other for one `Stats`. A `Normalization` says where the
statistics come from: `dataset`, pooled over many images as they are (the paper), or `brain`, pooled
after each image was divided by its own mean in the brain.
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


def normalize(image: Array, stats: Stats) -> Array:
    """Returns z-scores, float32, of an image whose last axis is the channel."""
    mean, std = _float32(stats)
    return ((image - mean) / std).astype(np.float32)


def denormalize(image: Array, stats: Stats) -> Array:
    """Undoes `normalize`."""
    mean, std = _float32(stats)
    own = image * std
    own += mean  # in place: an image may be most of the memory there is
    return own.astype(np.float32, copy=False)


def zero_outside(brain: Array, image: Array) -> Array:
    """Returns an image, [x, y, z] or [x, y, z, m], that is zero where `brain` is False."""
    region = brain if image.ndim == brain.ndim else brain[..., None]
    return np.where(region, image, image.dtype.type(0))


@dataclass(frozen=True)
class Normalization:
    """What was learnt from the training subjects about intensities; stored with a model.

    Attributes:
      images: statistics of the input sequences.
      flair: statistics of the FLAIR.
      gain: None if the statistics are of intensities. Else they are of intensities relative to each
        image's mean in the brain, and this is the FLAIR's mean relative to the inputs' `level`.
    """

    images: Stats
    flair: Stats
    gain: float | None = None


def fit(subjects: Sequence[Subject], method: str) -> Normalization:
    """Learns a normalisation from subjects with a FLAIR.

    Args:
      subjects: of the training folds.
      method: `dataset`, a z-score per sequence over all voxels of all images (the paper), or
        `brain`, the same after each image was divided by its mean in the brain. What a synthetic
        FLAIR is worth in intensities is then taken from the inputs, since much of a receiver's gain
        is common to the sequences of a session.

    Raises:
      InputError: a subject has no FLAIR, or a mean that cannot be divided by.
    """
    if method == "dataset":
        flairs = (_flair(subject)[..., None] for subject in subjects)
        return Normalization(pool(subject.images for subject in subjects), pool(flairs))
    pairs = [(_flair(subject)[..., None], subject.masks.brain) for subject in subjects]
    gains = [
        float(_means(flair, brain)[0]) / level(subject.images, brain)
        for subject, (flair, brain) in zip(subjects, pairs, strict=True)
    ]
    return Normalization(
        pool(_relative(subject.images, subject.masks.brain) for subject in subjects),
        pool(_relative(flair, brain) for flair, brain in pairs),
        float(np.mean(gains)),
    )


def level(images: Array, brain: Array) -> float:
    """Returns how bright a session is: the geometric mean of its sequences' means in the brain.

    Raises:
      InputError: a mean is not positive, as after a z-score.
    """
    return float(np.exp(np.log(_means(images, brain)).mean()))


def encode_images(normalization: Normalization, images: Array, brain: Array) -> Array:
    """Returns the z-scores of input sequences, x y z m -> x y z m; `brain` is bool[x, y, z]."""
    return normalize(images, image_stats(normalization, images, brain))


def image_stats(normalization: Normalization, images: Array, brain: Array) -> Stats:
    """Returns the mean and SD that make z-scores of one session's inputs, or of any part of them.

    Args:
      normalization: of the model.
      images: [x, y, z, m], the whole session.
      brain: bool[x, y, z].
    """
    if normalization.gain is None:
        return normalization.images
    means = _means(images, brain)
    return _stats(means * normalization.images.mean, means * normalization.images.std)


def encode_flair(normalization: Normalization, flair: Array, brain: Array) -> Array:
    """Returns the z-scores of a FLAIR, x y z -> x y z: what a network is trained towards."""
    own = flair[..., None]
    own = own if normalization.gain is None else _relative(own, brain)
    return normalize(own, normalization.flair)[..., 0]


def decode_flair(normalization: Normalization, flair: Array, images: Array, brain: Array) -> Array:
    """Returns the intensities of a predicted FLAIR in z-scores, x y z -> x y z.

    Args:
      normalization: of the model.
      flair: [x, y, z], predicted.
      images: [x, y, z, m], the inputs' intensities, which tell the session's level.
      brain: bool[x, y, z].
    """
    decoded = denormalize(flair[..., None], normalization.flair)
    if normalization.gain is None:
        return decoded[..., 0]
    # What is relative to its own mean has a mean of one. A network that learnt from a brain with
    # more fluid, whose tissue lies higher above the mean, is so brought back to this brain.
    scale = np.float32(normalization.gain * level(images, brain))
    return _relative(decoded, brain)[..., 0] * scale


def _relative(images: Array, brain: Array) -> Array:
    return images / _means(images, brain).astype(np.float32)


def _means(images: Array, brain: Array) -> Array:
    """Returns each channel's mean in the brain."""
    means = images[brain].mean(axis=0, dtype=np.float64)
    if not (means > 0).all():
        raise InputError(
            "an image has a mean in the brain that is not positive; give intensities as scanned"
        )
    return means


def _flair(subject: Subject) -> Array:
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR to learn from")
    return subject.flair


def _float32(stats: Stats) -> tuple[Array, Array]:
    return np.asarray(stats.mean, np.float32), np.asarray(stats.std, np.float32)


def _stats(mean: Array, std: Array) -> Stats:
    return Stats(tuple(float(v) for v in mean), tuple(float(v) for v in std))
