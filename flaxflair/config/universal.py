"""The typed configuration of the training of a universal model: what can be chosen, and defaults.

A universal model synthesises the FLAIR from any subset of sequences of any scanner; it is trained
on simulated windows, not on a cohort. Knows nothing of flags, files or JAX.

Annotations here stay types (no `from __future__ import annotations`): the flags parse by them.
"""

import math
from dataclasses import dataclass, field

from flaxflair.core.records import InputError


@dataclass(slots=True)
class LibraryConfig:
    """What windows are simulated from.

    Attributes:
      labels: folder of label maps of heads, 1 mm, FreeSurfer's numbering.
      shapes: folder with `lesion_shapes.npz` and a prior map of lesions.
      masks: folder of lesion masks of whole patients in MNI152 space.
    """

    labels: str = ""
    shapes: str = ""
    masks: str = ""


@dataclass(slots=True)
class RealConfig:
    """Real sessions to learn from, beside simulated windows.

    Attributes:
      roots: prepared data sets; of each, every session that has a FLAIR.
      without: participants that are left out, `sub-01` or `01`, or `NAME/sub-01` of one data set
        alone.
    """

    roots: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(slots=True)
class ConditionalConfig:
    """The network; see `networks.conditional`.

    Attributes:
      widths: filters of each level, finest first.
      convolutions: of each level.
      reduction: 1, or 2 to begin at half resolution.
      fine: filters of the branch at full resolution beside it; 0 for none.
      dtype: of the computation, `float32`, `tensorfloat32` or `bfloat16`.
    """

    widths: tuple[int, ...] = (32, 64, 96)
    convolutions: int = 2
    reduction: int = 2
    fine: int = 16
    dtype: str = "float32"


@dataclass(slots=True)
class SynthesisConfig:
    """How it is trained.

    Attributes:
      steps: in all.
      window: voxels of 1 mm along each edge.
      anatomies: windows of different heads in a step.
      contrasts: examples of each, with sequences and a scanner of their own.
      real: windows of real sessions in a step, beside the simulated ones.
      target: `flair`, or `scale`: that of the errors of the model `start`, whose other weights do
        not change.
      start: a universal model's file, from whose weights training starts; empty for random ones.
      optimizer: `muon`, or `adamw`.
      learning_rate: after the warm-up.
      warmup: steps up from zero.
      cooldown: steps of the decay to zero at the end; 0 for none.
      seed: of the first weights and of the windows.
      workers: processes that simulate.
    """

    steps: int = 100_000
    window: int = 48
    anatomies: int = 4
    contrasts: int = 1
    real: int = 0
    target: str = "flair"
    start: str = ""
    optimizer: str = "muon"
    learning_rate: float = 1.5e-3
    warmup: int = 100
    cooldown: int = 0
    seed: int = 0
    workers: int = 1


@dataclass(slots=True)
class UniversalConfig:
    """A training.

    Attributes:
      library: what windows are simulated from.
      real: sessions that windows are cut from.
      network: the network.
      train: how it is trained.
      save_every_seconds: between two checkpoints.
    """

    library: LibraryConfig = field(default_factory=LibraryConfig)
    real: RealConfig = field(default_factory=RealConfig)
    network: ConditionalConfig = field(default_factory=ConditionalConfig)
    train: SynthesisConfig = field(default_factory=SynthesisConfig)
    save_every_seconds: float = 300.0


def validate(config: UniversalConfig) -> UniversalConfig:
    """Returns the configuration.

    Raises:
      InputError: a field holds what it cannot; the message names field and value.
    """
    train, network = config.train, config.network
    for name in ("labels", "shapes", "masks"):
        if not getattr(config.library, name):
            raise InputError(
                f"config.library.{name} is empty; name the folder: --config.library.{name}=FOLDER"
            )
    for name in ("steps", "anatomies", "contrasts", "warmup", "workers"):
        if (value := getattr(train, name)) < 1:
            raise InputError(f"config.train.{name} is {value}; it must be at least 1")
    if train.real < 0:
        raise InputError(f"config.train.real is {train.real}; it must be at least 0")
    if bool(train.real) != bool(config.real.roots):
        raise InputError(
            f"config.train.real is {train.real} and config.real.roots names "
            f"{len(config.real.roots)} data sets; windows of real sessions need both"
        )
    if not 0 < (rate := train.learning_rate) < math.inf:
        raise InputError(f"config.train.learning_rate is {rate}; it must be above 0, and finite")
    if not 0 <= train.seed < 2**32:
        raise InputError(f"config.train.seed is {train.seed}; it must be from 0 to {2**32 - 1}")
    if train.target not in (targets := ("flair", "scale")):
        raise InputError(
            f"config.train.target is {train.target!r}; choose from {', '.join(targets)}"
        )
    if train.target == "scale" and not train.start:
        raise InputError(
            "config.train.target is scale, that of a model's errors; name the model in "
            "config.train.start"
        )
    if train.optimizer not in (optimizers := ("adamw", "muon")):
        raise InputError(
            f"config.train.optimizer is {train.optimizer!r}; choose from {', '.join(optimizers)}"
        )
    if train.cooldown and not 0 < train.cooldown <= train.steps - train.warmup:
        raise InputError(
            f"config.train.cooldown is {train.cooldown}; it must be from 0 to the steps after the "
            f"warm-up ({train.steps - train.warmup})"
        )
    _validate_network(network)
    stride = network.reduction * 2 ** (len(network.widths) - 1)
    if train.window < stride or train.window % stride:
        raise InputError(
            f"config.train.window is {train.window}; it must be a multiple of {stride}, the stride "
            "of the network"
        )
    return config


def _validate_network(network: ConditionalConfig) -> None:
    if not network.widths or min(network.widths) < 1:
        raise InputError(f"config.network.widths is {network.widths}; give filters of each level")
    if network.reduction not in (1, 2):
        raise InputError(f"config.network.reduction is {network.reduction}; choose 1 or 2")
    if network.fine < 0 or (network.fine and network.reduction == 1):
        raise InputError(
            f"config.network.fine is {network.fine}; it must be at least 0, and 0 with "
            "config.network.reduction=1"
        )
    if network.convolutions < 1:
        raise InputError(
            f"config.network.convolutions is {network.convolutions}; it must be at least 1"
        )
    if network.dtype not in (dtypes := ("float32", "tensorfloat32", "bfloat16")):
        raise InputError(
            f"config.network.dtype is {network.dtype!r}; choose from {', '.join(dtypes)}"
        )
