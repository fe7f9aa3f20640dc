"""Real patients: T1 and T2 to FLAIR, leave one participant out, Adam on windows of the brain."""

from flaxflair.config import Config


def get_config() -> Config:
    config = Config()
    config.data.inputs = ("T1", "T2")
    config.data.region = "brain"
    # Scanners and sessions differ in gain: a z-score over the data set would tie the model to one.
    config.normalization.method = "brain"
    config.network.filters = 24
    config.network.init = "least_squares"
    config.train.optimizer = "adam"
    config.train.learning_rate = 0.002
    config.train.schedule = "cosine"
    config.train.window = (32, 32, 32)
    config.train.windows_per_subject = 150
    config.train.epochs = 12
    config.stop.watch = "none"
    config.stop.strips = 0
    config.stop.keep = "last"
    config.folds.count = 0
    config.predict.slab = 48
    return config
