"""Training of a fold that diverges: stopped, with the checkpoint before it kept."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from flaxflair.config import Config
from flaxflair.core.records import InputError
from flaxflair.models import checkpoints
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import Network, Params
from flaxflair.runtime.progress import EventLog
from flaxflair.training.batches import Example
from flaxflair.training.fit import Fold, fit_fold, make_engine
from flaxflair.training.step import FitState, Plan, init_fit

pytestmark = pytest.mark.usefixtures("quick_compile")


def config(**fields: object) -> Config:
    config = Config()
    config.network.layers, config.network.filters = 2, 4
    config.train.epochs, config.stop.patience = 4, 0
    for name, value in fields.items():
        setattr(config.train, name, value)
    return config


def fit(config: Config, params: Params, folder: Path, monitor=lambda _: 1.0) -> Params:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 5, 6, 4, 2), dtype=np.float32)
    examples = [Example(i, i.sum(-1) - 1, np.ones(i.shape[:3], bool)) for i in images]
    engine = make_engine(config, partial(NETWORKS["fcn"], 2, config.network), 8)
    return fit_fold(
        config,
        Fold(1, folder / "fold-1", examples, params, monitor),
        engine,
        event_log=EventLog(folder / "log.jsonl"),
        console=Console(quiet=True),
        on_timed=lambda seconds, left: None,
        signalled=lambda: None,
    )


@pytest.mark.parametrize("call", ["step", "epoch"])
@pytest.mark.parametrize("saving", [0.0, 1e9])  # after each call, and only at the end
@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_weights_that_diverge_are_not_saved(
    rate: float, saving: float, call: str, network: Network, params: Params, tmp_path: Path
):
    diverging = config(learning_rate=rate, call=call)
    diverging.save_every_seconds = saving
    with pytest.raises(InputError, match=r"fold-1: (step|epoch) \d: loss or weights are not fin"):
        fit(diverging, params, tmp_path)
    state = _load(diverging, params, tmp_path)
    leaves = [] if state is None else jax.tree.leaves(state.train)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    log = tmp_path / "log.jsonl"
    assert not log.is_file() or "NaN" not in log.read_text()


def test_a_monitored_error_that_is_not_finite_stops_the_training(params: Params, tmp_path: Path):
    with pytest.raises(InputError, match=r"fold-1: epoch 1: loss or weights are not finite"):
        fit(config(), params, tmp_path, lambda _: math.inf)


def test_weights_that_an_earlier_version_saved_diverged_are_not_taken(
    params: Params, tmp_path: Path
):
    finished = config(epochs=1)
    fit(finished, params, tmp_path)
    state = _load(finished, params, tmp_path)
    assert state is not None
    lost = state._replace(best=jax.tree.map(lambda leaf: leaf * math.nan, state.best))
    checkpoints.save(tmp_path / "fold-1/last", 99, lost)
    with pytest.raises(InputError, match=r"fold-1: step 2: loss or weights are not finite"):
        fit(finished, params, tmp_path)


def _load(config: Config, params: Params, folder: Path) -> FitState | None:
    engine = make_engine(config, partial(NETWORKS["fcn"], 2, config.network), 8)
    plan = Plan(config.train.epochs, 2, 1, 0, 1)
    return checkpoints.load(folder / "fold-1/last", init_fit(params, engine.optimizer, plan))
