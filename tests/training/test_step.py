"""Training step and fit: learning, early stopping and resuming."""

from __future__ import annotations

from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxflair.networks.fcn import build
from flaxflair.networks.network import Network, Params
from flaxflair.training.batches import Batch, Example, cut_batch, make_draws, stack_examples
from flaxflair.training.step import (
    OPTIMIZERS,
    FitState,
    Plan,
    by_epoch,
    by_step,
    fit,
    init_fit,
    is_finished,
    make_optimizer,
    make_train_epoch,
    make_train_step,
)

PLAN = Plan(epochs=3, steps_per_epoch=4, monitor_every=1, strips=0, strip_length=1)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 5, 6, 4, 2), dtype=np.float32)
    return [Example(image, image.sum(-1) - 1, np.ones(image.shape[:3], bool)) for image in images]


@pytest.fixture(scope="module")
def draws(examples: list[Example]):
    return make_draws(examples, window=(0, 0, 0), windows_per_subject=1, batch=1, address=(0, 0))[0]


@pytest.fixture(scope="module")
def batches(examples: list[Example], draws):
    return lambda step: cut_batch(examples, draws(step), (0, 0, 0))


@pytest.fixture(scope="module")
def adam() -> optax.GradientTransformation:
    return make_optimizer("adam", 0.01, "constant", 12)


@pytest.fixture(scope="module")
def train_step(network: Network, adam: optax.GradientTransformation):
    return make_train_step(network.forward, adam)


@pytest.fixture
def start(network: Network, adam: optax.GradientTransformation) -> FitState:
    return init_fit(network.init(jax.random.key(0)), adam, PLAN)


def _copy(state: FitState) -> FitState:
    return jax.tree.map(jnp.copy, state)


def _same(a: object, b: object) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def test_sgd_step_is_gradient_times_learning_rate(network, params, batches) -> None:
    optimizer = make_optimizer("sgd", 0.0005, "constant", 1)
    batch: Batch = batches(0)

    def loss_of(params: Params) -> jax.Array:
        return jnp.mean(jnp.square(network.forward(params, batch.images) - batch.flair))

    loss, gradient = jax.value_and_grad(loss_of)(params)
    state = init_fit(jax.tree.map(jnp.copy, params), optimizer, PLAN).train
    after, step_loss = make_train_step(network.forward, optimizer)(state, batch)
    np.testing.assert_allclose(step_loss, loss, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.0005 * g, params, gradient)
    for actual, expected_leaf in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(actual, expected_leaf, rtol=1e-5, atol=1e-7)


def test_fit_lowers_the_error(train_step, start, batches) -> None:
    state = list(fit(by_step(train_step, batches), start, None, PLAN))[-1].state
    losses = np.asarray(state.losses)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_resumed_fit_is_bit_identical(train_step, start, batches, stop: int) -> None:
    def watch(params: Params) -> float:
        return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)))

    whole = list(fit(by_step(train_step, batches), _copy(start), watch, PLAN))[-1].state
    first = list(islice(fit(by_step(train_step, batches), _copy(start), watch, PLAN), stop))[
        -1
    ].state
    resumed = list(fit(by_step(train_step, batches), _copy(first), watch, PLAN))[-1].state
    assert _same(resumed, whole)


def test_epoch_in_one_call_equals_single_steps(
    network, adam, train_step, start, examples, batches, draws
) -> None:
    train_epoch = make_train_epoch(network.forward, adam, (5, 6, 4))
    whole = by_epoch(train_epoch, stack_examples(examples), draws)
    calls = list(fit(whole, _copy(start), None, PLAN._replace(stride=4)))
    steps = list(fit(by_step(train_step, batches), _copy(start), None, PLAN))
    assert [call.step for call in calls] == [4, 8, 12]
    assert [call.epoch_loss for call in calls] == pytest.approx(
        [step.epoch_loss for step in steps if step.epoch_loss is not None], rel=1e-5
    )
    pairs = (jax.tree.leaves(part[-1].state.train.params) for part in (calls, steps))
    for actual, expected_leaf in zip(*pairs, strict=True):
        np.testing.assert_allclose(actual, expected_leaf, rtol=1e-4, atol=1e-6)


def test_epoch_in_one_call_resumes_within_an_epoch(
    network, adam, train_step, start, examples, batches, draws
) -> None:
    first = list(islice(fit(by_step(train_step, batches), _copy(start), None, PLAN), 5))[-1].state
    train_epoch = make_train_epoch(network.forward, adam, (5, 6, 4))
    whole = by_epoch(train_epoch, stack_examples(examples), draws)
    calls = [call.step for call in fit(whole, first, None, PLAN._replace(stride=4))]
    assert calls == [8, 12]


def test_finished_fit_does_nothing(train_step, start, batches) -> None:
    state = list(fit(by_step(train_step, batches), start, None, PLAN))[-1].state
    assert is_finished(state, PLAN)
    assert list(fit(by_step(train_step, batches), state, None, PLAN)) == []


def test_fit_stops_by_the_monitored_error_and_keeps_the_best(train_step, start, batches) -> None:
    plan = PLAN._replace(epochs=20, strips=2, strip_length=1)
    state = start._replace(losses=jnp.full(20, jnp.nan), errors=jnp.full(20, jnp.nan))
    errors = iter([0.5, 0.3, 0.4, 0.6, 0.1])
    seen: list[Params] = []

    def watch(params: Params) -> float:
        seen.append(jax.tree.map(np.array, params))
        return next(errors)

    last = list(fit(by_step(train_step, batches), state, watch, plan))[-1]
    assert last.finished
    assert last.epoch == 4
    assert int(last.state.best_epoch) == 2
    assert _same(last.state.best, seen[1])
    np.testing.assert_allclose(last.state.errors[:5], [0.5, 0.3, 0.4, 0.6, np.nan])


def test_voxels_of_zero_weight_are_ignored(train_step, start, batches) -> None:
    batch = batches(0)
    weight = batch.weight.copy()
    weight[:, :3] = 0
    spoilt = batch.flair.copy()
    spoilt[:, :3] = 1e6
    _, clean = train_step(_copy(start).train, batch._replace(weight=weight))
    _, loss = train_step(_copy(start).train, Batch(batch.images, spoilt, weight))
    assert float(clean) == float(loss)


def test_bfloat16_keeps_parameters_in_float32(batches) -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        net = build(2, layers=2, filters=4, dtype=dtype)
        optimizer = make_optimizer("sgd", 0.01, "constant", 1)
        state = init_fit(net.init(jax.random.key(1)), optimizer, PLAN).train
        after, losses[dtype] = make_train_step(net.forward, optimizer)(state, batches(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_of_one_batch(network, batches, name: str) -> None:
    optimizer = make_optimizer(name, 0.003, "constant", 10)
    state = init_fit(network.init(jax.random.key(0)), optimizer, PLAN).train
    step = make_train_step(network.forward, optimizer)
    losses = []
    for _ in range(10):
        state, loss = step(state, batches(0))
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_cosine_schedule_warms_up_and_ends_at_zero(network) -> None:
    optimizer = make_optimizer("sgd", 1.0, "cosine", 100)
    state, moved = optimizer.init(jnp.ones(())), []
    for _ in range(101):
        update, state = optimizer.update(jnp.ones(()), state)
        moved.append(-float(jnp.asarray(update)))
    assert moved[0] == 0
    assert max(moved) == pytest.approx(1.0)
    assert moved.index(max(moved)) == 5
    assert moved[-1] == pytest.approx(0.0, abs=1e-6)


def test_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'sdg'.*sgd"):
        make_optimizer("sdg", 0.1, "constant", 1)
