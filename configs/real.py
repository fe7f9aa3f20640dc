"""Real patients: T1 and T2 to FLAIR, leave one participant out, Adam on windows of the brain."""

from flaxflair.config import Config


def get_config(variant: str = "") -> Config:
    config = Config()
    config.data.inputs = ("T1", "T2")
    config.data.region = "brain"
    config.normalization.method = "brain"
    config.folds.count = 0
    return config
