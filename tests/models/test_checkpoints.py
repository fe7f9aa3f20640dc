"""Checkpoints: what is saved comes back, bit for bit."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError
from flaxflair.models import checkpoints
from flaxflair.training.step import Plan, init_fit, make_optimizer
from tests.disks import no_room_beyond


@pytest.fixture
def state(network):
    adam = make_optimizer("adam", 0.01, "cosine", 10)
    return init_fit(network.init(jax.random.key(0)), adam, Plan(2, 3, 1, 0, 1))


def test_a_state_is_restored_exactly(state, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "last", 3, state)
    empty = jax.tree.map(jnp.zeros_like, state)
    loaded = checkpoints.load(tmp_path / "last", empty)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    for step, value in ((1, 1.0), (5, 5.0), (3, 3.0)):
        checkpoints.save(tmp_path, step, {"value": jnp.float32(value)})
    loaded = checkpoints.load(tmp_path, {"value": jnp.float32(0)})
    assert loaded is not None
    assert float(loaded["value"]) == 5.0
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_a_missing_checkpoint_loads_as_none(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "none", {"value": jnp.float32(0)}) is None


def test_incomplete_checkpoints_are_ignored_and_removed(tmp_path: Path):
    checkpoints.save(tmp_path, 2, {"value": jnp.float32(2)})
    shutil.copytree(tmp_path / "2", tmp_path / "1")  # killed before the older one was removed
    for name in ("3.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-17"):
        shutil.copytree(tmp_path / "2", tmp_path / name)
    loaded = checkpoints.load(tmp_path, {"value": jnp.float32(0)})
    assert loaded is not None
    assert float(loaded["value"]) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


# Threads of TensorStore are still reading when orbax has given up.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_in_a_checkpoint_is_refused_or_changes_nothing(tmp_path: Path):
    rng, like = random.Random(0), {"value": jnp.zeros(40)}
    saved = {"value": jnp.linspace(0, 1, 40)}
    checkpoints.save(tmp_path, 1, saved)
    refused = 0
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size):
        whole = path.read_bytes()
        for _ in range(3):
            spoilt = bytearray(whole)
            spoilt[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            path.write_bytes(spoilt)
            try:
                loaded = checkpoints.load(tmp_path, like)
                assert loaded is not None
                np.testing.assert_array_equal(loaded["value"], saved["value"])
            except InputError:
                refused += 1
        path.write_bytes(whole)
    assert refused > 5


def test_a_checkpoint_with_arrays_of_another_is_refused(tmp_path: Path):
    for name, value in (("one", 1.0), ("other", 2.0)):
        checkpoints.save(tmp_path / name, 1, {"value": jnp.float32(value)})
    shutil.rmtree(tmp_path / "one/1/state")
    shutil.copytree(tmp_path / "other/1/state", tmp_path / "one/1/state")
    with pytest.raises(InputError, match=r"was changed since it was saved .* remove the folder"):
        checkpoints.load(tmp_path / "one", {"value": jnp.float32(0)})


# TensorStore may finish a write after orbax has closed the event loop of the save that failed.
@pytest.mark.filterwarnings(
    "ignore:(?s)Exception ignored in. None.*Event loop is closed"
    ":pytest.PytestUnraisableExceptionWarning"
)
def test_a_full_disk_gives_one_sentence_and_the_previous_checkpoint_remains(tmp_path: Path):
    checkpoints.save(tmp_path, 1, {"value": jnp.ones(10_000)})
    with no_room_beyond(100), pytest.raises(WriteError) as error:
        checkpoints.save(tmp_path, 2, {"value": jnp.zeros(10_000)})
    assert "the checkpoint of step 2 cannot be written" in str(error.value)
    assert "\n" not in str(error.value)
    loaded = checkpoints.load(tmp_path, {"value": jnp.zeros(10_000)})
    assert loaded is not None
    assert float(loaded["value"].sum()) == 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "params", 1, {"value": jnp.zeros(3)})
    with pytest.raises(InputError, match=r"params: .* does not fit .* remove the folder"):
        checkpoints.load(tmp_path / "params", {"other": jnp.zeros(3)})


def test_concurrent_saves_by_threads_finish(tmp_path: Path):
    def save_all(name: str) -> None:
        for step in range(4):
            checkpoints.save(tmp_path / name, step, {"a": jnp.full(3, step)})

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(save_all, name) for name in ("one", "other")]:
            done.result(timeout=120)
    for name in ("one", "other"):
        loaded = checkpoints.load(tmp_path / name, {"a": jnp.zeros(3, jnp.int32)})
        assert loaded is not None
        assert loaded["a"].tolist() == [3, 3, 3]
