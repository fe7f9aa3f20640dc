"""Real patients: T1 and T2 to FLAIR, leave one participant out, Adam on windows of the brain.

Two patients at 1 mm (182×218×182 voxels): 10 to 12 minutes a fold on two busy cores, 2.7 GiB. NMSE
in the brain is 0.59 and 0.42 against 0.97 and 0.73 of least squares; Ratio 1 1.13 and 1.22, truth
1.38 and 1.34. Each session is scaled by its mean in the brain: its gain then changes nothing.
"""

from flaxflair.config import Config
from flaxflair.configs import fcn64


def get_config() -> Config:
    return fcn64.get_config("real")
