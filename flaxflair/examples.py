"""Examples: subjects as a network sees them, and batches of them by step number.

Knows subjects and windows; knows nothing of networks or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flaxflair.normalize import Normalization, encode_flair, encode_images
from flaxflair.volume import Array, InputError, Subject
from flaxflair.windows import Slices, draw_window


class Example(NamedTuple):
    """One subject, normalised.

    Attributes:
      images: float32[x, y, z, m].
      flair: float32[x, y, z].
      region: bool[x, y, z], the voxels that count.
    """

    images: Array
    flair: Array
    region: Array


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
      images: float32[b, x, y, z, m], z-scores.
      flair: float32[b, x, y, z], z-scores.
      weight: float32[b, x, y, z], 1 where a voxel counts in the loss.
    """

    images: Array
    flair: Array
    weight: Array


def make_example(subject: Subject, normalization: Normalization, region: str) -> Example:
    """Encodes a subject that has a FLAIR; `region` is `volume` or `brain`."""
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR to learn from")
    brain = subject.masks.brain
    return Example(
        encode_images(normalization, subject.images, brain),
        encode_flair(normalization, subject.flair, brain),
        brain if region == "brain" else np.ones(brain.shape, bool),
    )


def make_batches(
    examples: Sequence[Example],
    *,
    window: tuple[int, int, int],
    windows_per_subject: int,
    batch: int,
    address: Sequence[int],
) -> tuple[Callable[[int], Batch], int]:
    """Returns (step -> batch, steps in an epoch).

    An epoch shows every subject once, or `windows_per_subject` windows of it, in an order drawn
    anew. Order and windows depend on the address and the step alone, never on what came before.

    Args:
      examples: training subjects.
      window: edge lengths; zeros for whole volumes.
      windows_per_subject: of no effect on whole volumes.
      batch: examples in a step; the last step of an epoch takes from its start again if need be.
      address: of the randomness, such as (seed, fold).

    Raises:
      InputError: there is no example, or a batch would hold volumes of different shapes.
    """
    if not examples:
        raise InputError("no subject to train on")
    whole = not any(window)
    cuts = {
        tuple(
            size if edge == 0 else min(edge, size)
            for edge, size in zip(window, example.flair.shape, strict=True)
        )
        for example in examples
    }
    if batch > 1 and len(cuts) > 1:
        raise InputError(
            f"a batch of {batch} needs volumes of one shape and there are {len(cuts)}; "
            "set config.train.batch to 1, or a window that fits into all of them"
        )
    shown = len(examples) * (1 if whole else windows_per_subject)
    steps = -(-shown // batch)
    centres = [None if whole else np.argwhere(example.region) for example in examples]

    def cut(index: int, rng: np.random.Generator) -> tuple[Example, Slices]:
        inside = centres[index]
        everything = (slice(None), slice(None), slice(None))
        shape = examples[index].flair.shape
        return examples[index], (
            everything
            if inside is None
            else draw_window(rng, (shape[0], shape[1], shape[2]), window, inside)
        )

    def batches(step: int) -> Batch:
        epoch, within = divmod(step, steps)
        order = np.random.default_rng([*address, 0, epoch]).permutation(shown) % len(examples)
        rng = np.random.default_rng([*address, 1, step])
        chosen = [cut(order[(within * batch + offset) % shown], rng) for offset in range(batch)]
        return Batch(
            np.stack([example.images[at] for example, at in chosen]),
            np.stack([example.flair[at] for example, at in chosen]),
            np.stack([example.region[at] for example, at in chosen]).astype(np.float32),
        )

    return batches, steps


def by_shape(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Yields examples in groups of one grid, so that a group can be stacked."""
    shapes = dict.fromkeys(example.flair.shape for example in examples)
    for shape in shapes:
        yield [example for example in examples if example.flair.shape == shape]
