"""Ordinary least squares, voxel by voxel: what a line alone explains.

Folds, normalisation and region are those of `fcn64.py`.
"""

from flaxflair.config import Config
from flaxflair.configs import fcn64


def get_config(variant: str = "") -> Config:
    config = fcn64.get_config(variant)
    config.method = "least_squares"
    return config
