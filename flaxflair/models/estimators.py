"""Methods: what was fitted, each with the same `predict` and `save`.

A network, a forest and an atlas are alike to everything above this module: z-scores of the inputs
in, z-scores of the FLAIR out. Knows no intensities, no subjects and no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flaxflair.baselines import BASELINES
from flaxflair.config import NETWORK, NetworkConfig
from flaxflair.core.arrays import Spec, expect_arrays
from flaxflair.core.records import Array
from flaxflair.imaging.tiling import Sliceable
from flaxflair.models.checkpoints import name_leaves
from flaxflair.models.inference import predict_streamed, predict_volumes
from flaxflair.networks import NETWORKS, Network
from flaxflair.networks.network import Params


class Packed(NamedTuple):
    """What was learnt, to be stored.

    Attributes:
      method: `network`, or a key of `BASELINES`.
      network: what the network was built from; None for a baseline.
      arrays: by name.
    """

    method: str
    network: NetworkConfig | None
    arrays: dict[str, Array]


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

    def pack(self) -> Packed:
        """Returns what was learnt, for `unpack`."""
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

    def pack(self) -> Packed:
        """See `Fitted`."""
        return Packed(NETWORK, self.config, pack_params(self.params))


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

    def pack(self) -> Packed:
        """See `Fitted`."""
        return Packed(self.name, None, BASELINES[self.name].pack(self.state))


def unpack(packed: Packed, channels: int) -> Fitted:
    """Undoes `pack`.

    Args:
      packed: as stored, by whomever.
      channels: input sequences, m.

    Raises:
      InputError: the arrays are not those of such a method.
    """
    if packed.network is None:
        return FittedBaseline(
            packed.method, BASELINES[packed.method].unpack(packed.arrays, channels)
        )
    network = NETWORKS[packed.network.name](channels, packed.network)
    params = unpack_params(network.init, packed.arrays)
    return FittedNetwork(packed.network, network, params)


def pack_params(params: Params) -> dict[str, Array]:
    """Returns a network's parameters by name, for `unpack_params`.

    They are float16 if that loses nothing, as after loading weights that were stored so: a model
    has one digest, whether it was loaded or is yet to be saved.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in name_leaves(params).items()}
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    exact = all(np.array_equal(half[name], array) for name, array in arrays.items())
    return half if exact else arrays


def unpack_params(init: Callable[[jax.Array], Params], arrays: Mapping[str, Array]) -> Params:
    """Undoes `pack_params`; float32.

    Args:
      init: of the network.
      arrays: as stored, by whomever.

    Raises:
      InputError: the arrays are not those of such a network.
    """
    # Shapes alone: a stranger's widths may be those of a network that no memory holds.
    shapes = jax.eval_shape(init, jax.random.key(0))
    names = name_leaves(shapes)
    wanted = {name: Spec(leaf.shape, ("float32", "float16")) for name, leaf in names.items()}
    expect_arrays(arrays, wanted)
    leaves = [jnp.asarray(arrays[name], names[name].dtype) for name in names]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
