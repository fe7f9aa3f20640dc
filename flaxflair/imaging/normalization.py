"""Normalisation: intensities to z-scores and back, and to zero outside the brain.

Knows nothing of files or networks.

`normalize` and `denormalize` undo each other for one `Stats`. A `Normalization` says where the
statistics come from: `dataset`, pooled over many images as they are (the paper), or pooled after
each image was brought into line by anchors of its own (see `anchors`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from flaxflair.anchors import ANCHORS, bend
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
      images: statistics of the input sequences, in line.
      flair: statistics of the FLAIR, in line.
      method: `dataset`, or a key of `anchors.ANCHORS`.
      places: where each channel's anchors belong, m + 1 rows of k; the last is the FLAIR's. Empty
        for `dataset`.
      gain: anchors of the FLAIR relative to the inputs' `level`, k values. Empty for `dataset`.
    """

    images: Stats
    flair: Stats
    method: str = "dataset"
    places: tuple[tuple[float, ...], ...] = ()
    gain: tuple[float, ...] = ()

    @property
    def needs_brain(self) -> bool:
        """Whether a brain mask is needed to use it."""
        return self.method != "dataset"


# Anchors of these are a scale alone; what is predicted in their units can be held to it.
_SCALES = ("brain", "white")

Encoder = Callable[[Array], Array]


def fit(subjects: Sequence[Subject], method: str) -> Normalization:
    """Learns a normalisation from subjects with a FLAIR.

    With `dataset`, a z-score per sequence is over all voxels of all images (the paper). Else each
    image is first brought into line by its own anchors, which go where the training subjects'
    anchors lie on average, relative to each image's mean in the brain. What a synthetic FLAIR is
    worth in intensities is then taken from the inputs, since much of a receiver's gain is common to
    the sequences of a session.

    Args:
      subjects: of the training folds.
      method: `dataset`, or a key of `anchors.ANCHORS`.

    Raises:
      InputError: a subject has no FLAIR, or a mean that cannot be divided by.
    """
    if method == "dataset":
        flairs = (_flair(subject)[..., None] for subject in subjects)
        return Normalization(pool(subject.images for subject in subjects), pool(flairs))
    places, gains = [], []
    for subject in subjects:
        brain, flair = subject.masks.brain, _flair(subject)[..., None]
        with _named(subject.name):
            own = [find_anchors(method, image, brain) for image in (subject.images, flair)]
            means = [_means(image, brain) for image in (subject.images, flair)]
            gains.append(own[1][0] / level(subject.images, brain))
        places.append(np.concatenate(own) / np.concatenate(means)[:, None])
    where = np.mean(places, axis=0)

    def in_line(image: Array, brain: Array, where: Array) -> Array:
        return _bend(image, find_anchors(method, image, brain), where)

    inputs, target = where[:-1], where[-1:]
    return Normalization(
        pool(in_line(s.images, s.masks.brain, inputs) for s in subjects),
        pool(in_line(_flair(s)[..., None], s.masks.brain, target) for s in subjects),
        method,
        tuple(tuple(float(v) for v in row) for row in where),
        tuple(float(v) for v in np.mean(gains, axis=0)),
    )


def level(images: Array, brain: Array) -> float:
    """Returns how bright a session is: the geometric mean of its sequences' means in the brain.

    Raises:
      InputError: a mean is not positive, as after a z-score.
    """
    return float(np.exp(np.log(_means(images, brain)).mean()))


def find_anchors(method: str, images: Array, brain: Array) -> Array:
    """Returns the anchors of each channel, float64[m, k], rising.

    Args:
      method: a key of `anchors.ANCHORS`.
      images: [x, y, z, m].
      brain: bool[x, y, z].

    Raises:
      InputError: an image is too flat for two of its anchors to differ.
    """
    inside = images[brain]
    own = np.stack([ANCHORS[method](inside[:, m]) for m in range(images.shape[-1])])
    if (np.diff(own, axis=1) <= 0).any():
        channel = int(np.argmin(np.diff(own, axis=1).min(axis=1)))
        shown = ", ".join(f"{value:.4g}" for value in own[channel])
        raise InputError(
            f"an image cannot be normalised by {method!r}, whose marks in the brain, {shown}, do "
            "not rise; give intensities as scanned"
        )
    return own


def encode_images(normalization: Normalization, images: Array, brain: Array) -> Array:
    """Returns the z-scores of input sequences, x y z m -> x y z m; `brain` is bool[x, y, z]."""
    return make_encoder(normalization, images, brain)(images)


def make_encoder(normalization: Normalization, images: Array, brain: Array) -> Encoder:
    """Returns what makes z-scores of one session's inputs, or of any part of them.

    Args:
      normalization: of the model.
      images: [x, y, z, m], the whole session.
      brain: bool[x, y, z]; of no effect on `dataset`.

    Raises:
      InputError: see `find_anchors`.
    """
    places = np.array(normalization.places[:-1])
    return _encoder(normalization.images, normalization.method, places, images, brain)


def encode_flair(normalization: Normalization, flair: Array, brain: Array) -> Array:
    """Returns the z-scores of a FLAIR, x y z -> x y z: what a network is trained towards."""
    own, places = flair[..., None], np.array(normalization.places[-1:])
    encode = _encoder(normalization.flair, normalization.method, places, own, brain)
    return encode(own)[..., 0]


def decode_flair(normalization: Normalization, flair: Array, images: Array, brain: Array) -> Array:
    """Returns the intensities of a predicted FLAIR in z-scores, x y z -> x y z.

    Args:
      normalization: of the model.
      flair: [x, y, z], predicted.
      images: [x, y, z, m], the inputs' intensities, which tell the session's level.
      brain: bool[x, y, z].
    """
    decoded = denormalize(flair[..., None], normalization.flair)
    if normalization.method == "dataset":
        return decoded[..., 0]
    own = np.array([normalization.gain]) * level(images, brain)
    places = np.array(normalization.places[-1:])
    if normalization.method in _SCALES:
        # A network that learnt from a brain with more fluid, whose tissue lies higher above the
        # mean, is so brought back to this brain.
        places = find_anchors(normalization.method, decoded, brain)
    return _bend(decoded, places, own)[..., 0]


def _encoder(stats: Stats, method: str, places: Array, images: Array, brain: Array) -> Encoder:
    if method == "dataset":
        return partial(normalize, stats=stats)
    own = find_anchors(method, images, brain)
    if own.shape[1] > 2:
        return lambda part: normalize(_bend(part, own, places), stats)
    # Two anchors are a line, and a line and a z-score are one line.
    slope = (own[:, 1] - own[:, 0]) / (places[:, 1] - places[:, 0])
    mean = own[:, 0] + (stats.mean - places[:, 0]) * slope
    return partial(normalize, stats=_stats(mean, slope * stats.std))


def _bend(images: Array, own: Array, places: Array) -> Array:
    """Brings every channel into line, x y z m -> x y z m."""
    channels = range(images.shape[-1])
    return np.stack([bend(images[..., m], own[m], places[m]) for m in channels], axis=-1)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


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
