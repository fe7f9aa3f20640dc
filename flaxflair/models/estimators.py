"""Methods: what was fitted, each with the same `predict` and `save`.

A network, a forest and an atlas are alike to everything above this module: z-scores of the inputs
in, z-scores of the FLAIR out. Knows no intensities, no subjects and no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flaxflair import checkpoint
from flaxflair.baselines import BASELINES
from flaxflair.config import NETWORK, NetworkConfig
from flaxflair.networks import NETWORKS, Network
from flaxflair.networks.network import Params
from flaxflair.predict import predict_streamed, predict_volumes
from flaxflair.volume import Array, InputError
from flaxflair.windows import Sliceable


class Fitted(Protocol):
    """What was fitted."""

    @property
    def name(self) -> str:
        """What tables call it: a key of `NETWORKS` or of `BASELINES`."""
        ...

    def predict(
        self,
        images: Sequence[Sliceable],
        insides: Sequence[Array | None],
        *,
        voxels: int = 0,
        batch: int = 1,
    ) -> list[Array]:
        """Predicts sessions of one grid.

        Args:
          images: [x, y, z, m] each, z-scores.
          insides: bool[x, y, z] each, the voxels that are asked for; others may be anything. None
            asks for all.
          voxels: computed at a time; 0 for whole volumes.
          batch: volumes side by side.

        Returns:
          float32[x, y, z] each, z-scores.
        """
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes what was learnt into a folder; returns what `load_fitted` needs beside it."""
        ...


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network.

    Attributes:
      config: what the network was built from.
      network: its pure functions.
      params: its parameters.
    """

    config: NetworkConfig
    network: Network
    params: Params

    @property
    def name(self) -> str:
        """See `Fitted`."""
        return self.config.name

    def predict(
        self,
        images: Sequence[Sliceable],
        insides: Sequence[Array | None],
        *,
        voxels: int = 0,
        batch: int = 1,
    ) -> list[Array]:
        """See `Fitted`; a network computes every voxel, whichever are asked for."""
        forward, params = self.network.forward, self.params
        radius, stride = self.network.radius, self.network.stride
        if voxels:
            return [
                predict_streamed(forward, params, i, radius=radius, voxels=voxels, stride=stride)
                for i in images
            ]
        stacked = jnp.asarray(np.stack([whole[:, :, :] for whole in images]))
        batch = min(batch, len(images))
        return list(np.asarray(predict_volumes(forward, params, stacked, batch=batch)))

    def save(self, folder: Path) -> dict[str, Any]:
        """See `Fitted`."""
        checkpoint.save(folder / "params", 0, self.params)
        return {"network": asdict(self.config)}


@dataclass(frozen=True)
class FittedBaseline:
    """A fitted baseline.

    Attributes:
      name: a key of `BASELINES`.
      state: what it learnt, for the functions there.
    """

    name: str
    state: Any

    def predict(
        self,
        images: Sequence[Sliceable],
        insides: Sequence[Array | None],
        *,
        voxels: int = 0,
        batch: int = 1,
    ) -> list[Array]:
        """See `Fitted`; baselines keep their own memory bounded, whatever `voxels` says."""
        predict = BASELINES[self.name].predict
        return [
            predict(self.state, whole[:, :, :], inside)
            for whole, inside in zip(images, insides, strict=True)
        ]

    def save(self, folder: Path) -> dict[str, Any]:
        """See `Fitted`."""
        BASELINES[self.name].save(self.state, folder)
        return {}


def load_fitted(folder: Path, method: str, channels: int, said: dict[str, Any]) -> Fitted:
    """Undoes `save`.

    Args:
      folder: given to `save`.
      method: `network`, or a key of `BASELINES`.
      channels: input sequences, m.
      said: what `save` returned.

    Raises:
      InputError: the folder does not hold it.
    """
    if method != NETWORK:
        return FittedBaseline(method, BASELINES[method].load(folder))
    config = NetworkConfig(**said["network"])
    network = NETWORKS[config.name](channels, config)
    params = checkpoint.load(folder / "params", network.init(jax.random.key(0)))
    if params is None:
        raise InputError(f"{folder / 'params'}: holds no parameters; train the fold again")
    return FittedNetwork(config, network, params)
