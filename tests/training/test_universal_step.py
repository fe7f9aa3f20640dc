"""Loss and training step of a conditional network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from flaxflair.networks.conditional import build
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.losses import synthesis_loss
from flaxflair.training.universal_step import (
    OPTIMIZERS,
    init_synthesis,
    make_synthesis_optimizer,
    make_synthesis_step,
)


def a_batch(*, measured: float = 0.0, segmented: float = 1.0) -> SynthesisBatch:
    rng = np.random.default_rng(0)
    images = rng.random((2, 8, 8, 8, 2), np.float32)
    flair = images.mean(-1) + 0.5
    lesion = (flair > 1.3).astype(np.float32)
    ones = np.ones(2, np.float32)
    condition = np.ones((2, 3), np.float32)
    weight = np.ones_like(flair)
    observe = np.tile(np.eye(8, dtype=np.float32), (2, 3, 1, 1))
    return SynthesisBatch(
        images, condition, flair, lesion, weight, measured * ones, segmented * ones, observe
    )


def loss_of(flair, logit, batch):
    return float(synthesis_loss(jnp.asarray(flair), jnp.asarray(logit), batch)[0])


def test_perfect_prediction_has_almost_zero_loss():
    batch = a_batch()
    logit = 40.0 * (2 * batch.lesion - 1)
    assert loss_of(batch.flair, logit, batch) == pytest.approx(0, abs=1e-5)


def test_gain_and_offset_are_ignored_for_scanned_flairs_only():
    logit = np.zeros((2, 8, 8, 8), np.float32)
    scanned, simulated = a_batch(measured=1.0), a_batch()
    # Windows so small hold less than the prior; a larger spread outweighs it.
    flair = 100 * (scanned.flair - 1)
    scanned = scanned._replace(flair=flair)
    exact = loss_of(flair, logit, scanned)
    assert loss_of(flair / 1.2 - 3, logit, scanned) == pytest.approx(exact, abs=0.05)
    assert loss_of(flair / 1.2 - 3, logit, simulated._replace(flair=flair)) > exact + 3


def test_lesion_errors_have_a_higher_weight():
    batch = a_batch()
    lesions, rest = (np.argwhere(batch.lesion == value)[0] for value in (1, 0))
    logit = np.zeros_like(batch.flair)

    def spoilt(at) -> float:
        flair = batch.flair.copy()
        flair[tuple(at)] += 1
        return loss_of(flair, logit, batch)

    assert spoilt(lesions) > 2 * spoilt(rest) - loss_of(batch.flair, logit, batch)


def test_unsegmented_lesions_are_ignored():
    batch = a_batch(segmented=0.0)
    a = loss_of(batch.flair, np.full_like(batch.flair, 5.0), batch)
    b = loss_of(batch.flair, np.full_like(batch.flair, -5.0), batch)
    assert a == b


def test_voxels_of_zero_weight_are_ignored():
    batch = a_batch()
    weight = np.array(batch.weight)
    weight[:, :4] = 0
    batch = batch._replace(weight=weight)
    spoilt = np.array(batch.flair)
    spoilt[:, :3] += 100
    logit = np.zeros_like(spoilt)
    assert_allclose(loss_of(spoilt, logit, batch), loss_of(batch.flair, logit, batch), rtol=1e-5)


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_training_lowers_the_loss_of_weights_and_average(method: str):
    network = build(2, 3, widths=(8, 8))
    optimizer = make_synthesis_optimizer(1e-2, warmup=5, method=method)
    step = make_synthesis_step(network, optimizer)
    state = init_synthesis(network.init(jax.random.key(0)), optimizer)
    batch = a_batch()
    losses = []
    for _ in range(60):
        state, parts = step(state, batch)
        losses.append(float(parts["l1"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 60
    flair, _ = network.forward(
        state.average, jnp.asarray(batch.images), jnp.asarray(batch.condition)
    )
    assert float(jnp.abs(flair - batch.flair).mean()) < 0.6 * losses[0]


def test_learning_rate_has_warmup_and_cooldown():
    optimizer = make_synthesis_optimizer(1.0, warmup=2, cooldown=(4, 4))
    params = {"w": jnp.ones(1)}
    state = optimizer.init(params)
    sizes = []
    for _ in range(9):
        update, state = optimizer.update({"w": jnp.ones(1)}, state, params)
        sizes.append(-np.asarray(jax.tree.leaves(update)[0]).item())
    assert sizes[0] == 0
    assert sizes[2] == pytest.approx(1, abs=0.01)
    assert sizes[3] == pytest.approx(1, abs=0.01)
    assert sizes[4] > sizes[5] > sizes[6] > sizes[8]
    assert sizes[8] == pytest.approx(0, abs=0.01)


def test_slice_profile_is_applied_before_comparison():
    batch = a_batch()
    logit = 40.0 * (2 * batch.lesion - 1)
    halves = np.kron(np.eye(4, dtype=np.float32), np.full((2, 2), 0.5, np.float32))
    observe = batch.observe.copy()
    observe[:, 2] = halves  # slices of two voxels
    thick = np.einsum("Zz,bxyz->bxyZ", halves, batch.flair)
    assert loss_of(batch.flair, logit, batch._replace(flair=thick)) > 0.05
    exact = batch._replace(flair=thick, observe=observe)
    assert loss_of(batch.flair, logit, exact) == pytest.approx(0, abs=1e-5)


def test_scanned_flair_has_no_gradient_of_the_level():
    batch = a_batch(measured=1.0)
    rng = np.random.default_rng(5)
    # Errors of unequal sign, as of a few bright voxels that are missed.
    flair = batch.flair - 3.0 * (rng.random(batch.flair.shape, np.float32) > 0.95)

    def of_level(level: jax.Array) -> jax.Array:
        return synthesis_loss(jnp.asarray(flair) + level, jnp.zeros_like(flair), batch)[0]

    assert float(jax.grad(of_level)(jnp.float32(0))) == pytest.approx(0, abs=1e-4)
    simulated = batch._replace(measured=np.zeros(2, np.float32))
    pushed = jax.grad(lambda v: synthesis_loss(flair + v, jnp.zeros_like(flair), simulated)[0])
    assert abs(float(pushed(jnp.float32(0)))) > 0.05
