"""Checkpoints: saving and loading of any pytree of arrays. The only module that imports orbax.

A checkpoint is committed atomically: a process killed at any moment leaves the previous one intact.
Independent of the meaning of the arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import Array, InputError
from flaxflair.io.model_files import digest

Tree = TypeVar("Tree")

# orbax numbers its operations for the whole process: two concurrent saves, by threads that train a
# fold each, wait for each other forever.
_ONE_AT_A_TIME = threading.Lock()


def save(folder: Path, step: int, tree: object) -> None:
    """Saves a tree and its digest as the newest checkpoint in `folder`, then removes older ones.

    All processes of one JAX program must call it with the same values; the first one writes.

    Args:
      folder: created if missing; holds one checkpoint.
      step: number of the checkpoint; skipped unless larger than that of the newest, because equal
        steps of one run hold equal values.
      tree: pytree of arrays.

    Raises:
      WriteError: the disk is full or the folder read-only; the previous checkpoint remains.
    """
    named = name_leaves(tree)
    if jax.process_count() > 1:  # orbax would have every process write its own copy
        named = {name: np.asarray(leaf) for name, leaf in named.items()}
    try:
        with _ONE_AT_A_TIME, _open(folder) as checkpoints:
            if checkpoints.latest is None or checkpoints.latest.step < step:
                checkpoints.save(step, named, custom_metadata={"digest": _digest(step, named)})
    except Exception as error:  # orbax and TensorStore raise various types on a full disk
        first = (str(error).splitlines() or [""])[0][:200]
        raise WriteError(
            f"{folder}: the checkpoint of step {step} cannot be written ({type(error).__name__}: "
            f"{first}); free space and repeat the command, which resumes from the previous one"
        ) from error


def load(folder: Path, like: Tree) -> Tree | None:
    """Loads the newest tree of `folder`; returns None if it holds no checkpoint.

    Incomplete and older checkpoints of killed processes are removed; no other process may be saving
    to the folder.

    Args:
      folder: folder of `save`.
      like: tree of the same structure, shapes and types.

    Raises:
      InputError: the checkpoint has another structure, cannot be read, or was changed.
    """
    if not folder.is_dir():
        return None
    # The default device of this thread: each fold may be trained on a separate device.
    device = jnp.zeros(()).sharding
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for name, leaf in name_leaves(like).items()
    }
    try:
        newest = _load_newest(folder, wanted)
    except Exception as error:  # orbax raises various types for unusable checkpoints
        raise InputError(
            f"{folder}: the checkpoint does not fit this network or is damaged; "
            f"remove the folder to restart training ({type(error).__name__})"
        ) from error
    if newest is None:
        return None
    step, named, stored_digest = newest
    if stored_digest != _digest(step, named):
        raise InputError(
            f"{folder}: the checkpoint was changed since it was saved (its digest differs or is "
            "missing); remove the folder to restart training"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in wanted])


def _load_newest(
    folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[int, dict[str, jax.Array], str | None] | None:
    """Returns step, arrays and digest of the newest checkpoint, and removes the others."""
    with _ONE_AT_A_TIME, _open(folder) as checkpoints:
        if checkpoints.latest is None:
            return None
        newest = checkpoints.latest.step
        for step in {checkpoint.step for checkpoint in checkpoints.checkpoints} - {newest}:
            checkpoints.delete(step)
        metadata = checkpoints.metadata(newest).custom_metadata or {}
        return newest, checkpoints.load(newest, wanted), metadata.get("digest")


def _open(folder: Path) -> ocp.training.Checkpointer:
    newest = ocp.training.preservation_policies.LatestN(1)
    # orbax's protocol and its policy differ in the type of one argument.
    policy = cast(ocp.training.preservation_policies.PreservationPolicy, newest)
    return ocp.training.Checkpointer(
        str(folder.resolve()), preservation_policy=policy, cleanup_tmp_directories=True
    )


def _digest(step: int, named: Mapping[str, jax.Array | Array]) -> str:
    return digest({"step": step}, {name: np.asarray(leaf) for name, leaf in named.items()})


def name_leaves(tree: object) -> dict[str, jax.Array]:
    """Returns path -> leaf: `train/params/hidden/0/kernel`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
