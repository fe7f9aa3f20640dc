"""Training of a universal model: simulated windows, training steps, checkpoints, event log.

An interrupted training resumes with the same command and ends with the same weights. Independent of
cohorts and folds.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rich.console import Console

from flaxflair.config.fields import flatten
from flaxflair.config.universal import UniversalConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.models import checkpoints
from flaxflair.models.saving import UNIVERSAL_FILE, export_model
from flaxflair.networks.network import count_parameters
from flaxflair.pipelines.run_state import expect_outside, occupied
from flaxflair.pipelines.universal_fit import Plan, run_steps
from flaxflair.pipelines.universal_sources import expect_window, open_or_make_sources
from flaxflair.pipelines.universal_targets import Target, open_target
from flaxflair.runtime.environment import describe_machine
from flaxflair.runtime.progress import EventLog, show_bar
from flaxflair.training.divergence import expect_finite, lower_rate
from flaxflair.training.universal_batches import Source
from flaxflair.training.universal_step import (
    SynthesisState,
    init_synthesis,
    make_synthesis_optimizer,
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
    cooldown = (options.steps - options.cooldown, options.cooldown) if options.cooldown else None
    optimizer = make_synthesis_optimizer(
        options.learning_rate,
        warmup=options.warmup,
        cooldown=cooldown,
        method=options.optimizer,
    )
    trained = open_target(config, optimizer)
    state = init_synthesis(trained.params, optimizer)
    state = checkpoints.load(workdir / "last", state) or state
    event_log = EventLog(workdir / "log.jsonl")
    event_log.write(
        "started",
        step=int(state.step),
        parameters=count_parameters(state.params),
        machine=describe_machine(),
    )
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
        _report_finished(state, trained, config, workdir, event_log, console)
        return state
    with show_bar(console, "universal", options.steps, first) as bar:
        plan = Plan(
            options.steps,
            options.workers,
            config.save_every_seconds,
            save=lambda state: _save(workdir, state, trained, config, event_log),
            where=str(workdir),
            remedy=lower_rate(options.learning_rate),
            advance=bar.advance,
        )
        return run_steps(state, trained.step, source, plan, event_log)


def _report_finished(
    state: SynthesisState,
    trained: Target,
    config: UniversalConfig,
    workdir: Path,
    event_log: EventLog,
    console: Console,
) -> None:
    path = workdir / UNIVERSAL_FILE
    if not path.is_file():  # the process was killed after the last checkpoint
        _save(workdir, state, trained, config, event_log)
    console.print(
        f"{path}: is finished, with {int(state.step)} steps done of {config.train.steps}; "
        "a larger --config.train.steps continues"
    )


def _save(
    workdir: Path,
    state: SynthesisState,
    trained: Target,
    config: UniversalConfig,
    event_log: EventLog,
) -> None:
    """Saves the training state as a checkpoint, and the averaged weights as a model."""
    remedy = lower_rate(config.train.learning_rate)
    expect_finite(state, f"{workdir}: step {int(state.step)}", remedy)
    checkpoints.save(workdir / "last", int(state.step), state)
    export_model(trained.to_model(state.average, int(state.step)), workdir / UNIVERSAL_FILE)
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
    # Fields that an earlier version did not have mean what is the default now.
    default = flatten(json.loads(json.dumps(dataclasses.asdict(UniversalConfig()))))
    stored = default | flatten(read_object(path, "name another --workdir"))
    for name in sorted(new.keys() | stored.keys()):
        value, found = new.get(name), stored.get(name)
        if value != found and name.rpartition(".")[2] not in free:
            raise InputError(
                f"{path}: the training began with {name} {found} and {value} is requested; "
                "name another --workdir"
            )
