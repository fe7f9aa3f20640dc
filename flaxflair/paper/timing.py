"""Prediction time of the FCN for one volume of the paper's size."""

from __future__ import annotations

import time

import jax
import numpy as np

from flaxflair.config import NetworkConfig
from flaxflair.models.inference import predict_volumes
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import count_parameters

GRID = (208, 256, 40)
REPEATS = 2


def count_fcn(filters: int, channels: int) -> int:
    """Returns the parameters of the FCN with three hidden layers."""
    network = NETWORKS["fcn"](channels, NetworkConfig(filters=filters))
    return count_parameters(network.init(jax.random.key(0)))


def time_fcn(filters: int, channels: int) -> float:
    """Returns the seconds to predict one volume, the minimum of two, without compilation.

    Weights are random; the time is independent of them.
    """
    network = NETWORKS["fcn"](channels, NetworkConfig(filters=filters))
    params = network.init(jax.random.key(0))
    images = np.random.default_rng(0).standard_normal((1, *GRID, channels), np.float32)
    volumes = jax.device_put(images)
    seconds = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(predict_volumes(network.forward, params, volumes, batch=1))
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
