"""Loss and training step of an error scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from flaxflair.networks.conditional import build
from flaxflair.training.batches import SynthesisBatch
from flaxflair.training.scale_step import make_scale_step, scale_loss
from flaxflair.training.universal_step import init_synthesis, make_synthesis_optimizer

SHAPE = (2, 8, 8, 8)


def a_batch(noise: np.ndarray) -> SynthesisBatch:
    ones, observe = np.ones(2, np.float32), np.tile(np.eye(8, dtype=np.float32), (2, 3, 1, 1))
    images = np.zeros((*SHAPE, 1), np.float32)
    images[:, 4:] = 1  # where the error is larger
    flair = np.asarray(1 + noise, np.float32)
    weight = np.ones(SHAPE, np.float32)
    return SynthesisBatch(
        images, np.ones((2, 3), np.float32), flair, 0 * flair, weight, 0 * ones, ones, observe
    )


@pytest.mark.parametrize("true", [0.05, 0.3])
def test_the_loss_is_smallest_at_the_scale_of_the_error(true: float):
    noise = np.random.default_rng(0).laplace(0, true, SHAPE).astype(np.float32)
    batch = a_batch(noise)
    flair = jnp.ones(SHAPE)

    def slope(scale: float) -> float:
        def loss(log_scale):
            return scale_loss(jnp.full(SHAPE, jnp.exp(log_scale)), flair, batch)[0]

        return float(jax.grad(loss)(jnp.log(scale)))

    assert slope(0.8 * true) < 0 < slope(1.2 * true)


def test_the_scale_is_learnt_where_errors_are_large_and_the_flair_does_not_change():
    network = build(3, 3, widths=(6,), convolutions=1, reduction=2)
    optimizer = make_synthesis_optimizer(0.02, warmup=1)
    shown = []

    def forward(images, condition):
        shown.append(condition)
        return jnp.ones(images.shape[:-1]), jnp.zeros(images.shape[:-1])

    def inputs(images, flair, lesion):
        return jnp.concatenate([images, flair[..., None], lesion[..., None]], -1)

    def to_scale(output):
        return jnp.exp(output - 2)

    step = make_scale_step(forward, network, inputs, to_scale, optimizer)
    state = init_synthesis(network.init(jax.random.key(0)), optimizer)
    rng = np.random.default_rng(1)
    size = np.where(np.arange(8) >= 4, 0.4, 0.04)[None, :, None, None]
    batches = [a_batch(size * rng.laplace(0, 1, SHAPE)) for _ in range(60)]
    for batch in batches:
        state, _ = step(state, batch)
    batch = batches[0]
    values = inputs(jnp.asarray(batch.images), jnp.ones(SHAPE), 0.5 * jnp.ones(SHAPE))
    found = to_scale(network.forward(state.params, values, jnp.asarray(batch.condition))[0])
    small, large = float(found[:, 1:3].mean()), float(found[:, 5:7].mean())
    assert small == pytest.approx(0.04, rel=0.5)
    assert large == pytest.approx(0.4, rel=0.5)
    assert_array_equal(np.asarray(state.step), 60)
    assert len(shown) == 1  # compiled once
