"""A U-Net in place of the FCN (Wei et al. 2019, Table 2): 375,585 parameters, else as `fcn64.py`.

It has every advantage that the FCN has: the same windows, epochs, optimiser and linear start.
"""

from flaxflair.config import Config
from flaxflair.configs import fcn64


def get_config(variant: str = "") -> Config:
    config = fcn64.get_config(variant)
    config.network.name = "unet"
    config.network.layers = 2
    config.network.filters = 16
    return config
