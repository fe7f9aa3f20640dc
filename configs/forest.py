"""A random forest of 60 trees on 3×3×3 patches of every sequence (Wei et al. 2019, Table 2).

Folds, normalisation and region are those of `fcn64.py`.
"""

from configs import fcn64
from flaxflair.config import Config


def get_config(variant: str = "") -> Config:
    config = fcn64.get_config(variant)
    config.method = "forest"
    return config
