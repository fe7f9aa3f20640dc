"""As `fcn64.py`, with 96 filters a layer and 513,505 parameters (Wei et al. 2019, Table 1).

Its cost and result have not been measured.
"""

from flaxflair.config import Config
from flaxflair.configs import fcn64


def get_config(variant: str = "") -> Config:
    return fcn64.get_config(variant, filters=96)
