"""Networks: each a pure `forward(params, images)`, found by name.

A new network is a new module with a `build` function and a line in `NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable

from flaxflair.config import NetworkConfig
from flaxflair.networks import fcn
from flaxflair.networks.network import Network

NETWORKS: dict[str, Callable[[int, NetworkConfig], Network]] = {
    "fcn": lambda channels, config: fcn.build(
        channels, layers=config.layers, filters=config.filters, dtype=config.dtype
    ),
}

__all__ = ["NETWORKS", "Network"]
