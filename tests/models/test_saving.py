"""Saved models: they come back as they were, or are refused in one sentence, whoever made them."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxflair.baselines import BASELINES
from flaxflair.cli import main
from flaxflair.config import NETWORK, Config, NetworkConfig
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import Array, InputError
from flaxflair.imaging.normalization import Normalization, Stats
from flaxflair.io.model_files import digest
from flaxflair.models.estimators import Fitted, FittedBaseline, FittedNetwork
from flaxflair.models.model import Model, predict_array
from flaxflair.models.saving import digest_model, export_model, load_model, save_model
from flaxflair.networks import NETWORKS
from tests.disks import no_room_beyond
from tests.samples import SHAPE, draw_params, load_fold

pytestmark = pytest.mark.usefixtures("quick_compile")

METHODS = (*NETWORKS, *BASELINES)
NORMALIZATION = Normalization(
    Stats((1.0, 1.0), (0.4, 0.5)), Stats((1.0,), (0.5,)), "robust", ((0.0, 1.0),) * 3, (0.0, 1.2)
)


def fit(method: str) -> Fitted:
    if method in NETWORKS:
        config = NetworkConfig(name=method, layers=2, filters=4)
        network = NETWORKS[method](2, config)
        return FittedNetwork(config, network, draw_params(network))
    config = Config()
    config.forest.n_estimators, config.propagation.search_radius = 3, (1, 1, 1)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(*SHAPE, 2)).astype(np.float32)
    example = images, images[..., 0], np.ones(SHAPE, bool)
    return FittedBaseline(method, BASELINES[method].fit([example], config, 0))


def make(method: str) -> Model:
    return Model(("T1", "T2"), fit(method), NORMALIZATION, "brain", (1.0, 1.0, 3.0))


@pytest.fixture(scope="module", params=METHODS)
def model(request: pytest.FixtureRequest) -> Model:
    return make(request.param)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose only fold is a small network."""
    save_model(tmp_path / "run/fold-0", make("mlp"))
    return tmp_path / "run"


@pytest.fixture
def images() -> tuple[Array, Array]:
    """Two sequences and a brain."""
    images = np.random.default_rng(1).uniform(1, 2, (*SHAPE, 2)).astype(np.float32)
    return images, np.ones(SHAPE, bool)


@pytest.mark.parametrize("form", ["run", "model.safetensors"])
def test_a_loaded_model_predicts_like_the_saved_model(
    model: Model, images: tuple[Array, Array], form: str, tmp_path: Path
):
    place = tmp_path / form
    if form == "run":
        save_model(place / "fold-0", model)
    else:
        export_model(model, place)
    loaded = load_fold(place)
    np.testing.assert_array_equal(predict_array(loaded, *images), predict_array(model, *images))
    assert loaded.normalization == model.normalization
    assert (loaded.sequences, loaded.region, loaded.voxel_size) == (
        ("T1", "T2"),
        "brain",
        (1.0, 1.0, 3.0),
    )
    assert digest_model(loaded) == digest_model(model)


def test_saved_models_contain_no_pickle(model: Model, tmp_path: Path):
    save_model(tmp_path, model)
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


@pytest.mark.parametrize("method", METHODS)
def test_loading_a_foreign_model_runs_no_code(method: str, run: Path, capsys):
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return print, ("code of a stranger ran",)

    content = pickle.dumps(Evil())
    for name in ("forest.joblib", "atlas.npz", "model.safetensors", "params", "model.pkl"):
        (run / "fold-0" / name).write_bytes(gzip.compress(content) if "f" in name else content)
    edit(run, method=NETWORK if method in NETWORKS else method)
    with pytest.raises(InputError):
        load_model(run)
    assert "stranger" not in capsys.readouterr().out


def edit(run: Path, *, sealed: bool = False, **changes: Any) -> None:
    """Changes `model.json`, `normalization__images__mean` being a place; None takes one away."""
    path = run / "fold-0/model.json"
    description = json.loads(path.read_text())
    for place, value in changes.items():
        *parents, name = place.split("__")
        owner = description
        for parent in parents:
            owner = owner[parent]
        if value is None:
            del owner[name]
        else:
            owner[name] = value
    if sealed:
        description.pop("digest")
        description["digest"] = digest(description, load_file(run / "fold-0/model.safetensors"))
    path.write_text(json.dumps(description))


NAN = float("nan")
ODD: list[dict[str, Any]] = [
    {"method": "svm"},
    {"method": None},
    {"method": ["network"]},
    {"method": "forest"},
    {"sequences": ["T1", "X"]},
    {"sequences": ["T2", "T1"]},
    {"sequences": ["T1", "T1"]},
    {"sequences": ["T1"]},
    {"sequences": ["T1", "T2", "PD"]},
    {"sequences": []},
    {"sequences": "T1"},
    {"sequences": ["T1", "FLAIR"]},
    {"region": "moon"},
    {"region": None},
    {"voxel_size": "3mm"},
    {"voxel_size": [1.0, 1.0]},
    {"voxel_size": [1.0, 0.0, 1.0]},
    {"voxel_size": [1.0, 1.0, 1e9]},
    {"network": None},
    {"network": "fcn"},
    {"network__name": "resnet"},
    {"network__filters": 10**7},
    {"network__filters": 4096},
    {"network__filters": 0},
    {"network__filters": 4.5},
    {"network__filters": "4"},
    {"network__layers": 64},
    {"network__layers": True},
    {"network__dtype": "float8"},
    {"network__more": 1},
    {"network__name": "unet", "network__layers": 3},
    {"normalization": None},
    {"normalization": []},
    {"normalization__images__mean": [1.0]},
    {"normalization__images__mean": ["a", "b"]},
    {"normalization__images__std": [0.0, 1.0]},
    {"normalization__images__std": [1e-60, 1.0]},
    {"normalization__images__mean": [1e60, 1.0]},
    {"normalization__flair__std": [1.0, 1.0]},
    {"normalization__method": "unit"},
    {"normalization__method": "dataset"},
    {"normalization__method": "quantile"},
    {"normalization__places": [[0.0, 1.0]]},
    {"normalization__places": [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]},
    {"normalization__gain": []},
    {"normalization__gain": [0.0, 0.0]},
    {"normalization__more": 1},
    {"more": {"deep": 1}},
]


@pytest.mark.parametrize("sealed", [False, True], ids=["", "sealed"])
@pytest.mark.parametrize("changes", ODD, ids=str)
def test_an_invalid_description_gives_one_sentence_with_any_digest(
    changes: dict[str, Any], sealed: bool, run: Path
):
    edit(run, sealed=sealed, **changes)
    with pytest.raises(
        InputError, match=r"model\.json: .*; restore the model as it was saved"
    ) as error:
        load_model(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"region": "moon"}, "region: 'moon' is not one of"),
        ({"sequences": ["T2", "T1"]}, "sequences: T2,T1 are not in the order of T1,"),
        ({"network__more": 1}, r"network: .*'more' was unexpected"),
        ({"network__filters": 8}, "array 'hidden/0/bias/value' is float32 of 4; .* of 8 is needed"),
        ({"digest": None}, "holds no digest"),
        ({"region": "volume"}, "damaged or was changed since it was saved"),
        ({"normalization__images__mean": [1.0, 1.5]}, "damaged or was changed since"),
    ],
    ids=str,
)
def test_the_invalid_field_of_a_description_is_named(
    changes: dict[str, Any], found: str, run: Path
):
    edit(run, sealed="damaged" not in found and "digest" not in changes, **changes)
    with pytest.raises(InputError, match=found):
        load_model(run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"digest": 1}',
        "[" * 100_000,
        '{"a": NaN}',
        '{"a": 1e999}',
        "\xff",
        "1" * 5000,
    ],
    ids=lambda text: text[:12],
)
def test_a_description_that_is_not_json_gives_one_sentence(text: str, run: Path):
    (run / "fold-0/model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"model\.json: .*; restore the model as it was saved"):
        load_model(run)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(model: Model, tmp_path: Path):
    save_model(tmp_path / "run/fold-0", model)
    export_model(model, tmp_path / "one.safetensors")
    rng, saved = random.Random(0), digest_model(model)
    refused: list[str] = []
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for _ in range(40):
            spoilt = bytearray(whole)
            spoilt[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            path.write_bytes(spoilt)
            try:
                source = path if path.parent == tmp_path else tmp_path / "run"
                assert digest_model(load_model(source)) == saved
            except InputError as error:
                refused.append(str(error))
        path.write_bytes(whole)
    assert len(refused) > 100
    assert not any("\n" in sentence for sentence in refused)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(b"\xff" * 64),
        lambda path: save_file({"a": np.zeros(3)}, path),
        lambda path: save_file({**load_file(path), "more": np.zeros(3)}, path),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["gone", "empty", "cut", "longer", "noise", "others", "more", "folder"],
)
@pytest.mark.parametrize("form", ["run", "one.safetensors"])
def test_damaged_arrays_give_one_sentence(
    damage: Callable[[Path], Any], form: str, run: Path, tmp_path: Path
):
    path = run / "fold-0/model.safetensors"
    if form != "run":
        path = tmp_path / form
        export_model(load_model(run), path)
    damage(path)
    with pytest.raises(InputError, match=r"; restore|; give a file|no such file"):
        load_model(tmp_path / form)


def spoil(name: str, change: Callable[[Array], Any]) -> Callable[[dict[str, Array]], None]:
    def spoil(arrays: dict[str, Array]) -> None:
        arrays[name] = np.array(arrays[name])
        changed = change(arrays[name])
        arrays[name] = arrays[name] if changed is None else changed

    return spoil


def put(at: Any, value: Any) -> Callable[[Array], None]:
    return lambda array: array.__setitem__(at, value)


@pytest.mark.parametrize(
    ("method", "change", "found"),
    [
        ("mlp", spoil("readout/bias/value", put(0, NAN)), "not finite"),
        ("mlp", spoil("readout/bias/value", lambda a: a.astype(np.int32)), "is int32"),
        ("fcn", lambda arrays: arrays.pop("readout/bias/value"), "lacks 'readout/bias/value'"),
        ("least_squares", spoil("coefficients", lambda a: a[:2]), "float64 of 3 is needed"),
        ("forest", spoil("children", put((0, 0), 0)), "does not lie after it"),
        ("forest", spoil("children", put((0, 1), 10**6)), "does not lie after it"),
        ("forest", spoil("children", put((0, 1), -1)), "does not lie after it"),
        ("forest", spoil("feature", put(0, 54)), "outside 0 to 53"),
        ("forest", spoil("feature", put(0, -1)), "outside 0 to 53"),
        ("forest", spoil("starts", put(0, 1)), "first nodes of the trees"),
        ("forest", spoil("starts", lambda a: a[::-1]), "first nodes of the trees"),
        ("forest", spoil("value", lambda a: a[:-1]), "differ in length"),
        ("propagation", spoil("region", put(slice(None), False)), "no voxel"),
        ("propagation", spoil("search", put(0, -1)), "is none within the atlas"),
        ("propagation", spoil("search", put(0, 10**6)), "is none within the atlas"),
        ("propagation", spoil("images", lambda a: a[..., :1]), "array 'images'"),
    ],
)
def test_arrays_that_do_not_fit_the_method_are_refused_with_a_valid_digest(
    method: str, change: Callable[[dict[str, Array]], Any], found: str, tmp_path: Path
):
    save_model(tmp_path / "fold-0", make(method))
    path = tmp_path / "fold-0/model.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    edit(tmp_path, sealed=True)
    with pytest.raises(InputError, match=rf"model\.json: .*{found}"):
        load_model(tmp_path)


def test_the_arrays_of_another_fold_are_refused(run: Path):
    save_model(run / "fold-1", make("least_squares"))
    shutil.copy(run / "fold-1/model.safetensors", run / "fold-0/model.safetensors")
    with pytest.raises(InputError, match="damaged or was changed"):
        load_model(run, 0)


def test_a_path_that_is_not_a_model_is_refused_with_its_remedy(run: Path, tmp_path: Path):
    other = tmp_path / "weights.pt"
    other.write_bytes(b"PK")
    for source, fold, found in (
        (other, 0, "give the folder of a run, or a .safetensors file"),
        (run, 3, r"fold-3/model\.json: no such file; train the fold first"),
        (tmp_path / "none.safetensors", 0, "no such file"),
    ):
        with pytest.raises(InputError, match=found):
            load_model(source, fold)
    save_file({"a": np.zeros(3)}, other.with_suffix(".safetensors"))
    with pytest.raises(InputError, match="describes no model of flaxflair"):
        load_model(other.with_suffix(".safetensors"))


def test_a_run_is_exported_to_one_self_describing_file(run: Path, tmp_path: Path, capsys):
    out = tmp_path / "mine.safetensors"
    assert main(["export", str(run), str(out)]) == 0
    assert digest_model(load_model(out)) == digest_model(load_model(run))
    assert str(out) in capsys.readouterr().out
    for arguments, found in (
        ([str(run), str(tmp_path / "mine.pt")], "is written as .safetensors"),
        ([str(run), str(tmp_path / "none/mine.safetensors")], "no such folder"),
        ([str(run), str(out), "--fold", "4"], "train the fold first"),
    ):
        assert main(["export", *arguments]) == 1
        assert found in capsys.readouterr().err
    with pytest.raises(InputError, match="has no fold 1"):
        load_model(out, 1)


def test_a_full_disk_leaves_the_previous_model(run: Path, tmp_path: Path):
    before = digest_model(load_model(run))
    with no_room_beyond(100), pytest.raises(WriteError, match=r"model\.safetensors: cannot be"):
        save_model(run / "fold-0", make("mlp"))
    with no_room_beyond(100), pytest.raises(WriteError, match=r"x\.safetensors: cannot be"):
        export_model(make("mlp"), tmp_path / "x.safetensors")
    assert digest_model(load_model(run)) == before
    assert {path.name for path in tmp_path.rglob("*")} == {
        "run",
        "fold-0",
        "model.json",
        "model.safetensors",
    }


def test_loading_draws_no_weights(run: Path, monkeypatch: pytest.MonkeyPatch):
    def draw(*_: object) -> None:
        raise AssertionError("weights were drawn")

    monkeypatch.setattr(np.random, "default_rng", draw)
    assert jax.tree.leaves(load_fold(run).fitted.pack().arrays)


def test_a_network_that_is_loaded_twice_compiles_once(tmp_path: Path):
    save_model(tmp_path / "fold-0", make("unet"))
    rng, brain = np.random.default_rng(0), np.ones(SHAPE, bool)
    images = rng.normal(1, 0.4, (*SHAPE, 2)).astype(np.float32)
    compiled: list[str] = []

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    jax.clear_caches()  # another test may have compiled it
    for first in (True, False):
        compiled.clear()
        predict_array(load_fold(tmp_path), images, brain)
        assert bool(compiled) == first


@pytest.mark.parametrize("method", NETWORKS)
def test_the_shapes_of_a_network_are_known_without_drawing_its_weights(method: str):
    network = NETWORKS[method](2, NetworkConfig(name=method, layers=2, filters=4))
    key = jax.random.key(0)
    shapes, params = jax.eval_shape(network.init, key), network.init(key)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(
        lambda a: (a.shape, a.dtype), params
    )
    jitted = jax.jit(network.init)(key)
    jax.tree.map(np.testing.assert_array_equal, jitted, params)
