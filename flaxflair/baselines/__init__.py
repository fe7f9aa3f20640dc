"""Baselines: methods that are no network, found by name, each with the same four functions.

A new one is a new module with these functions, a line in `BASELINES`, and its settings in `config`.
Knows nothing of folds, intensities or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from flaxflair.baselines import forest, least_squares, propagation
from flaxflair.config import Config
from flaxflair.volume import Array

Examples = Iterable[tuple[Array, Array, Array]]


class Baseline(NamedTuple):
    """A baseline as functions.

    Attributes:
      fit: (examples, config, seed) -> state; examples are (images x y z m, flair x y z, region
        bool x y z) of each subject, in z-scores.
      predict: (state, images x y z m, inside bool x y z or None) -> flair x y z, float32; `inside`
        are the voxels that are asked for, None all.
      save: (state, folder), the folder being there.
      load: folder -> state.
    """

    fit: Callable[[Examples, Config, int], Any]
    predict: Callable[[Any, Array, Array | None], Array]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]


BASELINES: dict[str, Baseline] = {
    "least_squares": Baseline(
        lambda examples, config, seed: least_squares.fit(examples),
        lambda state, images, inside: least_squares.predict(state, images),
        least_squares.save,
        least_squares.load,
    ),
    "forest": Baseline(
        lambda examples, config, seed: forest.fit(
            examples,
            trees=config.forest.trees,
            leaf=config.forest.leaf,
            features=config.forest.features,
            patches=config.forest.patches,
            share=config.forest.share,
            seed=seed,
        ),
        forest.predict,
        forest.save,
        forest.load,
    ),
    "propagation": Baseline(
        lambda examples, config, seed: propagation.fit(examples, search=config.propagation.search),
        propagation.predict,
        propagation.save,
        propagation.load,
    ),
}
