"""Batches as pure functions of address and step."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest

from flaxflair.core.records import InputError
from flaxflair.imaging.normalization import fit
from flaxflair.training.batches import (
    Batch,
    Example,
    Rows,
    by_shape,
    cut_batch,
    edges_of,
    gather_batch,
    make_draws,
    make_example,
    stack_examples,
    take_rows,
)

WHOLE = {"window": (0, 0, 0), "windows_per_subject": 1, "batch": 1}


def example_of(number: int, shape: tuple[int, int, int] = (6, 5, 4)) -> Example:
    """Returns an example whose FLAIR is its number, and which counts in one corner."""
    images = np.random.default_rng(number).normal(size=(*shape, 2)).astype(np.float32)
    region = np.zeros(shape, bool)
    region[:2, :2, :2] = True
    return Example(images, np.full(shape, number, np.float32), region)


EXAMPLES = [example_of(number) for number in range(5)]


def make_batches(examples, *, window, **options):
    """Returns (step -> batch cut on the host, steps in an epoch)."""
    draws, steps = make_draws(examples, window=window, **options)
    return (lambda step: cut_batch(examples, draws(step), window)), steps


def seen(batch: Batch) -> list[int]:
    """Returns the numbers of the examples in a batch."""
    return batch.flair[:, 0, 0, 0].astype(int).tolist()


def assert_same(one: Batch, other: Batch) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_whole_volume_batch_equals_the_example():
    batches, steps = make_batches(EXAMPLES, **WHOLE, address=(0, 0))
    batch = batches(0)
    (number,) = seen(batch)
    assert steps == 5
    np.testing.assert_array_equal(batch.images[0], EXAMPLES[number].images)
    np.testing.assert_array_equal(batch.weight[0], EXAMPLES[number].region)
    assert {array.dtype for array in batch} == {np.dtype(np.float32)}


def test_epoch_has_every_subject_once_in_a_new_order():
    batches, steps = make_batches(EXAMPLES, **WHOLE, address=(0, 0))
    epochs = [
        [number for step in range(steps) for number in seen(batches(epoch * steps + step))]
        for epoch in range(8)
    ]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 4


def test_epoch_of_windows_has_every_subject_equally_often():
    batches, steps = make_batches(
        EXAMPLES, window=(2, 2, 2), windows_per_subject=4, batch=2, address=(0, 0)
    )
    assert steps == 10
    counts = Counter(number for step in range(steps) for number in seen(batches(step)))
    assert counts == dict.fromkeys(range(5), 4)


def test_last_batch_of_an_epoch_is_filled_up_from_its_start():
    batches, steps = make_batches(EXAMPLES, **{**WHOLE, "batch": 3}, address=(0, 0))
    assert steps == 2
    numbers = seen(batches(0)) + seen(batches(1))
    assert sorted(numbers[:5]) == [0, 1, 2, 3, 4]
    assert numbers[5] == numbers[0]


@pytest.mark.parametrize("window", [(0, 0, 0), (3, 2, 0)])
def test_batch_depends_only_on_address_and_step(window):
    make = partial(make_batches, EXAMPLES, window=window, windows_per_subject=3, batch=2)
    straight, steps = make(address=(7, 1))
    jumping, _ = make(address=(7, 1))
    batches = [straight(step) for step in range(2 * steps)]
    for step in reversed(range(2 * steps)):
        assert_same(jumping(step), batches[step])


@pytest.mark.parametrize("address", [(7, 2), (8, 1)])
def test_batches_depend_on_seed_and_fold(address: tuple[int, int]):
    make = partial(make_batches, EXAMPLES, window=(3, 2, 1), windows_per_subject=2, batch=1)
    first, steps = make(address=(7, 1))
    other, _ = make(address=address)
    differing = [not np.array_equal(first(s).images, other(s).images) for s in range(steps)]
    assert sum(differing) > steps / 2


def test_windows_have_one_size_and_contain_the_region():
    examples = [example_of(0), example_of(1, (9, 3, 7))]
    batches, steps = make_batches(
        examples, window=(3, 3, 0 + 2), windows_per_subject=5, batch=2, address=(0, 0)
    )
    for step in range(steps):
        batch = batches(step)
        assert batch.flair.shape == (2, 3, 3, 2)
        assert batch.weight.any(axis=(1, 2, 3)).all()


def test_batch_of_different_shapes_is_refused():
    mixed = [example_of(0), example_of(1, (6, 5, 9))]
    make_batches(mixed, **WHOLE, address=(0,))
    with pytest.raises(InputError, match=r"needs volumes of one shape and there are 2; set config"):
        make_batches(mixed, **{**WHOLE, "batch": 2}, address=(0,))
    with pytest.raises(InputError, match="there are 2; "):
        make_batches(mixed, window=(4, 4, 6), windows_per_subject=1, batch=2, address=(0,))


def test_no_subjects_are_refused():
    with pytest.raises(InputError, match="no subject to train on"):
        make_batches([], **WHOLE, address=(0,))


@pytest.mark.parametrize("region", ["volume", "brain"])
def test_example_has_z_scores_and_region(make_subject, region: str):
    subject = make_subject()
    example = make_example(subject, fit([subject], "dataset"), region)
    assert example.images.mean() == pytest.approx(0, abs=1e-5)
    assert example.flair.std() == pytest.approx(1, abs=1e-5)
    counting = subject.masks.brain if region == "brain" else np.ones(subject.geometry.shape, bool)
    np.testing.assert_array_equal(example.region, counting)


def test_subject_without_flair_is_refused_by_name(make_subject):
    normalization = fit([make_subject()], "dataset")
    with pytest.raises(InputError, match="sub-07: has no FLAIR to learn from"):
        make_example(make_subject("sub-07", flair=False), normalization, "volume")


def test_examples_are_grouped_by_shape_in_order():
    mixed = [example_of(0), example_of(1, (6, 5, 9)), example_of(2)]
    groups = [[int(e.flair.flat[0]) for e in group] for group in by_shape(mixed)]
    assert groups == [[0, 2], [1]]


@pytest.mark.parametrize("window", [(0, 0, 0), (3, 2, 0), (9, 2, 2)])
def test_gather_batch_equals_cut_batch(window):
    draws, steps = make_draws(
        EXAMPLES, window=window, windows_per_subject=2, batch=3, address=(5, 0)
    )
    stacked = stack_examples(EXAMPLES)
    for step in range(steps):
        first = gather_batch(stacked, draws(step), edges_of(EXAMPLES[0], window))
        assert_same(first, cut_batch(EXAMPLES, draws(step), window))


def test_examples_of_different_shapes_cannot_be_stacked():
    with pytest.raises(InputError, match=r"one grid and there are 2; set config.train.call"):
        stack_examples([example_of(0), example_of(1, (6, 5, 9))])


def rows_of(held: tuple[int, ...]) -> tuple[list[Example], Rows]:
    """Returns the examples of these of two rows, and the rows."""
    return take_rows(EXAMPLES, held, 2), Rows(held, 2, len(EXAMPLES))


@pytest.mark.parametrize("window", [(0, 0, 0), (3, 2, 0)])
def test_rows_of_a_mesh_draw_the_same_in_one_process_and_in_two(window):
    make = partial(make_batches, window=window, windows_per_subject=2, batch=4, address=(7, 1))
    both, steps = make(rows_of((0, 1))[0], rows=rows_of((0, 1))[1])
    first, _ = make(rows_of((0,))[0], rows=rows_of((0,))[1])
    second, _ = make(rows_of((1,))[0], rows=rows_of((1,))[1])
    for step in range(2 * steps):
        parts = first(step), second(step)
        assert_same(Batch(*map(np.concatenate, zip(*parts, strict=True))), both(step))
        assert {number % 2 for number in seen(parts[0])} == {0}
        assert {number % 2 for number in seen(parts[1])} == {1}


def test_epoch_of_rows_has_every_subject_of_the_longest_row_once():
    examples, rows = rows_of((0,))
    batches, steps = make_batches(examples, **{**WHOLE, "batch": 2}, address=(0, 0), rows=rows)
    assert steps == 3
    assert sorted(number for step in range(steps) for number in seen(batches(step))) == [0, 2, 4]


def test_single_row_draws_as_no_rows():
    plain, steps = make_batches(EXAMPLES, **WHOLE, address=(3, 1))
    rowed, _ = make_batches(EXAMPLES, **WHOLE, address=(3, 1), rows=Rows((0,), 1, len(EXAMPLES)))
    for step in range(steps):
        assert_same(plain(step), rowed(step))


def test_more_rows_than_subjects_are_refused():
    with pytest.raises(InputError, match=r"config.mesh.data is 6 and a fold trains on 5 sessions"):
        make_draws(
            EXAMPLES, **{**WHOLE, "batch": 6}, address=(0, 0), rows=Rows(tuple(range(6)), 6, 5)
        )
