"""Plan of the reproduction: the cross-validations that each table and figure needs.

Plans only; `running` executes the studies.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flaxflair.config import Config, validate
from flaxflair.core.sequences import parse_inputs
from flaxflair.paper import published

# Method -> its configuration file in `configs/`.
CONFIGS = {
    "forest": "forest",
    "propagation": "propagation",
    "mlp": "mlp",
    "unet": "unet",
    "fcn": "fcn64",
    "least_squares": "least_squares",
}

PARTS = {
    "table1": "Table 1: the number of filters",
    "fig3": "Figure 3: learning curves and depth",
    "table2": "Table 2: mean squared error and structural similarity",
    "table3": "Table 3: lesion contrast",
    "lesions": "Lesion segmentation and Figure 5",
    "fig4": "Figure 4: predictions and errors",
    "fig6": "Figure 6: saliency",
    "table4a": "Table 4 (a): one sequence removed",
    "table4b": "Table 4 (b): without DIR",
    "table4c": "Table 4 (c): subsets of sequences",
    "fig7": "Figure 7: predictions from subsets",
}


@dataclass(frozen=True)
class Scale:
    """Size of a reproduction.

    Attributes:
      variant: variant of the configurations in `configs/`.
      filters: the paper's number of filters -> the number used instead.
      few: number of folds for all parts but `MAIN`; 0 for all folds.
      jobs: parallel studies; 0 for one per core, as small ones leave most of a second core unused.
      parts: default parts, keys of `PARTS`.
    """

    variant: str
    filters: dict[int, int]
    few: int
    jobs: int
    parts: tuple[str, ...]


# Parts that compare methods, run on all folds.
MAIN = ("table2", "table3", "lesions", "fig4", "fig6")

SCALES = {
    "quick": Scale("small", {64: 32, 32: 16, 96: 48}, few=1, jobs=0, parts=tuple(PARTS)),
    "full": Scale("", {64: 64, 32: 32, 96: 96}, few=0, jobs=1, parts=tuple(PARTS)),
    "real": Scale("real", {64: 24, 32: 12, 96: 36}, few=1, jobs=1, parts=MAIN),
}


@dataclass(frozen=True)
class Study:
    """One cross-validation.

    Attributes:
      name: name of the study and its folder.
      config: configuration of the run.
      few: whether only `Scale.few` folds are run.
      parts: parts that need the study, keys of `PARTS`.
    """

    name: str
    config: Config
    few: bool
    parts: frozenset[str]


def load_config(method: str, variant: str) -> Config:
    """Returns a method's configuration, from `configs/`."""
    module = importlib.import_module(f"flaxflair.configs.{CONFIGS[method]}")
    return module.get_config(variant)


def plan_studies(
    scale: Scale, *, root: str = "", sequences: Sequence[str], parts: Collection[str]
) -> list[Study]:
    """Returns the studies that parts of the report need, in order of priority.

    Args:
      scale: size of the reproduction.
      root: prepared BIDS data set; empty for the embedded phantom.
      sequences: input sequences of the data set. Studies of other sequences are omitted.
      parts: keys of `PARTS`.
    """
    wanted, every = set(parts), tuple(sequences)
    studies: dict[str, Study] = {}

    def add(name: str, method: str, part: str | Collection[str], few: bool, **changes: int) -> None:
        """Adds a study, or its parts to the study of that name; `changes` are network options."""
        needed = {part} if isinstance(part, str) else set(part)
        if not needed & wanted:
            return
        config = load_config(method, scale.variant)
        subset = name.partition("-from-")[2]
        config.data.root = root
        config.data.inputs = tuple(subset.split("-")) if subset else every
        config.predict.saliency = name == "fcn"  # only Figure 6 shows maps
        for field, value in changes.items():
            setattr(config.network, field, value)
        existing = studies.get(name)
        if existing is not None:
            needed |= existing.parts
            few = few and existing.few
        studies[name] = Study(name, validate(config), few, frozenset(needed & wanted))

    add("fcn", "fcn", MAIN, few=False)
    for method in CONFIGS:
        add(method, method, set(MAIN) - {"fig6"}, few=False)
    removable = [name for name in published.WITHOUT if name in every] if len(every) > 2 else []
    for name in removable:
        others = [other for other in every if other != name]
        add(name_subset("fcn", others), "fcn", {"table4a"}, few=True)
        add("fcn", "fcn", {"table4a"}, few=True)
    if "DIR" in removable:
        others = [other for other in every if other != "DIR"]
        for method in published.WITHOUT_DIR:
            add(name_subset(method, others), method, {"table4b"}, few=True)
            add(method, method, {"table4b"}, few=True)
    for inputs in published.INPUTS:
        if set(inputs) < set(every):
            add(name_subset("fcn", inputs), "fcn", {"table4c", "fig7"}, few=True)
            add("fcn", "fcn", {"table4c", "fig7"}, few=True)
    for filters, used in scale.filters.items():
        name = name_width(filters)
        add(name, "fcn", {"table1"}, few=True, filters=used)
    for layers in published.LAYERS:
        name = name_depth(layers)
        add(name, "fcn", {"fig3"}, few=True, layers=layers)
    return list(studies.values())


def name_subset(method: str, inputs: Sequence[str]) -> str:
    """Returns the name of the study of a method on some of the sequences."""
    return f"{method}-from-{'-'.join(parse_inputs(tuple(inputs)))}"


def name_width(filters: int) -> str:
    """Returns the name of the study of the FCN with the paper's number of filters."""
    return "fcn" if filters == 64 else f"fcn-{filters}-filters"


def name_depth(layers: int) -> str:
    """Returns the name of the study of the FCN with a number of hidden layers."""
    return "fcn" if layers == 3 else f"fcn-{layers}-layers"
