"""Checkpoints: any pytree of arrays to a folder and back. The only module that imports orbax.

A checkpoint is committed whole or not at all, so a process killed at any moment leaves the one
before it. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from flaxflair.volume import InputError

Tree = TypeVar("Tree")

# orbax numbers its operations for the whole process: of two saves at once, in threads that train a
# fold each, both wait for a signal that the other took.
_ONE_AT_A_TIME = threading.Lock()


def save(folder: Path, step: int, tree: object) -> None:
    """Saves a tree as the newest in `folder`; older ones are removed once it is committed.

    Args:
      folder: made if missing; holds one checkpoint at a time.
      step: number of the checkpoint; one that is not newer than the newest is skipped, since the
        same step of the same run holds the same values.
      tree: pytree of arrays.
    """
    with _ONE_AT_A_TIME, _open(folder) as checkpoints:
        if checkpoints.latest is None or checkpoints.latest.step < step:
            checkpoints.save(step, _name_leaves(tree))


def load(folder: Path, like: Tree) -> Tree | None:
    """Loads the newest tree of `folder`, or returns None if there is none.

    Args:
      folder: as given to `save`.
      like: a tree of the same structure, shapes and types.

    Raises:
      InputError: the checkpoint holds another structure, or cannot be read.
    """
    if not folder.is_dir():
        return None
    with _ONE_AT_A_TIME, _open(folder) as checkpoints:
        if checkpoints.latest is None:
            return None
        # Where new arrays go: folds may be training on a device each.
        device = jnp.zeros(()).sharding
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
            for name, leaf in _name_leaves(like).items()
        }
        try:
            named = checkpoints.load(checkpoints.latest, wanted)
        except Exception as error:  # orbax raises many kinds; each means that this one is no use
            raise InputError(
                f"{folder}: the checkpoint does not fit this network or is damaged; "
                f"remove the folder to train anew ({type(error).__name__})"
            ) from error
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in wanted])


def _open(folder: Path) -> ocp.training.Checkpointer:
    newest = ocp.training.preservation_policies.LatestN(1)
    # orbax's protocol and its own policy differ in the type of one argument.
    policy = cast(ocp.training.preservation_policies.PreservationPolicy, newest)
    return ocp.training.Checkpointer(str(folder.resolve()), preservation_policy=policy)


def _name_leaves(tree: object) -> dict[str, jax.Array]:
    """Returns the leaves by their place: `train/params/hidden/0/kernel`."""
    return {
        jax.tree_util.keystr(place, simple=True, separator="/"): leaf
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
