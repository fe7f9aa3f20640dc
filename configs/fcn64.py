"""Wei et al. 2019: five sequences, three hidden layers of 64 filters, SGD at 0.0005, five folds.

Variants: (none), the paper's protocol; `honest`, which stops on a training subject set aside and
takes statistics from training subjects alone; `quick`, the same job for two cores and minutes.
"""

from flaxflair.config import Config


def get_config(variant: str = "", filters: int = 64) -> Config:
    config = Config()
    config.network.filters = filters
    config.normalization.statistics = "all"
    if variant == "honest":
        config.normalization.statistics = "training"
        config.stop.watch = "training"
    return config
