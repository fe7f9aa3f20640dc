"""The typed configuration of a run: what can be chosen, its default, and what is refused.

The defaults are the paper's. A file in `configs/` returns one of these trees, changed where it
differs. Knows nothing of flags, files or JAX.

Annotations here stay types (no `from __future__ import annotations`): the flags parse by them.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS, parse_inputs, parse_patterns
from flaxflair.imaging.normalization import METHODS

NETWORK = "network"


@dataclass(slots=True)
class PhantomConfig:
    """The embedded data set, used when no data root is given.

    Attributes:
      subjects: how many are made.
      healthy: how many of them have no lesion.
      seed: of the simulation.
      scale: 1.0 is the paper's 208×256×40 grid; less keeps the field of view with larger voxels.
    """

    subjects: int = 24
    healthy: int = 4
    seed: int = 0
    scale: float = 1.0


@dataclass(slots=True)
class DataConfig:
    """What is read.

    Attributes:
      root: prepared BIDS data set; empty for the embedded phantom.
      inputs: names of the input sequences.
      patterns: `SEQUENCE=PATTERN`, paths below the root that hold a sequence where their names do
        not say so (`T1SE=*_acq-tse_T1w.nii.gz`).
      region: voxels that count in the loss and in every fit, `volume` (the paper) or `brain`;
        with `brain`, the prediction is zero outside it.
    """

    root: str = ""
    inputs: tuple[str, ...] = INPUTS
    patterns: tuple[str, ...] = ()
    region: str = "volume"
    phantom: PhantomConfig = field(default_factory=PhantomConfig)


@dataclass(slots=True)
class NormalizationConfig:
    """How intensities become numbers near one.

    Attributes:
      method: `dataset`, a z-score per sequence over all voxels of all images (the paper); or, for
        cohorts in which sessions differ in gain, the same after each image was brought into line by
        its own `brain` mean, `robust` z-score, `white`-matter peak or `quantile`s in the brain, or
        by the levels of its `tissue`s: fluid, grey and white matter.
      statistics: of `training` subjects only, or of `all` (the paper, which so sees the held-out
        images' mean and SD).
    """

    method: str = "dataset"
    statistics: str = "training"


@dataclass(slots=True)
class NetworkConfig:
    """The network.

    Attributes:
      name: a key of `networks.NETWORKS`.
      layers: hidden layers; of a U-Net, its poolings, which are 2.
      filters: filters in each.
      dtype: of the computation, `float32`, `tensorfloat32` (float32 whose products a tensor core
        may round to 10 bits; the same as float32 on a CPU) or `bfloat16`; parameters are always
        float32.
      init: `glorot` (the paper), or `least_squares`, which starts as the least-squares solution
        and so spends no step on what a line already explains.
    """

    name: str = "fcn"
    layers: int = 3
    filters: int = 64
    dtype: str = "float32"
    init: str = "glorot"


@dataclass(slots=True)
class ForestConfig:
    """The random forest.

    Attributes:
      n_estimators: trees, whose predictions are averaged.
      min_samples_leaf: voxels of a leaf, at least.
      max_features: share of the features that is tried at a split; a third is Breiman's choice for
        a regression.
      patches: voxels that it is fitted on, drawn evenly from the training subjects; 0 for all.
      max_samples: share of these that each tree draws, with replacement.
    """

    n_estimators: int = 60
    min_samples_leaf: int = 3
    max_features: float = 1 / 3
    patches: int = 0
    max_samples: float = 1.0


@dataclass(slots=True)
class PropagationConfig:
    """Modality propagation.

    Attributes:
      search_radius: voxels along x, y and z, each way, in which the nearest patch is sought.
    """

    search_radius: tuple[int, int, int] = (3, 3, 3)


@dataclass(slots=True)
class TrainConfig:
    """How the network is fitted.

    Attributes:
      optimizer: a key of `train.OPTIMIZERS`.
      learning_rate: its peak, if the schedule is not constant.
      schedule: `constant`, or `cosine`: a short linear warm-up, then a cosine to zero.
      epochs: at most this many.
      window: edge lengths of windows along x, y, z; zeros for whole volumes (the paper).
      windows_per_subject: drawn from every training subject in an epoch; of no effect on whole
        volumes.
      batch: windows or volumes in a step.
      call: `step` for step, batches coming from the host; a whole `epoch` in one compiled call,
        all examples lying on the device, which have to be of one grid; or `auto`, the latter on an
        accelerator.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.0005
    schedule: str = "constant"
    epochs: int = 1000
    window: tuple[int, int, int] = (0, 0, 0)
    windows_per_subject: int = 1
    batch: int = 1
    call: str = "auto"


@dataclass(slots=True)
class StopConfig:
    """When training ends, and which weights are kept.

    Attributes:
      monitor: the subjects whose error is monitored: `heldout`, the fold itself (the paper;
        optimistic, since the fold then chooses the weights it is scored with), `training`, one
        training subject set aside, or `none`.
      every: epochs between two looks.
      patience: p of STOP_p, in strips; 0 disables early stopping.
      strip_length: q, in epochs; a multiple of `every`.
      keep: `best` weights by the monitored error, or the `last`.
    """

    monitor: str = "heldout"
    every: int = 1
    patience: int = 3
    strip_length: int = 5
    keep: str = "best"


@dataclass(slots=True)
class FoldsConfig:
    """How the cohort is cut.

    Attributes:
      count: number of folds; 0 leaves one participant out at a time.
      seed: of the draw, and of the networks' initial weights.
      at_once: folds trained side by side, each on a device of its own.
    """

    count: int = 5
    seed: int = 0
    at_once: int = 1


@dataclass(slots=True)
class PredictConfig:
    """How volumes are predicted.

    Attributes:
      batch: subjects computed side by side under `vmap` in the one call of a fold.
      tile_voxels: voxels of a tile, about 16 bytes of memory each for every filter; 0 for whole
        volumes.
      saliency: whether maps of a network's inputs are made. Tiles of a saliency map overlap by four
        times the network's radius: for one that sees far, as the U-Net, they cost more than its
        training.
    """

    batch: int = 1
    tile_voxels: int = 0
    saliency: bool = True


@dataclass(slots=True)
class MeshConfig:
    """Devices that train one fold together.

    Attributes:
      data: parts that a batch is cut into; must divide `train.batch`.
      space: slabs that a volume is cut into along x, whose margins are exchanged before every
        convolution.
    """

    data: int = 1
    space: int = 1


@dataclass(slots=True)
class Config:
    """A run.

    Attributes:
      method: `network`, or the baseline that is fitted in its place: `forest`, `propagation` or
        `least_squares`. What the others read of this configuration is then of no effect.
    """

    method: str = NETWORK
    data: DataConfig = field(default_factory=DataConfig)
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    forest: ForestConfig = field(default_factory=ForestConfig)
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    save_every_seconds: float = 30.0

    @property
    def title(self) -> str:
        """What tables call the method: the network's name, or the baseline's."""
        return self.network.name if self.method == NETWORK else self.method


_CHOICES = {
    "method": (NETWORK, "forest", "propagation", "least_squares"),
    "data.region": ("volume", "brain"),
    "normalization.method": METHODS,
    "normalization.statistics": ("training", "all"),
    "network.dtype": ("float32", "tensorfloat32", "bfloat16"),
    "network.init": ("glorot", "least_squares"),
    "train.schedule": ("constant", "cosine"),
    "train.call": ("auto", "step", "epoch"),
    "stop.monitor": ("heldout", "training", "none"),
    "stop.keep": ("best", "last"),
}
_AT_LEAST_ONE = (
    "network.layers",
    "network.filters",
    "forest.n_estimators",
    "forest.min_samples_leaf",
    "train.epochs",
    "train.windows_per_subject",
    "train.batch",
    "stop.every",
    "stop.strip_length",
    "folds.at_once",
    "predict.batch",
    "mesh.data",
    "mesh.space",
)
_NOT_NEGATIVE = ("stop.patience", "folds.count", "predict.tile_voxels", "forest.patches")
_SEEDS = ("data.phantom.seed", "folds.seed")
_SHARES = ("data.phantom.scale", "forest.max_features", "forest.max_samples")


def _get(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def validate(config: Config) -> Config:
    """Returns the configuration with its inputs in the package's order.

    Raises:
      InputError: a field holds what it cannot; the message names field, value and choices.
    """
    for path, choices in _CHOICES.items():
        if (value := _get(config, path)) not in choices:
            raise InputError(f"config.{path} is {value!r}; choose from {', '.join(choices)}")
    for path in _AT_LEAST_ONE:
        if (value := _get(config, path)) < 1:
            raise InputError(f"config.{path} is {value}; it must be at least 1")
    for path in _NOT_NEGATIVE:
        if (value := _get(config, path)) < 0:
            raise InputError(f"config.{path} is {value}; it must be 0 or more")
    _check_ranges(config)
    _check_combinations(config)
    try:
        config.data.inputs = parse_inputs(config.data.inputs)
    except ValueError as error:
        raise InputError(f"config.data.inputs: {error}") from None
    try:
        parse_patterns(config.data.patterns)
    except ValueError as error:
        raise InputError(f"config.data.patterns: {error}") from None
    return config


def _check_ranges(config: Config) -> None:
    """Refuses a single field that is out of its range."""
    for path in _SHARES:
        if not 0 < (value := _get(config, path)) <= 1:
            raise InputError(f"config.{path} is {value}; it must be above 0, at most 1")
    radius = config.propagation.search_radius
    if len(radius) != 3 or min(radius) < 0:
        raise InputError(
            f"config.propagation.search_radius is {radius}; give three numbers, 0 or more"
        )
    if not 0 < (rate := config.train.learning_rate) < math.inf:
        raise InputError(f"config.train.learning_rate is {rate}; it must be above 0, and finite")
    for path in _SEEDS:
        if not 0 <= (value := _get(config, path)) < 2**32:
            raise InputError(f"config.{path} is {value}; it must be from 0 to {2**32 - 1}")
    window = config.train.window
    if len(window) != 3 or (any(window) and min(window) < 1):
        raise InputError(f"config.train.window is {window}; give three edges, or three zeros")


def _check_combinations(config: Config) -> None:
    """Refuses fields that exclude each other."""
    if config.stop.keep == "best" and config.stop.monitor == "none":
        raise InputError(
            "config.stop.keep is 'best' and no error is monitored; set stop.monitor or keep 'last'"
        )
    if config.stop.patience and config.stop.monitor == "none":
        raise InputError(
            "config.stop.patience needs a monitored error; set stop.monitor, or patience to 0"
        )
    if config.stop.patience and config.stop.strip_length % config.stop.every:
        raise InputError(
            f"config.stop.strip_length is {config.stop.strip_length}; "
            f"it must be a multiple of stop.every ({config.stop.every})"
        )
    if config.train.batch % config.mesh.data:
        raise InputError(
            f"config.mesh.data is {config.mesh.data} and does not divide "
            f"config.train.batch ({config.train.batch}); make the batch a multiple of it"
        )
    if config.mesh.data * config.mesh.space > 1:
        if config.folds.at_once > 1:
            raise InputError(
                f"config.folds.at_once is {config.folds.at_once} and config.mesh takes all devices "
                "for one fold; set one of them to 1"
            )
        if config.train.call == "epoch":
            raise InputError(
                "config.train.call is 'epoch', which is for one device; set it to 'step' or 'auto' "
                "where config.mesh takes several"
            )
