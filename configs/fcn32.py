"""As `fcn64.py`, with 32 filters a layer (Wei et al. 2019, Table 1)."""

from configs import fcn64
from flaxflair.config import Config


def get_config(variant: str = "") -> Config:
    return fcn64.get_config(variant, filters=32)
