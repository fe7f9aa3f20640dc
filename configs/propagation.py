"""Modality propagation (Ye et al. 2013): the nearest 3×3×3 patch of the training subjects.

Folds, normalisation and region are those of `fcn64.py`.
"""

from configs import fcn64
from flaxflair.config import Config


def get_config(variant: str = "") -> Config:
    config = fcn64.get_config(variant)
    config.method = "propagation"
    return config
