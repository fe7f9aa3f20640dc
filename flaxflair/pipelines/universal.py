"""Training of a universal model: simulated windows, training steps, checkpoints, event log.

An interrupted training resumes with the same command and ends with the same weights. Independent of
cohorts and folds.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import jax
from rich.console import Console

from flaxflair.config.fields import flatten
from flaxflair.config.universal import UniversalConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.models import checkpoints
from flaxflair.models.saving import UNIVERSAL_FILE, export_model, load_model
from flaxflair.models.universal import UniversalModel, make_network
from flaxflair.networks.network import ConditionalNetwork, Params, count_parameters
from flaxflair.pipelines.run_state import expect_outside, occupied
from flaxflair.pipelines.universal_fit import Plan, run_steps
from flaxflair.pipelines.universal_sources import expect_window, open_or_make_sources
from flaxflair.runtime.environment import describe_machine
from flaxflair.runtime.progress import EventLog, show_bar
from flaxflair.training.divergence import expect_finite, lower_rate
from flaxflair.training.universal_batches import Source
from flaxflair.training.universal_step import (
    SynthesisState,
    init_synthesis,
    make_synthesis_optimizer,
    make_synthesis_step,
)


def train(config: UniversalConfig, workdir: Path, console: Console) -> SynthesisState:
    """Trains from the last checkpoint in `workdir`, or from the start, to `config.train.steps`.

    Args:
      config: validated.
      workdir: output folder: `config.json`, `library/` (anatomies and lesions to simulate from)
        and `real/` (sessions), both made once, `sources.json` (digests of the files that they were
        made from), `last/` (the checkpoint) and `log.jsonl`.
      console: output of progress.

    Returns:
      The state after the last step.

    Raises:
      InputError: a folder holds no label maps or lesions, or `workdir` holds a training of another
        configuration or of files that have changed, or is in use by another process; or the
        training has diverged, and the checkpoint before is kept.
      Interrupted: a signal was received; the state is saved.
    """
    expect_outside(workdir, map(Path, config.real.roots))
    with occupied(workdir):
        return _train(config, workdir, console)


def _train(config: UniversalConfig, workdir: Path, console: Console) -> SynthesisState:
    options = config.train
    begun = _expect_own_training(config, workdir)
    library, sessions = open_or_make_sources(config, workdir, console, begun=begun)
    expect_window(options.window, library, sessions)
    # Not before: a command whose folders cannot be read binds no later one.
    write_json(workdir / "config.json", dataclasses.asdict(config))
    network = make_network(config.network)
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
        sessions,
        options.real,
    )
    first = int(state.step)
    if first >= options.steps:
        _report_finished(state, config, workdir, event_log, console)
        return state
    with show_bar(console, "universal", options.steps, first) as bar:
        plan = Plan(
            options.steps,
            options.workers,
            config.save_every_seconds,
            save=lambda state: _save(workdir, state, config, event_log),
            where=str(workdir),
            remedy=lower_rate(options.learning_rate),
            advance=bar.advance,
        )
        return run_steps(state, step, source, plan, event_log)


def _report_finished(
    state: SynthesisState,
    config: UniversalConfig,
    workdir: Path,
    event_log: EventLog,
    console: Console,
) -> None:
    path = workdir / UNIVERSAL_FILE
    if not path.is_file():  # the process was killed after the last checkpoint
        _save(workdir, state, config, event_log)
    console.print(
        f"{path}: is finished, with {int(state.step)} steps done of {config.train.steps}; "
        "a larger --config.train.steps continues"
    )


def _save(
    workdir: Path, state: SynthesisState, config: UniversalConfig, event_log: EventLog
) -> None:
    """Saves the training state as a checkpoint, and the averaged weights as a model."""
    remedy = lower_rate(config.train.learning_rate)
    expect_finite(state, f"{workdir}: step {int(state.step)}", remedy)
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


def _expect_own_training(config: UniversalConfig, workdir: Path) -> bool:
    """Returns whether `workdir` holds weights, which have to be of this configuration."""
    if (workdir / "folds.json").exists():
        raise InputError(
            f"{workdir}: holds a cross-validation, and the training of a universal model is asked "
            "for; name another --workdir"
        )
    begun = any((workdir / "last").glob("[0-9]*"))
    if begun:
        _expect_config(config, workdir / "config.json")
    return begun


def _expect_config(config: UniversalConfig, path: Path) -> None:
    """Checks that the configuration equals that of the training to be resumed."""
    # A training may be extended; these fields do not affect the weights of earlier steps.
    free = {"steps", "cooldown", "workers", "save_every_seconds"}
    new = flatten(json.loads(json.dumps(dataclasses.asdict(config))))
    stored = flatten(read_object(path, "name another --workdir"))
    for name in sorted(new.keys() | stored.keys()):
        value, found = new.get(name), stored.get(name)
        if value != found and name.rpartition(".")[2] not in free:
            raise InputError(
                f"{path}: the training began with {name} {found} and {value} is requested; "
                "name another --workdir"
            )


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
