"""Normalisation of intensities to z-scores and back, and masking of the background.

`normalize` and `denormalize` are inverse for one `Stats`. The statistics depend on the method of a
`Normalization`: with `dataset` they are pooled over the images as scanned (Wei et al. 2019); with
the other methods, over images whose landmarks were first mapped to standard landmarks. These are
histogram landmarks of single images (see `landmarks`) or tissue levels, estimated jointly from all
input sequences of a session (see `tissue_levels`). Independent of files and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped

from flaxflair.core.records import Array, InputError, Subject
from flaxflair.core.sequences import TARGET
from flaxflair.imaging import tissue_levels
from flaxflair.imaging.landmarks import LANDMARKS, match_landmarks
from flaxflair.imaging.moments import measure, pool


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation of each channel.

    Attributes:
      mean: one value per channel, in the units of the images.
      std: likewise, positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        # Checked in float32, in which they are applied.
        with np.errstate(over="ignore", under="ignore"):
            mean, std = _float32(self)
        usable = np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()
        if not usable or mean.shape != std.shape:
            raise InputError(f"unusable statistics: mean {self.mean}, SD {self.std}")


def normalize(image: Real[Array, "*grid m"], stats: Stats) -> Float[Array, "*grid m"]:
    """Returns z-scores, float32, of an image whose last axis is the channel."""
    mean, std = _float32(stats)
    return ((image - mean) / std).astype(np.float32)


def denormalize(image: Real[Array, "*grid m"], stats: Stats) -> Float[Array, "*grid m"]:
    """Undoes `normalize`."""
    mean, std = _float32(stats)
    intensities = image * std
    intensities += mean  # in place, since an image may take most of the memory
    return intensities.astype(np.float32, copy=False)


def zero_outside(
    brain: Bool[Array, "x y z"], image: Shaped[Array, "x y z *m"]
) -> Shaped[Array, "x y z *m"]:
    """Returns an image, [x, y, z] or [x, y, z, m], set to zero where `brain` is False."""
    region = brain if image.ndim == brain.ndim else brain[..., None]
    return np.where(region, image, image.dtype.type(0))


@dataclass(frozen=True)
class Normalization:
    """Normalisation fitted to the training subjects; stored with a model.

    Attributes:
      images: statistics of the input sequences, after matching of landmarks.
      flair: statistics of the FLAIR, likewise.
      method: one of `METHODS`.
      places: standard landmarks of each channel, m + 1 rows of k; the last row is the FLAIR's.
        Empty for `dataset`; with `tissue`, k differs among sequences. Named as in stored models.
      gain: landmarks of the FLAIR relative to the inputs' `session_level`, k values. Empty for
        `dataset`.
    """

    images: Stats
    flair: Stats
    method: str = "dataset"
    places: tuple[tuple[float, ...], ...] = ()
    gain: tuple[float, ...] = ()

    @property
    def needs_brain(self) -> bool:
        """Whether applying the normalisation needs a brain mask."""
        return self.method != "dataset"


def expect_consistent(normalization: Normalization, channels: int) -> None:
    """Checks that a normalisation can be applied to images of `channels` sequences.

    Raises:
      InputError: statistics, landmarks or gain do not fit the method or the number of sequences.
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
            raise InputError("normalization: 'places' and 'gain' must be empty for 'dataset'")
        return
    counts = _count_landmarks(normalization.method)
    if len(rows) != channels + 2 or any(len(row) not in counts for row in rows):
        raise InputError(
            f"normalization: {normalization.method!r} needs {channels + 1} 'places' and a 'gain' "
            f"of {' or '.join(map(str, counts))} values each"
        )
    if len(rows[-1]) != len(rows[-2]):
        raise InputError("normalization: 'gain' must have as many values as the last of 'places'")
    if not all(np.isfinite(row).all() and (np.diff(row) > 0).all() for row in rows):
        raise InputError(
            "normalization: 'places' and 'gain' must be finite and strictly increasing"
        )


def _count_landmarks(method: str) -> list[int]:
    """Returns the possible numbers of landmarks of a sequence."""
    if method == "tissue":
        return sorted({len(tissue_levels.standard_landmarks(n)) for n in tissue_levels.STANDARD})
    return [len(LANDMARKS[method](np.arange(1000.0)))]


METHODS = ("dataset", *LANDMARKS, "tissue")

# Methods whose landmarks are only a scale, so that a prediction can be rescaled to it.
_SCALES = ("brain", "white")

Encoder = Callable[[Array], Array]
Landmarks = Array | Sequence[float]  # k values


# Name -> part of each subject of this process; returns the parts of all subjects, in their order.
Collect = Callable[[Mapping[str, Any]], Sequence[Any]]


def fit(
    subjects: Sequence[Subject],
    method: str,
    collect: Collect = lambda parts: list(parts.values()),
) -> Normalization:
    """Fits a normalisation to subjects with a FLAIR.

    With `dataset`, z-scores are over all voxels of all images (Wei et al. 2019). With the other
    methods, the landmarks of each image are first mapped to standard landmarks: the average of the
    training subjects' landmarks relative to each image's mean in the brain or, with `tissue`, the
    standard tissue levels, which do not depend on the subjects. The intensity scale of a synthetic
    FLAIR is then derived from the inputs, since most of a receiver's gain is common to the
    sequences of a session.

    Args:
      subjects: training subjects; of several processes, those of this one, of unique names.
      method: one of `METHODS`.
      collect: exchange of a few numbers for each subject with the other processes.

    Raises:
      InputError: a subject has no FLAIR, or an image whose mean in the brain is not positive.
    """
    if method == "dataset":
        parts = {s.name: (measure(s.images), measure(_flair(s)[..., None])) for s in subjects}
        return Normalization(*_pool_pairs(collect(parts)))
    found = {subject.name: _find_both(subject, method) for subject in subjects}
    levels = collect({s.name: _relative_levels(s, *found[s.name]) for s in subjects})
    if method == "tissue":
        names = (*subjects[0].sequences, TARGET)
        standard = [tissue_levels.standard_landmarks(name) for name in names]
    else:
        standard = [np.mean(rows, axis=0) for rows in zip(*(r for r, _ in levels), strict=True)]
    matched = {
        s.name: (
            measure(_match(s.images, found[s.name][0], standard[:-1])),
            measure(_match(_flair(s)[..., None], found[s.name][1], standard[-1:])),
        )
        for s in subjects
    }
    return Normalization(
        *_pool_pairs(collect(matched)),
        method,
        tuple(tuple(float(v) for v in row) for row in standard),
        tuple(float(v) for v in np.mean([gain for _, gain in levels], axis=0)),
    )


def _pool_pairs(pairs: Sequence[Any]) -> tuple[Stats, Stats]:
    """Returns the statistics of images and FLAIRs from the moments of each subject."""
    images, flairs = zip(*pairs, strict=True) if pairs else ((), ())
    return _stats(*pool(images)), _stats(*pool(flairs))


def _find_both(subject: Subject, method: str) -> tuple[list[Array], list[Array]]:
    """Returns the landmarks of a subject's inputs, and those of its FLAIR."""
    brain, flair = subject.masks.brain, _flair(subject)[..., None]
    with _named(subject.name):
        inputs = find_landmarks(method, subject.images, brain, subject.sequences)
        return inputs, find_landmarks(method, flair, brain, (TARGET,))


def _relative_levels(
    subject: Subject, inputs: list[Array], target: list[Array]
) -> tuple[list[list[float]], list[float]]:
    """Returns landmarks relative to each image's mean in the brain, and the FLAIR's gain."""
    brain, flair = subject.masks.brain, _flair(subject)[..., None]
    with _named(subject.name):
        means = np.concatenate([_means(image, brain) for image in (subject.images, flair)])
        gain = target[0] / session_level(subject.images, brain)
    pairs = zip([*inputs, *target], means, strict=True)
    return [(row / mean).tolist() for row, mean in pairs], gain.tolist()


def session_level(images: Real[Array, "x y z m"], brain: Bool[Array, "x y z"]) -> float:
    """Returns the intensity level of a session: the geometric mean of its means in the brain.

    Raises:
      InputError: a mean is not positive, as after z-scoring.
    """
    return float(np.exp(np.log(_means(images, brain)).mean()))


def find_landmarks(
    method: str,
    images: Real[Array, "x y z m"],
    brain: Bool[Array, "x y z"],
    sequences: Sequence[str] = (),
) -> list[Float[Array, " k"]]:
    """Returns the landmarks of each channel, float64[k] each, strictly increasing.

    Args:
      method: one of `METHODS` but `dataset`.
      images: [x, y, z, m].
      brain: bool[x, y, z].
      sequences: names of the m channels; needed only by `tissue`.

    Raises:
      InputError: two landmarks of an image coincide.
    """
    if method == "tissue":
        found = tissue_levels.fit_tissue_levels(images, sequences, brain)
        return [tissue_levels.landmarks(found[name], name) for name in sequences]
    inside = images[brain]
    landmarks = [LANDMARKS[method](inside[:, m]) for m in range(images.shape[-1])]
    for row in landmarks:
        if (np.diff(row) <= 0).any():
            shown = ", ".join(f"{value:.4g}" for value in row)
            raise InputError(
                f"an image cannot be normalised by {method!r}: its landmarks in the brain, {shown}"
                ", do not increase; give unprocessed scanner intensities"
            )
    return landmarks


def encode_images(
    normalization: Normalization,
    images: Real[Array, "x y z m"],
    brain: Shaped[Array, "*brain"],
    sequences: Sequence[str] = (),
) -> Float[Array, "x y z m"]:
    """Returns the z-scores of input sequences, x y z m -> x y z m; see `make_encoder`."""
    return make_encoder(normalization, images, brain, sequences)(images)


def make_encoder(
    normalization: Normalization,
    images: Real[Array, "x y z m"],
    brain: Shaped[Array, "*brain"],
    sequences: Sequence[str] = (),
) -> Encoder:
    """Returns the function that maps one session's inputs, or any part of them, to z-scores.

    Args:
      normalization: normalisation of the model.
      images: [x, y, z, m], the whole session.
      brain: bool[x, y, z]; not used by `dataset`.
      sequences: names of the m channels; needed only by `tissue`.

    Raises:
      InputError: see `find_landmarks`.
    """
    if normalization.method == "dataset":
        return partial(normalize, stats=normalization.images)
    found = find_landmarks(normalization.method, images, brain, sequences)
    return _encoder(normalization.images, found, normalization.places[:-1])


def relative_levels(
    normalization: Normalization, encoded: Float[Array, "x y z m"]
) -> Float[Array, " m"]:
    """Returns the intensity level of each input relative to the training subjects.

    The ratio of the root mean squares of intensities over all voxels; 1 for every method but
    `dataset`, since the others map each session to the level of the training subjects.

    Args:
      normalization: normalisation of the model.
      encoded: [x, y, z, m], from `encode_images`, zeroed outside the brain if the model does so.
    """
    if normalization.method != "dataset":
        return np.ones(encoded.shape[-1])
    mean, std = np.array(normalization.images.mean), np.array(normalization.images.std)
    count = np.prod(encoded.shape[:-1])
    first = encoded.sum(axis=(0, 1, 2), dtype=np.float64) / count
    second = np.einsum("xyzm,xyzm->m", encoded, encoded, dtype=np.float64) / count
    square = std**2 * second + 2 * std * mean * first + mean**2
    return np.sqrt(np.maximum(square, 0) / (mean**2 + std**2))


def encode_flair(
    normalization: Normalization, flair: Real[Array, "x y z"], brain: Shaped[Array, "*brain"]
) -> Float[Array, "x y z"]:
    """Returns the z-scores of a FLAIR, x y z -> x y z: the target of training."""
    image = flair[..., None]
    if normalization.method == "dataset":
        return normalize(image, normalization.flair)[..., 0]
    found = find_landmarks(normalization.method, image, brain, (TARGET,))
    return _encoder(normalization.flair, found, normalization.places[-1:])(image)[..., 0]


def decode_flair(
    normalization: Normalization,
    flair: Float[Array, "x y z"],
    images: Real[Array, "x y z m"],
    brain: Shaped[Array, "*brain"],
) -> Float[Array, "x y z"]:
    """Returns the intensities of a FLAIR predicted in z-scores, x y z -> x y z.

    Args:
      normalization: normalisation of the model.
      flair: [x, y, z], predicted z-scores.
      images: [x, y, z, m], the inputs' intensities, which determine the session's level.
      brain: bool[x, y, z].
    """
    decoded = denormalize(flair[..., None], normalization.flair)
    if normalization.method == "dataset":
        return decoded[..., 0]
    target = [np.array(normalization.gain) * session_level(images, brain)]
    source: Sequence[Landmarks] = normalization.places[-1:]
    if normalization.method in _SCALES:
        # Landmarks of the prediction itself correct for training brains with another share of
        # fluid, in which tissue is higher above the mean.
        source = find_landmarks(normalization.method, decoded, brain)
    return _match(decoded, source, target)[..., 0]


def _encoder(stats: Stats, source: Sequence[Array], target: Sequence[Landmarks]) -> Encoder:
    if any(len(row) > 2 for row in source):
        return lambda part: normalize(_match(part, source, target), stats)
    # With two landmarks the mapping is affine, and so is its composition with the z-score.
    first, second = np.array(source), np.array(target)
    slope = (first[:, 1] - first[:, 0]) / (second[:, 1] - second[:, 0])
    mean = first[:, 0] + (stats.mean - second[:, 0]) * slope
    return partial(normalize, stats=_stats(mean, slope * stats.std))


def _match(images: Array, source: Sequence[Landmarks], target: Sequence[Landmarks]) -> Array:
    """Matches the landmarks of every channel, x y z m -> x y z m."""
    rows = enumerate(zip(source, target, strict=True))
    matched = [match_landmarks(images[..., m], np.array(a), np.array(b)) for m, (a, b) in rows]
    return np.stack(matched, axis=-1)


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
            "the mean of an image in the brain is not positive; give unprocessed intensities"
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
