"""Fields of a configuration: their paths, former names, JSON form and comparison."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from flaxflair.config.run import Config

# Fields of earlier versions, and what they are now.
RENAMED = {
    "forest.trees": "forest.n_estimators",
    "forest.leaf": "forest.min_samples_leaf",
    "forest.features": "forest.max_features",
    "forest.share": "forest.max_samples",
    "predict.voxels": "predict.tile_voxels",
    "propagation.search": "propagation.search_radius",
    "stop.strips": "stop.patience",
    "stop.watch": "stop.monitor",
}


def to_json(config: Config) -> str:
    """Returns the configuration as JSON text, its fields in a fixed order."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Inverse of `to_json`. Fields that are absent take their defaults.

    Raises:
      ValueError: a field is unknown, or this is no JSON.
    """
    return _build(Config, json.loads(text))


def _build(kind: type, values: dict[str, Any]) -> Any:
    defaults = kind()
    if unknown := values.keys() - {entry.name for entry in dataclasses.fields(kind)}:
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    known = {
        entry.name: _build(type(current), value)
        if dataclasses.is_dataclass(current := getattr(defaults, entry.name))
        else (tuple(value) if isinstance(value, list) else value)
        for entry in dataclasses.fields(kind)
        if (value := values.get(entry.name)) is not None
    }
    return kind(**known)


def differences(ours: Config, theirs: Config) -> list[str]:
    """Returns one line for each field in which two configurations differ."""
    a, b = flatten(dataclasses.asdict(ours)), flatten(dataclasses.asdict(theirs))
    return [f"{name}: {a[name]} instead of {b[name]}" for name in a if a[name] != b[name]]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by their path: `train.steps`."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
