"""The typed configuration of an adaptation: how a universal model is fine-tuned on own sessions."""

from dataclasses import dataclass

from flaxflair.core.records import InputError


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How a model is fine-tuned.

    Attributes:
      steps: steps of each fine-tuning.
      windows: windows of real sessions in a step.
      window: voxels of 1 mm along each edge, rounded down to a multiple of the network's stride.
      optimizer: `muon` or `adamw`.
      learning_rate: highest learning rate; it rises in the first tenth of the steps, and decreases
        to zero in the second half.
      seed: seed of the windows.
      save_every_seconds: time between two checkpoints.
    """

    steps: int = 120
    windows: int = 2
    window: int = 48
    optimizer: str = "muon"
    learning_rate: float = 5e-4
    seed: int = 0
    save_every_seconds: float = 60.0


def validate(config: Adaptation) -> Adaptation:
    """Returns the configuration.

    Raises:
      InputError: a value is not possible; the message names its flag.
    """
    if config.steps < 2:
        raise InputError(f"--steps is {config.steps}; it must be at least 2")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"--seed is {config.seed}; it must be from 0 to {2**32 - 1}")
    return config
