"""Bias of each scan of a session, estimated from the fields of all scans."""

from __future__ import annotations

import numpy as np
import pytest

from flaxflair.core.records import Array
from flaxflair.preprocessing.bias_field import ERROR, bias_weights

MODES = 19


def waves(rng: np.random.Generator, spread: float) -> Array:
    """Returns a random field of `MODES` smooth waves, float64[n], with this SD."""
    along = np.linspace(0, np.pi, 1000)
    shapes = np.cos(np.outer(np.arange(1, MODES + 1), along)) * np.sqrt(2 / MODES)
    return spread * rng.standard_normal(MODES) @ shapes


def mix(fields: dict[str, Array], name: str) -> Array:
    weights = bias_weights(fields)[name]
    return np.sum([weight * fields[other] for other, weight in weights.items()], axis=0)


def test_a_common_field_is_separated_from_the_error_of_n4():
    rng = np.random.default_rng(1)
    single: dict[str, list[float]] = {name: [] for name in ERROR}
    mixed: dict[str, list[float]] = {name: [] for name in ERROR}
    for _ in range(20):
        coil = waves(rng, 0.05)
        bias = {name: coil + waves(rng, 0.01) for name in ERROR}
        found = {name: bias[name] + waves(rng, spread) for name, spread in ERROR.items()}
        for name in ERROR:
            single[name].append(float(np.std(found[name] - bias[name])))
            mixed[name].append(float(np.std(mix(found, name) - bias[name])))
    for name in ("T1", "T2", "DIR", "FLAIR"):
        assert np.mean(mixed[name]) < 0.75 * np.mean(single[name])
    for name in ("T1SE", "PD"):  # so accurate that the others add nothing
        assert np.mean(mixed[name]) < 1.05 * np.mean(single[name])


def test_scans_with_the_smallest_error_have_the_largest_weights():
    rng = np.random.default_rng(2)
    weights: dict[str, list[float]] = {name: [] for name in ERROR}
    for _ in range(20):
        coil = waves(rng, 0.05)
        found = {name: coil + waves(rng, spread) for name, spread in ERROR.items()}
        for name, weight in bias_weights(found)["DIR"].items():
            weights[name].append(weight)
    mean = {name: np.mean(values) for name, values in weights.items()}
    assert min(mean["T1SE"], mean["PD"]) > max(mean["T1"], mean["T2"], mean["FLAIR"])


def test_a_field_unlike_the_others_keeps_its_weight():
    rng = np.random.default_rng(3)
    coil, other = waves(rng, 0.05), waves(rng, 0.06)
    found = {"T1": coil, "T2": coil + waves(rng, 0.01), "FLAIR": other}
    weights = bias_weights(found)
    assert weights["FLAIR"]["FLAIR"] > 0.85
    assert max(weights["FLAIR"]["T1"], weights["FLAIR"]["T2"]) < 0.1
    assert max(weights["T1"]["FLAIR"], weights["T2"]["FLAIR"]) < 0.1


def test_independent_fields_lose_little():
    rng = np.random.default_rng(4)
    single, mixed = [], []
    for _ in range(20):
        bias = {name: waves(rng, 0.04) for name in ERROR}
        found = {name: bias[name] + waves(rng, spread) for name, spread in ERROR.items()}
        single += [np.std(found[name] - bias[name]) for name in ERROR]
        mixed += [np.std(mix(found, name) - bias[name]) for name in ERROR]
    assert np.mean(mixed) < 1.1 * np.mean(single)


def test_a_single_scan_keeps_nearly_all_of_its_field():
    field = waves(np.random.default_rng(5), 0.05)
    assert 0.8 < bias_weights({"T1": field})["T1"]["T1"] < 1


def test_weights_are_independent_of_constants_and_of_order():
    rng = np.random.default_rng(6)
    coil = waves(rng, 0.05)
    found = {name: coil + waves(rng, 0.02) for name in ("T1", "T2", "FLAIR")}
    first = bias_weights(found)
    again = bias_weights({name: found[name] + 0.3 for name in ("FLAIR", "T1", "T2")})
    for name, row in first.items():
        for other, weight in row.items():
            assert again[name][other] == pytest.approx(weight, abs=1e-3)
