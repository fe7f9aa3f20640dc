"""Checkpoints: any pytree of arrays to a folder and back. The only module that imports orbax.

A checkpoint is committed whole or not at all, so a process killed at any moment leaves the one
before it. Knows nothing of what the arrays mean.
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
from flaxflair.core.records import InputError
from flaxflair.io.model_files import digest

Tree = TypeVar("Tree")

# orbax numbers its operations for the whole process: of two saves at once, in threads that train a
# fold each, both wait for a signal that the other took.
_ONE_AT_A_TIME = threading.Lock()


def save(folder: Path, step: int, tree: object) -> None:
    """Saves a tree and its digest as the newest in `folder`; older ones are removed after that.

    Args:
      folder: made if missing; holds one checkpoint at a time.
      step: number of the checkpoint; one that is not newer than the newest is skipped, since the
        same step of the same run holds the same values.
      tree: pytree of arrays.

    Raises:
      WriteError: the disk is full or the folder read-only; the checkpoint before is still there.
    """
    named = name_leaves(tree)
    try:
        with _ONE_AT_A_TIME, _open(folder) as checkpoints:
            if checkpoints.latest is None or checkpoints.latest.step < step:
                checkpoints.save(step, named, custom_metadata={"digest": _digest(step, named)})
    except Exception as error:  # orbax and TensorStore raise many kinds where a disk is full
        first = (str(error).splitlines() or [""])[0][:200]
        raise WriteError(
            f"{folder}: the checkpoint of step {step} cannot be written ({type(error).__name__}: "
            f"{first}); free space there, and the same command goes on from the one before"
        ) from error


def load(folder: Path, like: Tree) -> Tree | None:
    """Loads the newest tree of `folder`, or returns None if there is none.

    What kills left beside it, begun checkpoints and older ones, is removed: no other process may be
    saving there.

    Args:
      folder: as given to `save`.
      like: a tree of the same structure, shapes and types.

    Raises:
      InputError: the checkpoint holds another structure, cannot be read, or is not what was saved.
    """
    if not folder.is_dir():
        return None
    # Where new arrays go: folds may be training on a device each.
    device = jnp.zeros(()).sharding
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for name, leaf in name_leaves(like).items()
    }
    try:
        newest = _load_newest(folder, wanted)
    except Exception as error:  # orbax raises many kinds; each means that this one is no use
        raise InputError(
            f"{folder}: the checkpoint does not fit this network or is damaged; "
            f"remove the folder to train anew ({type(error).__name__})"
        ) from error
    if newest is None:
        return None
    step, named, saved = newest
    if saved != _digest(step, named):
        raise InputError(
            f"{folder}: the checkpoint is not what was saved (its digest is another, or none); "
            "remove the folder to train anew"
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
        said = checkpoints.metadata(newest).custom_metadata or {}
        return newest, checkpoints.load(newest, wanted), said.get("digest")


def _open(folder: Path) -> ocp.training.Checkpointer:
    newest = ocp.training.preservation_policies.LatestN(1)
    # orbax's protocol and its own policy differ in the type of one argument.
    policy = cast(ocp.training.preservation_policies.PreservationPolicy, newest)
    return ocp.training.Checkpointer(
        str(folder.resolve()), preservation_policy=policy, cleanup_tmp_directories=True
    )


def _digest(step: int, named: Mapping[str, jax.Array]) -> str:
    return digest({"step": step}, {name: np.asarray(leaf) for name, leaf in named.items()})


def name_leaves(tree: object) -> dict[str, jax.Array]:
    """Returns the leaves by their place: `train/params/hidden/0/kernel`."""
    return {
        jax.tree_util.keystr(place, simple=True, separator="/"): leaf
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
