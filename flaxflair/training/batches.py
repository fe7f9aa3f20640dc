"""Normalised examples, and batches of their windows as a function of the step number.

A batch is cut on the host, or on the device from examples stored there, at the positions of the
same draw. Independent of networks and files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxflair.core.records import Array, InputError, Subject
from flaxflair.imaging.normalization import Normalization, encode_flair, encode_images
from flaxflair.imaging.tiling import draw_window, window_shape

T = TypeVar("T")


class Example(NamedTuple):
    """One normalised subject.

    Attributes:
      images: float32[x, y, z, m], z-scores.
      flair: float32[x, y, z], z-scores.
      region: bool[x, y, z], the voxels of the loss.
    """

    images: Array
    flair: Array
    region: Array


class Batch(NamedTuple):
    """Input of one training step, on the host or on a device.

    Attributes:
      images: float32[b, x, y, z, m], z-scores.
      flair: float32[b, x, y, z], z-scores.
      weight: float32[b, x, y, z], weight of each voxel in the loss, 0 or 1.
    """

    images: Array | jax.Array
    flair: Array | jax.Array
    weight: Array | jax.Array


class SynthesisBatch(NamedTuple):
    """Input of one training step of a universal model.

    Attributes:
      images: float32[b, x, y, z, m], standardised; zero where absent.
      condition: float32[b, c].
      flair: float32[b, x, y, z], normal-appearing white matter about 1.
      lesion: float32[b, x, y, z], lesion fraction of each voxel; zero if unknown.
      weight: float32[b, x, y, z], weight of each voxel in the loss.
      measured: float32[b], 1 for a scanned FLAIR, whose gain and offset are unknown; 0 for a
        simulated one.
      segmented: float32[b], 1 if `lesion` is accurate enough for the segmentation loss.
      observe: float32[b, 3, n, n] for windows of n³ voxels: matrices along x, y and z that apply
        slice profile and interpolation of the scanned FLAIR to the prediction before comparison.
    """

    images: Array | jax.Array
    condition: Array | jax.Array
    flair: Array | jax.Array
    lesion: Array | jax.Array
    weight: Array | jax.Array
    measured: Array | jax.Array
    segmented: Array | jax.Array
    observe: Array | jax.Array


class Draw(NamedTuple):
    """Positions of the windows of a batch.

    Attributes:
      example: int32[b], index of each window's example.
      start: int32[b, 3], first voxel of each window.
    """

    example: Array
    start: Array


def make_example(subject: Subject, normalization: Normalization, region: str) -> Example:
    """Encodes a subject that has a FLAIR; `region` is `volume` or `brain`."""
    if subject.flair is None:
        raise InputError(f"{subject.name}: has no FLAIR to learn from")
    brain = subject.masks.brain
    return Example(
        encode_images(normalization, subject.images, brain, subject.sequences),
        encode_flair(normalization, subject.flair, brain),
        brain if region == "brain" else np.ones(brain.shape, bool),
    )


class Rows(NamedTuple):
    """Rows of a mesh, each of which cuts its part of every batch from subjects of its own.

    Row r of D has the examples r, r + D, r + 2D, ... of a fold, so that a batch does not depend on
    which process holds which row.

    Attributes:
      held: rows of this process, ascending.
      number: number of rows, D.
      total: number of examples of all rows.
    """

    held: tuple[int, ...]
    number: int
    total: int


def take_rows(items: Sequence[T], held: Sequence[int], count: int) -> list[T]:
    """Returns the items of these rows of `count`, row by row, in the order that draws expect."""
    return [item for row in held for item in items[row::count]]


def count_steps(examples: int, *, windows: int, batch: int, rows: int = 1) -> int:
    """Returns the steps in an epoch: until the longest row has shown all of its windows.

    Args:
      examples: number of training examples.
      windows: windows of each in an epoch; 1 for whole volumes.
      batch: examples per step.
      rows: rows of the mesh, which divide the batch.
    """
    return -(-(-(-examples // rows) * windows) // (batch // rows))


def make_draws(
    examples: Sequence[Example],
    *,
    window: tuple[int, int, int],
    windows_per_subject: int,
    batch: int,
    address: Sequence[int],
    rows: Rows | None = None,
) -> tuple[Callable[[int], Draw], int]:
    """Returns (step -> draw, steps per epoch).

    An epoch contains every subject once, or `windows_per_subject` windows of it, in random order; a
    row of a mesh that has fewer subjects than another repeats some. Order and windows depend only
    on the address and the step, not on earlier draws, nor on the number of processes.

    Args:
      examples: training subjects; with `rows`, those of this process, from `take_rows`.
      window: edge lengths; zeros for whole volumes.
      windows_per_subject: no effect on whole volumes.
      batch: examples per step, of all rows; the last step of an epoch is filled up from its start.
      address: seed of the random generator, such as (seed, fold).
      rows: rows of the mesh that this process holds; None for a single row.

    Raises:
      InputError: there is no example, or none for a row, or a batch would hold volumes of different
        shapes.
    """
    rows = rows or Rows((0,), 1, len(examples))
    _expect_batches(examples, window, batch, rows)
    windows = 1 if not any(window) else windows_per_subject
    steps = count_steps(rows.total, windows=windows, batch=batch, rows=rows.number)
    centres = [None if not any(window) else np.argwhere(example.region) for example in examples]
    numbers = take_rows(range(rows.total), rows.held, rows.number)
    part = batch // rows.number

    def start(index: int, rng: np.random.Generator) -> tuple[int, int, int]:
        inside = centres[index]
        if inside is None:
            return 0, 0, 0
        x, y, z = draw_window(rng, _shape(examples[index]), window, inside)
        return x.start, y.start, z.start

    def draws(step: int) -> Draw:
        epoch, within = divmod(step, steps)
        index, starts = [], []
        for row in rows.held:
            stream = (row,) if rows.number > 1 else ()
            own = len(range(row, rows.total, rows.number))
            rng = np.random.default_rng([*address, 0, epoch, *stream])
            order = numbers.index(row) + rng.permutation(own * windows) % own
            chosen = [order[(within * part + offset) % len(order)] for offset in range(part)]
            rng = np.random.default_rng([*address, 1, step, *stream])
            index += chosen
            starts += [start(number, rng) for number in chosen]
        return Draw(np.array(index, np.int32), np.array(starts, np.int32))

    return draws, steps


def _expect_batches(
    examples: Sequence[Example], window: tuple[int, int, int], batch: int, rows: Rows
) -> None:
    """Raises InputError if no batch can be made of the examples; see `make_draws`."""
    if not examples:
        raise InputError("no subject to train on")
    if rows.total < rows.number:
        raise InputError(
            f"config.mesh.data is {rows.number} and a fold trains on {rows.total} sessions, of "
            "which each part of a batch needs one; make it smaller"
        )
    expect_one_shape([edges_of(example, window) for example in examples], batch)


def expect_one_shape(shapes: Sequence[tuple[int, int, int]], batch: int) -> None:
    """Checks that the windows of a batch have one shape.

    Raises:
      InputError: they differ, and a batch holds several.
    """
    if batch > 1 and (number := len(set(shapes))) > 1:
        raise InputError(
            f"a batch of {batch} needs volumes of one shape and there are {number}; "
            "set config.train.batch to 1, or a window that fits into all of them"
        )


def edges_of(example: Example, window: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns an example's window size; an edge of 0, or beyond the axis, is the whole axis."""
    return window_shape(_shape(example), window)


def cut_batch(examples: Sequence[Example], draw: Draw, window: tuple[int, int, int]) -> Batch:
    """Cuts a batch on the host; for `window` see `make_draws`."""
    cuts = []
    for index, start in zip(draw.example, draw.start, strict=True):
        edges = edges_of(examples[index], window)
        at = tuple(slice(first, first + edge) for first, edge in zip(start, edges, strict=True))
        cuts.append(tuple(array[at] for array in examples[index]))
    images, flair, region = map(np.stack, zip(*cuts, strict=True))
    return Batch(images, flair, region.astype(np.float32))


def stack_examples(examples: Sequence[Example]) -> Batch:
    """Copies all examples to the device, n x y z (m), for `gather_batch`.

    Raises:
      InputError: the shapes differ.
    """
    if len(shapes := {_shape(example) for example in examples}) > 1:
        raise InputError(
            f"an epoch in one call needs volumes of one grid and there are {len(shapes)}; "
            "set config.train.call to 'step'"
        )
    images, flair, region = map(np.stack, zip(*examples, strict=True))
    return Batch(jnp.asarray(images), jnp.asarray(flair), jnp.asarray(region.astype(np.float32)))


def gather_batch(stacked: Batch, draw: Draw, edges: tuple[int, int, int]) -> Batch:
    """Cuts a batch on the device, inside a compiled function; equal to `cut_batch`.

    Args:
      stacked: from `stack_examples`.
      draw: draw of one step.
      edges: from `edges_of`.
    """

    def cut(array: jax.Array, index: jax.Array, start: jax.Array) -> jax.Array:
        rest = array.shape[4:]
        at = (index, *start, *[0] * len(rest))
        return lax.dynamic_slice(array, at, (1, *edges, *rest))[0]

    return Batch(
        *(
            jnp.stack([cut(jnp.asarray(array), i, s) for i, s in zip(*draw, strict=True)])
            for array in stacked
        )
    )


def _shape(example: Example) -> tuple[int, int, int]:
    x, y, z = example.flair.shape
    return x, y, z


def by_shape(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Yields groups of examples of the same shape, which can be stacked."""
    shapes = dict.fromkeys(example.flair.shape for example in examples)
    for shape in shapes:
        yield [example for example in examples if example.flair.shape == shape]
