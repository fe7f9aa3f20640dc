"""Divergence: a training whose losses or weights are not finite is stopped, not saved.

Independent of networks and of what is trained on.
"""

from __future__ import annotations

import jax
import numpy as np

from flaxflair.core.records import InputError


def expect_finite(values: object, where: str, remedy: str) -> None:
    """Checks losses that were read, or weights that are to be saved.

    Args:
      values: pytree of numbers and arrays; read from the device.
      where: folder and step or epoch, for the message.
      remedy: what to do, for the message.

    Raises:
      InputError: one of the values is NaN or infinite.
    """
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(values)):
        raise InputError(
            f"{where}: loss or weights are not finite, because the training diverged; {remedy}"
        )


def lower_rate(learning_rate: float) -> str:
    """Returns what to do if a training with this learning rate of its configuration diverges."""
    return f"lower config.train.learning_rate ({learning_rate:g}) and name another --workdir"
