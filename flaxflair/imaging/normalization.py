"""Normalisation: intensities to z-scores and back, and to zero outside the brain.

Knows nothing of files or networks.

`normalize` and `denormalize` undo each other for one `Stats`. A `Normalization` says where the
statistics come from: `dataset`, pooled over many images as they are (the paper), or pooled after
each image was brought into line by anchors of its own (see `landmarks`), or by the levels of its
tissues, which are found in all input sequences of a session together (see `tissue_levels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from flaxflair.core.records import Array, InputError, Subject
from flaxflair.core.sequences import TARGET
from flaxflair.imaging import tissue_levels
from flaxflair.imaging.landmarks import ANCHORS, bend


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
        # As they are applied: a value may be finite, or above zero, and not so in float32.
        with np.errstate(over="ignore", under="ignore"):
            mean, std = _float32(self)
        usable = np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()
        if not usable or mean.shape != std.shape:
            raise InputError(f"unusable statistics: mean {self.mean}, SD {self.std}")


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
      method: one of `METHODS`.
      places: where each channel's anchors belong, m + 1 rows of k; the last is the FLAIR's. Empty
        for `dataset`; with `tissue`, k differs among sequences.
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


def expect_consistent(normalization: Normalization, channels: int) -> None:
    """Refuses a normalisation that cannot be applied to images of a number of sequences.

    Raises:
      InputError: the message says what does not fit.
    """
    images, flair = normalization.images, normalization.flair
    if (len(images.mean), len(flair.mean)) != (channels, 1):
        raise InputError(
            f"normalization: statistics of {len(images.mean)} images and {len(flair.mean)} FLAIRs; "
            f"{channels} and 1 are needed"
        )
    rows = [*normalization.places, normalization.gain]
    if normalization.method == "dataset":
        if any(rows):
            raise InputError("normalization: 'dataset' has neither places nor a gain")
        return
    counts = _count_anchors(normalization.method)
    if len(rows) != channels + 2 or any(len(row) not in counts for row in rows):
        raise InputError(
            f"normalization: {normalization.method!r} needs {channels + 1} places and a gain of "
            f"{' or '.join(map(str, counts))} values each"
        )
    if len(rows[-1]) != len(rows[-2]):
        raise InputError("normalization: the gain has as many values as the FLAIR's places")
    if not all(np.isfinite(row).all() and (np.diff(row) > 0).all() for row in rows):
        raise InputError("normalization: places and gain are finite numbers that rise")


def _count_anchors(method: str) -> list[int]:
    """Returns how many anchors a sequence can have."""
    if method == "tissue":
        return sorted({len(tissue_levels.standard_landmarks(n)) for n in tissue_levels.STANDARD})
    return [len(ANCHORS[method](np.arange(1000.0)))]


METHODS = ("dataset", *ANCHORS, "tissue")

# Anchors of these are a scale alone; what is predicted in their units can be held to it.
_SCALES = ("brain", "white")

Encoder = Callable[[Array], Array]


def fit(subjects: Sequence[Subject], method: str) -> Normalization:
    """Learns a normalisation from subjects with a FLAIR.

    With `dataset`, a z-score per sequence is over all voxels of all images (the paper). Else each
    image is first brought into line by its own anchors, which go where the training subjects'
    anchors lie on average, relative to each image's mean in the brain; with `tissue`, to the
    standard levels of each sequence, whoever was trained on. What a synthetic FLAIR is worth in
    intensities is then taken from the inputs, since much of a receiver's gain is common to the
    sequences of a session.

    Args:
      subjects: of the training folds.
      method: one of `METHODS`.

    Raises:
      InputError: a subject has no FLAIR, or a mean that cannot be divided by.
    """
    if method == "dataset":
        flairs = (_flair(subject)[..., None] for subject in subjects)
        return Normalization(pool(subject.images for subject in subjects), pool(flairs))
    anchors, places, gains = [], [], []
    for subject in subjects:
        brain, flair = subject.masks.brain, _flair(subject)[..., None]
        with _named(subject.name):
            inputs = find_anchors(method, subject.images, brain, subject.sequences)
            target = find_anchors(method, flair, brain, (TARGET,))
            means = [_means(image, brain) for image in (subject.images, flair)]
            gains.append(target[0] / level(subject.images, brain))
        anchors.append((inputs, target))
        own = zip([*inputs, *target], np.concatenate(means), strict=True)
        places.append([row / mean for row, mean in own])
    if method == "tissue":
        names = (*subjects[0].sequences, TARGET)
        where = [tissue_levels.standard_landmarks(name) for name in names]
    else:
        where = [np.mean(rows, axis=0) for rows in zip(*places, strict=True)]
    return Normalization(
        pool(_bend(s.images, a[0], where[:-1]) for s, a in zip(subjects, anchors, strict=True)),
        pool(
            _bend(_flair(s)[..., None], a[1], where[-1:])
            for s, a in zip(subjects, anchors, strict=True)
        ),
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


def find_anchors(
    method: str, images: Array, brain: Array, sequences: Sequence[str] = ()
) -> list[Array]:
    """Returns the anchors of each channel, float64[k] each, rising.

    Args:
      method: one of `METHODS` but `dataset`.
      images: [x, y, z, m].
      brain: bool[x, y, z].
      sequences: names of the m channels; needed by `tissue` alone.

    Raises:
      InputError: an image is too flat for two of its anchors to differ.
    """
    if method == "tissue":
        found = tissue_levels.fit_tissue_levels(images, sequences, brain)
        return [tissue_levels.landmarks(found[name], name) for name in sequences]
    inside = images[brain]
    anchors = [ANCHORS[method](inside[:, m]) for m in range(images.shape[-1])]
    for own in anchors:
        if (np.diff(own) <= 0).any():
            shown = ", ".join(f"{value:.4g}" for value in own)
            raise InputError(
                f"an image cannot be normalised by {method!r}, whose marks in the brain, {shown}, "
                "do not rise; give intensities as scanned"
            )
    return anchors


def encode_images(
    normalization: Normalization, images: Array, brain: Array, sequences: Sequence[str] = ()
) -> Array:
    """Returns the z-scores of input sequences, x y z m -> x y z m; see `make_encoder`."""
    return make_encoder(normalization, images, brain, sequences)(images)


def make_encoder(
    normalization: Normalization, images: Array, brain: Array, sequences: Sequence[str] = ()
) -> Encoder:
    """Returns what makes z-scores of one session's inputs, or of any part of them.

    Args:
      normalization: of the model.
      images: [x, y, z, m], the whole session.
      brain: bool[x, y, z]; of no effect on `dataset`.
      sequences: names of the m channels; needed by `tissue` alone.

    Raises:
      InputError: see `find_anchors`.
    """
    if normalization.method == "dataset":
        return partial(normalize, stats=normalization.images)
    own = find_anchors(normalization.method, images, brain, sequences)
    return _encoder(normalization.images, own, normalization.places[:-1])


def relative_levels(normalization: Normalization, encoded: Array) -> Array:
    """Returns how bright each input is against those that a model was trained on.

    The ratio of the root mean squares of intensities, all voxels taken together as `dataset` takes
    them; 1 for every other method, which brings each session to the level of the training.

    Args:
      normalization: of the model.
      encoded: [x, y, z, m], from `encode_images`, zeroed outside the brain if the model does so.

    Returns:
      float64[m].
    """
    if normalization.method != "dataset":
        return np.ones(encoded.shape[-1])
    mean, std = np.array(normalization.images.mean), np.array(normalization.images.std)
    count = np.prod(encoded.shape[:-1])
    first = encoded.sum(axis=(0, 1, 2), dtype=np.float64) / count
    second = np.einsum("xyzm,xyzm->m", encoded, encoded, dtype=np.float64) / count
    own = std**2 * second + 2 * std * mean * first + mean**2
    return np.sqrt(np.maximum(own, 0) / (mean**2 + std**2))


def encode_flair(normalization: Normalization, flair: Array, brain: Array) -> Array:
    """Returns the z-scores of a FLAIR, x y z -> x y z: what a network is trained towards."""
    own = flair[..., None]
    if normalization.method == "dataset":
        return normalize(own, normalization.flair)[..., 0]
    anchors = find_anchors(normalization.method, own, brain, (TARGET,))
    return _encoder(normalization.flair, anchors, normalization.places[-1:])(own)[..., 0]


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
    own = [np.array(normalization.gain) * level(images, brain)]
    places: Sequence[ArrayLike] = normalization.places[-1:]
    if normalization.method in _SCALES:
        # A network that learnt from a brain with more fluid, whose tissue lies higher above the
        # mean, is so brought back to this brain.
        places = find_anchors(normalization.method, decoded, brain)
    return _bend(decoded, places, own)[..., 0]


def _encoder(stats: Stats, own: Sequence[Array], places: Sequence[ArrayLike]) -> Encoder:
    if any(len(row) > 2 for row in own):
        return lambda part: normalize(_bend(part, own, places), stats)
    # Two anchors are a line, and a line and a z-score are one line.
    first, where = np.array(own), np.array(places)
    slope = (first[:, 1] - first[:, 0]) / (where[:, 1] - where[:, 0])
    mean = first[:, 0] + (stats.mean - where[:, 0]) * slope
    return partial(normalize, stats=_stats(mean, slope * stats.std))


def _bend(images: Array, own: Sequence[ArrayLike], places: Sequence[ArrayLike]) -> Array:
    """Brings every channel into line, x y z m -> x y z m."""
    rows = enumerate(zip(own, places, strict=True))
    bent = [bend(images[..., m], np.array(a), np.array(b)) for m, (a, b) in rows]
    return np.stack(bent, axis=-1)


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
