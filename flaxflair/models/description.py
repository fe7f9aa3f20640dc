"""Description of a stored model: JSON schema, validation and parsing.

Model files of unknown origin may contain anything. A description that passes the schema can be
built and applied; others are refused with one sentence. Independent of files and arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from flaxflair.baselines import BASELINES
from flaxflair.config import NETWORK, NetworkConfig
from flaxflair.config.universal import ConditionalConfig
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.normalization import METHODS, Normalization, Stats, expect_consistent
from flaxflair.imaging.tissue_classes import CLASSES
from flaxflair.models.error_scale import GROUPS, PROBABILITIES, Calibration
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import ARITHMETIC

UNIVERSAL = "universal"  # method of a universal model
_MAX_CHARACTERS = 160  # of quoted content in a message

_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "maxItems": 1000}
_STATS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["mean", "std"],
    "properties": {"mean": _NUMBERS, "std": _NUMBERS},
}
_WIDTH: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 4096}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["method", "sequences", "region", "voxel_size", "normalization"],
    "properties": {
        "method": {"enum": [NETWORK, *BASELINES]},
        "sequences": {
            "type": "array",
            "items": {"enum": list(INPUTS)},
            "minItems": 1,
            "uniqueItems": True,
        },
        "region": {"enum": ["volume", "brain"]},
        "voxel_size": {
            "type": ["array", "null"],
            "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},  # mm
            "minItems": 3,
            "maxItems": 3,
        },
        "network": {
            "type": "object",
            "additionalProperties": False,
            "required": list(asdict(NetworkConfig())),
            "properties": {
                "name": {"enum": list(NETWORKS)},
                "layers": {"type": "integer", "minimum": 1, "maximum": 64},
                "filters": _WIDTH,
                "dtype": {"enum": list(ARITHMETIC)},
                "init": {"enum": ["glorot", "least_squares"]},
            },
        },
        "normalization": {
            "type": "object",
            "additionalProperties": False,
            "required": ["images", "flair", "method", "places", "gain"],
            "properties": {
                "images": _STATS,
                "flair": _STATS,
                "method": {"enum": list(METHODS)},
                "places": {"type": "array", "items": _NUMBERS, "maxItems": 1000},
                "gain": _NUMBERS,
            },
        },
    },
}
_QUANTILES: dict[str, Any] = {
    "type": "array",
    "items": {"type": "number", "minimum": -1e6, "maximum": 1e6},
    "minItems": len(PROBABILITIES),
    "maxItems": len(PROBABILITIES),
}


def _each(names: Sequence[str], schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of an object with exactly these properties."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(names),
        "properties": dict.fromkeys(names, schema),
    }


# Of a universal model; see `models.universal`.
UNIVERSAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["method", "network", "about"],
    "properties": {
        "method": {"const": UNIVERSAL},
        "network": {
            "type": "object",
            "additionalProperties": False,
            "required": list(asdict(ConditionalConfig())),
            "properties": {
                "widths": {"type": "array", "items": _WIDTH, "minItems": 1, "maxItems": 8},
                "convolutions": {"type": "integer", "minimum": 1, "maximum": 16},
                "reduction": {"enum": [1, 2]},
                "fine": {"type": "integer", "minimum": 0, "maximum": 4096},
                "dtype": {"enum": list(ARITHMETIC)},
            },
        },
        "about": {
            "type": "object",
            "maxProperties": 40,
            "additionalProperties": {"type": ["string", "number", "array", "null"]},
        },
        # Of its error scale; empty before calibration.
        "scale": {
            "type": "object",
            "additionalProperties": False,
            "dependentRequired": {"quantiles": ["patients"], "patients": ["quantiles"]},
            "properties": {
                "quantiles": _each(GROUPS, _each(CLASSES, _QUANTILES)),
                "patients": {"type": "array", "items": {"type": "string"}, "maxItems": 1000},
            },
        },
    },
}
_VALIDATOR = Draft202012Validator(SCHEMA)
_UNIVERSAL_VALIDATOR = Draft202012Validator(UNIVERSAL_SCHEMA)


def expect_description(found: Mapping[str, Any]) -> None:
    """Validates the description of a model.

    Raises:
      InputError: the message names the field that violates the schema.
    """
    universal = found.get("method") == UNIVERSAL
    validator = _UNIVERSAL_VALIDATOR if universal else _VALIDATOR
    if (error := best_match(validator.iter_errors(found))) is not None:
        message = error.message
        if len(message) > _MAX_CHARACTERS:
            message = f"{message[:_MAX_CHARACTERS]}…"
        field = error.json_path.removeprefix("$").removeprefix(".")
        raise InputError(f"{field[:_MAX_CHARACTERS]}: {message}" if field else message)
    if universal:
        return
    if (found["method"] == NETWORK) != ("network" in found):
        raise InputError(f"method: {found['method']!r} and 'network' do not go together")
    sequences = tuple(found["sequences"])
    if sequences != tuple(name for name in INPUTS if name in sequences):
        raise InputError(
            f"sequences: {','.join(sequences)} are not in the order of {','.join(INPUTS)}"
        )


def parse_network(found: Mapping[str, Any]) -> NetworkConfig:
    """Returns the configuration of a network from a validated description."""
    # 3.0 is an integer in JSON schema, but a float in Python.
    whole = {name: int(found[name]) for name in ("layers", "filters")}
    return NetworkConfig(**{**found, **whole})


def parse_conditional(found: Mapping[str, Any]) -> ConditionalConfig:
    """Returns the configuration of a universal network from a validated description."""
    widths = tuple(int(width) for width in found["widths"])
    whole = {name: int(found[name]) for name in ("convolutions", "reduction", "fine")}
    return ConditionalConfig(widths, dtype=found["dtype"], **whole)


def parse_calibration(found: Mapping[str, Any]) -> Calibration | None:
    """Returns the calibration of an error scale from a validated description; None if empty.

    Raises:
      InputError: the quantiles of a class are not in ascending order.
    """
    if not found:
        return None
    quantiles = {
        group: {name: tuple(map(float, row)) for name, row in rows.items()}
        for group, rows in found["quantiles"].items()
    }
    for group, rows in quantiles.items():
        for name, row in rows.items():
            if list(row) != sorted(row):
                raise InputError(f"scale.quantiles.{group}.{name}: {row} are not in order")
    return Calibration(quantiles, tuple(found["patients"]))


def parse_normalization(found: Mapping[str, Any], channels: int) -> Normalization:
    """Returns the normalisation from a validated description.

    Raises:
      InputError: it is inconsistent with the number of input sequences.
    """
    images, flair = (
        Stats(tuple(found[part]["mean"]), tuple(found[part]["std"])) for part in ("images", "flair")
    )
    normalization = Normalization(
        images,
        flair,
        found["method"],
        tuple(tuple(row) for row in found["places"]),
        tuple(found["gain"]),
    )
    expect_consistent(normalization, channels)
    return normalization
