"""Real patients: T1 and T2 to FLAIR, leave one participant out, Adam on windows of the brain.

Two patients at 1 mm (182×218×182 voxels): 10 to 12 minutes a fold on two busy cores, 2.7 GiB. NMSE
in the brain is 0.60 and 0.42 against 0.97 and 0.73 of least squares; Ratio 1 1.12 and 1.22, truth
1.38 and 1.34.
"""

from flaxflair.config import Config


def get_config() -> Config:
    config = Config()
    config.data.inputs = ("T1", "T2")
    config.data.region = "brain"
    # Sessions differ in gain: a z-score of intensities as they are would tie the model to one.
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
    config.predict.voxels = 2_000_000
    return config
