"""Checkpoints: what is saved comes back, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair import checkpoint
from flaxflair.train import Plan, init_fit, make_optimizer
from flaxflair.volume import InputError


@pytest.fixture
def state(network):
    adam = make_optimizer("adam", 0.01, "cosine", 10)
    return init_fit(network.init(jax.random.key(0)), adam, Plan(2, 3, 1, 0, 1))


def test_a_state_comes_back_bit_for_bit(state, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last", 3, state)
    empty = jax.tree.map(jnp.zeros_like, state)
    loaded = checkpoint.load(tmp_path / "last", empty)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_newest_is_kept_alone_and_an_older_one_is_not_written_over_it(tmp_path: Path) -> None:
    for step, value in ((1, 1.0), (5, 5.0), (3, 3.0)):
        checkpoint.save(tmp_path, step, {"value": jnp.float32(value)})
    loaded = checkpoint.load(tmp_path, {"value": jnp.float32(0)})
    assert loaded is not None
    assert float(loaded["value"]) == 5.0
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_where_nothing_was_saved_there_is_nothing(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none", {"value": jnp.float32(0)}) is None


def test_what_a_kill_leaves_behind_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"value": jnp.float32(1)})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    loaded = checkpoint.load(tmp_path, {"value": jnp.float32(0)})
    assert loaded is not None
    assert float(loaded["value"]) == 1.0


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "params", 1, {"value": jnp.zeros(3)})
    with pytest.raises(InputError, match=r"params: .* does not fit .* remove the folder"):
        checkpoint.load(tmp_path / "params", {"other": jnp.zeros(3)})


def test_threads_that_save_at_once_all_come_to_an_end(tmp_path: Path):
    def save_all(name: str) -> None:
        for step in range(4):
            checkpoint.save(tmp_path / name, step, {"a": jnp.full(3, step)})

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(save_all, name) for name in ("one", "other")]:
            done.result(timeout=120)
    for name in ("one", "other"):
        loaded = checkpoint.load(tmp_path / name, {"a": jnp.zeros(3, jnp.int32)})
        assert loaded is not None
        assert loaded["a"].tolist() == [3, 3, 3]
