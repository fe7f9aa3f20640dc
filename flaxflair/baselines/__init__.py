"""Baselines: methods other than networks, by name, each with the same four functions.

A new baseline is a module with these functions, a line in `BASELINES`, and settings in `config`.
Independent of folds, normalisation and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flaxflair.baselines import forest, least_squares, propagation
from flaxflair.config import Config
from flaxflair.core.records import Array

Examples = Iterable[tuple[Array, Array, Array]]


class Baseline(NamedTuple):
    """A baseline as functions.

    Attributes:
      fit: (examples, config, seed) -> state; examples are (images x y z m, flair x y z, region
        bool x y z) of each subject, in z-scores.
      predict: (state, images x y z m, inside bool x y z or None) -> flair x y z, float32; `inside`
        are the voxels to predict, None for all.
      pack: state -> named arrays to store.
      unpack: (arrays, sequences m) -> state; raises InputError for invalid arrays.
    """

    fit: Callable[[Examples, Config, int], Any]
    predict: Callable[[Any, Array, Array | None], Array]
    pack: Callable[[Any], dict[str, Array]]
    unpack: Callable[[Mapping[str, Array], int], Any]


BASELINES: dict[str, Baseline] = {
    "least_squares": Baseline(
        lambda examples, config, seed: least_squares.fit(examples),
        lambda state, images, inside: least_squares.predict(state, images),
        least_squares.pack,
        least_squares.unpack,
    ),
    "forest": Baseline(
        lambda examples, config, seed: forest.fit(
            examples,
            trees=config.forest.n_estimators,
            leaf=config.forest.min_samples_leaf,
            features=config.forest.max_features,
            patches=config.forest.patches,
            share=config.forest.max_samples,
            seed=seed,
        ),
        forest.predict,
        forest.pack,
        forest.unpack,
    ),
    "propagation": Baseline(
        lambda examples, config, seed: propagation.fit(
            examples, search=config.propagation.search_radius
        ),
        propagation.predict,
        propagation.pack,
        propagation.unpack,
    ),
}
