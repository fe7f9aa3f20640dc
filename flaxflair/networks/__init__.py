"""Networks by name, each with a pure `forward(params, images)`.

A new network is a new module with a `build` function and a line in `NETWORKS`.
Independent of training, files and normalisation.
"""

from __future__ import annotations

from typing import Protocol

from flaxflair.config import NetworkConfig
from flaxflair.networks import fcn, mlp, unet
from flaxflair.networks.conv import conv3d
from flaxflair.networks.network import Convolution, Network


class Builder(Protocol):
    """Builds a network for a number of input sequences."""

    def __call__(
        self, channels: int, config: NetworkConfig, convolution: Convolution = conv3d, /
    ) -> Network:
        """Returns the network; `convolution` is its convolution function."""
        ...


NETWORKS: dict[str, Builder] = {
    "fcn": lambda channels, config, convolution=conv3d: fcn.build(
        channels,
        layers=config.layers,
        filters=config.filters,
        dtype=config.dtype,
        convolution=convolution,
    ),
    "unet": lambda channels, config, convolution=conv3d: unet.build(
        channels,
        layers=config.layers,
        filters=config.filters,
        dtype=config.dtype,
        convolution=convolution,
    ),
    "mlp": lambda channels, config, convolution=conv3d: mlp.build(
        channels, layers=config.layers, filters=config.filters, dtype=config.dtype
    ),
}

__all__ = ["NETWORKS", "Builder", "Network"]
