"""Fitted methods with a common interface: `predict` and `pack`.

Networks, forests and atlases all map z-scores of the inputs to z-scores of the FLAIR. Independent
of intensities, subjects and training.
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
    """Learnt parameters in the form in which they are stored.

    Attributes:
      method: `network`, or a key of `BASELINES`.
      network: configuration of the network; None for a baseline.
      arrays: name -> array.
    """

    method: str
    network: NetworkConfig | None
    arrays: dict[str, Array]


class Fitted(Protocol):
    """A fitted method."""

    @property
    def name(self) -> str:
        """Name in tables: a key of `NETWORKS` or of `BASELINES`."""
        ...

    def predict(
        self,
        images: Sequence[Sliceable],
        insides: Sequence[Array | None],
        *,
        tile_voxels: int = 0,
        batch: int = 1,
    ) -> list[Array]:
        """Predicts sessions of one grid.

        Args:
          images: [x, y, z, m] each, z-scores.
          insides: bool[x, y, z] each, voxels to predict; others are undefined. None for all.
          tile_voxels: voxels computed at once; 0 for whole volumes.
          batch: volumes computed at once.

        Returns:
          float32[x, y, z] each, z-scores.
        """
        ...

    def pack(self) -> Packed:
        """Returns the learnt parameters, for `unpack`."""
        ...


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network.

    Attributes:
      config: configuration of the network.
      network: network as pure functions.
      params: parameters.
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
        tile_voxels: int = 0,
        batch: int = 1,
    ) -> list[Array]:
        """See `Fitted`; networks predict all voxels, ignoring `insides`."""
        forward, params = self.network.forward, self.params
        radius, stride = self.network.radius, self.network.stride
        if tile_voxels:
            return [
                predict_streamed(
                    forward, params, i, radius=radius, tile_voxels=tile_voxels, stride=stride
                )
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
      state: learnt parameters, for the functions of the baseline.
    """

    name: str
    state: Any

    def predict(
        self,
        images: Sequence[Sliceable],
        insides: Sequence[Array | None],
        *,
        tile_voxels: int = 0,
        batch: int = 1,
    ) -> list[Array]:
        """See `Fitted`; baselines bound their memory themselves and ignore `voxels`."""
        predict = BASELINES[self.name].predict
        return [
            predict(self.state, whole[:, :, :], inside)
            for whole, inside in zip(images, insides, strict=True)
        ]

    def pack(self) -> Packed:
        """See `Fitted`."""
        return Packed(self.name, None, BASELINES[self.name].pack(self.state))


def unpack(packed: Packed, channels: int) -> Fitted:
    """Inverse of `pack`.

    Args:
      packed: stored parameters, of any origin.
      channels: number of input sequences, m.

    Raises:
      InputError: the arrays do not fit the method.
    """
    if packed.network is None:
        return FittedBaseline(
            packed.method, BASELINES[packed.method].unpack(packed.arrays, channels)
        )
    network = NETWORKS[packed.network.name](channels, packed.network)
    params = unpack_params(network.init, packed.arrays)
    return FittedNetwork(packed.network, network, params)


def pack_params(params: Params) -> dict[str, Array]:
    """Returns name -> parameter of a network, for `unpack_params`.

    The arrays are float16 if that is exact, as for weights loaded from float16 files, so that the
    digest of a model is the same before saving and after loading.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in name_leaves(params).items()}
    with np.errstate(over="ignore"):  # beyond float16, a weight is infinite and so not exact
        half = {name: array.astype(np.float16) for name, array in arrays.items()}
    exact = all(np.array_equal(half[name], array) for name, array in arrays.items())
    return half if exact else arrays


def unpack_params(init: Callable[[jax.Array], Params], arrays: Mapping[str, Array]) -> Params:
    """Inverse of `pack_params`; float32.

    Args:
      init: `init` of the network.
      arrays: stored parameters, of any origin.

    Raises:
      InputError: the arrays do not fit the network.
    """
    # Without allocation: a file may describe a network larger than any memory.
    shapes = jax.eval_shape(init, jax.random.key(0))
    names = name_leaves(shapes)
    wanted = {name: Spec(leaf.shape, ("float32", "float16")) for name, leaf in names.items()}
    expect_arrays(arrays, wanted)
    leaves = [jnp.asarray(arrays[name], names[name].dtype) for name in names]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
