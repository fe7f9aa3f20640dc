"""A random forest of 60 trees on 3×3×3 patches of every sequence (Wei et al. 2019, Table 2).

Folds, normalisation and region are those of `fcn64.py`. It is fitted on as many patches as can be
afforded, which mattered most of what was tried. On one fold of the small phantom, trees that each
draw 100,000 of 100,000 patches (with replacement, as Breiman's do) reach MSE 381 in 10 minutes on a
busy core, 50,000 of 100,000 reach 390 in 5, and 50,000 of 200,000 reach 384 in 6.6. From 20,000
patches, leaves of 1 to 5 voxels came within 2 % of each other; all features at a split were as good
as a third of them in four times the time, and their square root was a tenth worse.
"""

from flaxflair.config import Config
from flaxflair.configs import fcn64


def get_config(variant: str = "") -> Config:
    config = fcn64.get_config(variant)
    config.method = "forest"
    config.forest.patches = 500_000
    if variant not in ("", "honest"):
        config.forest.patches = 200_000
        config.forest.max_samples = 0.25
    return config
