"""Wei et al. 2019: five sequences, three hidden layers of 64 filters, SGD at 0.0005, five folds."""

from flaxflair.config import Config
from flaxflair.volume import InputError


def get_config(variant: str = "", filters: int = 64) -> Config:
    config = Config()
    config.network.filters = filters
    if variant == "":
        # What the paper did: the held-out images have a say in the statistics, and in when to stop.
        config.normalization.statistics = "all"
    elif variant == "honest":
        config.stop.watch = "training"
    elif variant == "quick":
        _quicken(config)
    else:
        raise InputError(f"there is no variant {variant!r} of this config; choose honest or quick")
    return config


def _quicken(config: Config) -> None:
    config.data.phantom.scale = 0.25
    config.data.region = "brain"
    config.network.filters = 12
    config.network.init = "least_squares"
    config.train.optimizer = "adam"
    config.train.learning_rate = 0.003
    config.train.schedule = "cosine"
    config.train.window = (24, 24, 24)
    config.train.windows_per_subject = 4
    config.train.epochs = 12
    config.stop.strips = 0
    config.stop.every = 3
    config.stop.keep = "last"
