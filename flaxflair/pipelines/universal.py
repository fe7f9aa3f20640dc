"""Training of a universal model: simulated windows, training steps, checkpoints, event log.

An interrupted training resumes with the same command and ends with the same weights. Independent of
cohorts and folds.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from flaxflair.config.fields import flatten
from flaxflair.config.universal import UniversalConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.io.datasets import load_session
from flaxflair.io.session_files import find_sessions
from flaxflair.models import checkpoints
from flaxflair.models.saving import UNIVERSAL_FILE, export_model, load_model
from flaxflair.models.universal import UniversalModel, make_network
from flaxflair.networks.network import ConditionalNetwork, Params, count_parameters
from flaxflair.pipelines.run_state import occupied
from flaxflair.runtime.environment import describe_machine
from flaxflair.runtime.progress import Bar, EventLog, show_bar
from flaxflair.runtime.signals import Interrupted, deferred
from flaxflair.simulation.generator.anatomies import load_library
from flaxflair.simulation.generator.storage import save_library
from flaxflair.training.real_windows import make_session, save_session
from flaxflair.training.universal_batches import Source, simulate_ahead
from flaxflair.training.universal_step import (
    SynthesisBatch,
    SynthesisState,
    SynthesisStep,
    init_synthesis,
    make_synthesis_optimizer,
    make_synthesis_step,
)

_LOG_EVERY_STEPS = 20


def train(config: UniversalConfig, workdir: Path, console: Console) -> SynthesisState:
    """Trains from the last checkpoint in `workdir`, or from the start, to `config.train.steps`.

    Args:
      config: validated.
      workdir: output folder: `config.json`, `library/` (anatomies and lesions to simulate from,
        written once), `last/` (the checkpoint) and `log.jsonl`.
      console: output of progress.

    Returns:
      The state after the last step.

    Raises:
      InputError: a folder holds no label maps or lesions, or `workdir` holds a training of another
        configuration, or is in use by another process.
      Interrupted: a signal was received; the state is saved.
    """
    with occupied(workdir):
        return _train(config, workdir, console)


def _train(config: UniversalConfig, workdir: Path, console: Console) -> SynthesisState:
    _write_or_check_config(config, workdir / "config.json")
    library = _open_or_make_library(config, workdir, console)
    network = make_network(config.network)
    options = config.train
    cooldown = (options.steps - options.cooldown, options.cooldown) if options.cooldown else None
    optimizer = make_synthesis_optimizer(
        options.learning_rate,
        warmup=options.warmup,
        cooldown=cooldown,
        method=options.optimizer,
    )
    state = init_synthesis(_first_params(config, network), optimizer)
    state = checkpoints.load(workdir / "last", state) or state
    event_log = EventLog(workdir / "log.jsonl")
    event_log.write(
        "started",
        step=int(state.step),
        parameters=count_parameters(state.params),
        machine=describe_machine(),
    )
    step = make_synthesis_step(network, optimizer)
    source = Source(
        library,
        options.seed,
        options.window,
        options.anatomies,
        options.contrasts,
        _open_or_make_sessions(config, workdir, console),
        options.real,
    )
    first = int(state.step)
    if first >= options.steps:
        return state
    last = state
    with (
        deferred() as signalled,
        simulate_ahead(source, first, options.workers) as batches,
        show_bar(console, "universal", options.steps, first) as bar,
    ):
        for current in _fit(state, step, batches, config, workdir, event_log, bar):
            if (number := signalled()) is not None:
                _save(workdir, current, config, event_log)
                raise Interrupted(f"saved after step {int(current.step)}", number)
            last = current
    return last


def _fit(
    state: SynthesisState,
    step: SynthesisStep,
    batches: Iterator[SynthesisBatch],
    config: UniversalConfig,
    workdir: Path,
    event_log: EventLog,
    bar: Bar,
) -> Iterator[SynthesisState]:
    """Yields the state after every step; saves it every `save_every_seconds` and at the end."""
    done, saved = int(state.step), time.monotonic()
    losses: list[dict[str, jax.Array]] = []
    while done < config.train.steps:
        state, parts = step(state, next(batches))
        done += 1
        losses.append(parts)
        bar.advance(done)
        if done % _LOG_EVERY_STEPS == 0 or done == config.train.steps:
            means = {name: float(np.mean([float(each[name]) for each in losses])) for name in parts}
            event_log.write("steps", step=done, **means)
            losses = []
        if time.monotonic() - saved > config.save_every_seconds or done == config.train.steps:
            _save(workdir, state, config, event_log)
            saved = time.monotonic()
        yield state


def _save(
    workdir: Path, state: SynthesisState, config: UniversalConfig, event_log: EventLog
) -> None:
    """Saves the training state as a checkpoint, and the averaged weights as a model."""
    checkpoints.save(workdir / "last", int(state.step), state)
    about = {
        "Steps": int(state.step),
        "SimulatedWindows": config.train.anatomies * config.train.contrasts,
        "RealWindows": config.train.real,
        "Edge": config.train.window,
        "StartedFrom": Path(config.train.start).name,
    }
    model = UniversalModel(config.network, make_network(config.network), state.average, about)
    export_model(model, workdir / UNIVERSAL_FILE)
    event_log.write("saved", step=int(state.step))


def _write_or_check_config(config: UniversalConfig, path: Path) -> None:
    """Writes the configuration, or checks that it equals that of the training to be resumed."""
    # A training may be extended; these fields do not affect the weights of earlier steps.
    free = {"steps", "cooldown", "workers", "save_every_seconds"}
    requested = json.loads(json.dumps(dataclasses.asdict(config)))
    if path.is_file():
        new, stored = flatten(requested), flatten(read_object(path, "name another --workdir"))
        for name in sorted(new.keys() | stored.keys()):
            value, found = new.get(name), stored.get(name)
            if value != found and name.rpartition(".")[2] not in free:
                raise InputError(
                    f"{path}: the training began with {name} {found} and {value} is requested; "
                    "name another --workdir"
                )
    write_json(path, requested)


def _first_params(config: UniversalConfig, network: ConditionalNetwork) -> Params:
    """Returns random parameters, or those of the model that training starts from."""
    first = network.init(jax.random.key(config.train.seed))
    if not config.train.start:
        return first
    model = load_model(config.train.start)
    # The network may have a new branch, whose output is zero before training.
    if not isinstance(model, UniversalModel) or (
        replace(model.config, fine=config.network.fine) != config.network
    ):
        raise InputError(
            f"{config.train.start}: is not a universal model of the network that config.network "
            "describes; name one, or change config.network"
        )
    known, names = checkpoints.name_leaves(model.params), checkpoints.name_leaves(first)
    leaves = [
        known[name] if name in known and known[name].shape == leaf.shape else leaf
        for name, leaf in names.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(first), leaves)


def _open_or_make_sessions(
    config: UniversalConfig, workdir: Path, console: Console
) -> tuple[Path, ...]:
    """Returns the folders of the real sessions in standard form, made once."""
    folders = []
    for root in map(Path, config.real.roots):
        for files in find_sessions(root, (), flair="welcome"):
            left_out = {files.participant, f"{root.name}/{files.participant}"}
            if "FLAIR" not in files.sequences or left_out & set(config.real.without):
                continue
            folder = workdir / "real" / f"{root.name}_{files.name}"
            if not folder.is_dir():
                console.print(f"reading {files.name} of {root} into {folder}")
                inputs = tuple(name for name in INPUTS if name in files.sequences)
                chosen = replace(files, inputs=inputs, flair="needed")
                save_session(folder, make_session(load_session(chosen)))
            folders.append(folder)
    if config.train.real and not folders:
        raise InputError("no session of config.real.roots has a FLAIR and is not left out")
    return tuple(folders)


def _open_or_make_library(config: UniversalConfig, workdir: Path, console: Console) -> Path:
    folder = workdir / "library"
    if not folder.is_dir():
        console.print(f"reading label maps and lesions into {folder}")
        names = config.library
        save_library(
            folder, load_library(Path(names.labels), Path(names.shapes), Path(names.masks))
        )
    return folder
