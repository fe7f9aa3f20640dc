"""Cross-validation: fit, save, predict, write, score and explain each fold; then summarise.

Finished folds are skipped and an interrupted fold resumes from its last checkpoint, so repeating
the command always ends with the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from flaxflair.config import NETWORK, Config, fields, validate
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import InputError, Subject
from flaxflair.core.sequences import TARGET, parse_patterns
from flaxflair.io import derivatives
from flaxflair.io.datasets import (
    SessionFiles,
    choose_images,
    extract_brain,
    find_sessions,
    load_session,
)
from flaxflair.io.fingerprints import Fingerprint, fingerprint
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import count_parameters
from flaxflair.pipelines.fold_scoring import score_fold
from flaxflair.pipelines.fold_training import train_folds
from flaxflair.pipelines.job import Job, Team, names_of, steps_per_epoch
from flaxflair.pipelines.run_state import (
    expect_config,
    expect_outside,
    find_twins,
    is_done,
    occupied,
    take_folds,
)
from flaxflair.pipelines.shared_folds import share_folds
from flaxflair.pipelines.summary import summarize, tabulate, tabulate_saliency
from flaxflair.runtime.environment import describe_machine
from flaxflair.runtime.processes import ALONE, Processes, agree, gather
from flaxflair.runtime.progress import EventLog
from flaxflair.training.folds import split
from flaxflair.training.sharding import held_rows, make_mesh
from flaxflair.training.step import OPTIMIZERS


def run(
    config: Config,
    workdir: Path,
    source: Path,
    *,
    folds: Sequence[int] | None = None,
    console: Console | None = None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Runs or resumes a cross-validation and returns its summary.

    Args:
      config: configuration of the run.
      workdir: created if missing. Afterwards it holds `config.json`, `folds.json`, `log.jsonl`,
        `summary.json`, a folder for each fold, and `derivative/`, the synthetic FLAIRs and saliency
        maps as a BIDS derivative.
      source: prepared BIDS data set.
      folds: folds to run; None for all.
      console: output of progress; None for no output.
      processes: this process among those that share the run; all must call this function with the
        same arguments. They train every fold together if they are one JAX program; otherwise folds
        are dealt to them.

    Returns:
      The content of `summary.json`, over the folds finished so far.

    Raises:
      InputError: the data cannot be used or changed since the run began; or `workdir` holds a run
        of another configuration, or is in use by another process.
      Interrupted: SIGTERM or SIGINT was received during training; the state is saved.
    """
    console = console or Console(quiet=True)
    validate(config)
    for field, name, known in (
        ("network.name", config.network.name, NETWORKS),
        ("train.optimizer", config.train.optimizer, OPTIMIZERS),
    ):
        if name not in known:
            raise InputError(f"config.{field} is {name!r}; choose from {', '.join(known)}")
    patterns = parse_patterns(config.data.patterns)
    found = find_sessions(source, config.data.inputs, patterns=patterns)
    for files in found:
        choose_images(files)  # fails on missing images before anything is written
    expect_outside(workdir, [source])
    start = partial(_start, config, workdir, source, found, folds, console, processes)
    if processes.count > 1 and not processes.together:
        return share_folds(processes, workdir, start=start, run_folds=_run_folds, finish=_finish)
    team = _make_team(config, processes)
    with occupied(workdir) if team.is_first else nullcontext():
        job = start(team)
        left = gather([fold for fold in job.wanted if not is_done(workdir, fold)])[0]
        _run_folds(job, left)
        return gather(_finish(job) if team.is_first else None)[0]


def _make_team(config: Config, processes: Processes) -> Team:
    """Returns the processes that train every fold together, which may be this one alone.

    Raises:
      InputError: the mesh does not fit the devices, or is asked for a baseline.
    """
    mesh = config.mesh
    if mesh.data * mesh.space == 1:
        return Team()
    if config.method != NETWORK:
        raise InputError(
            f"config.method is {config.method!r}, which takes no config.mesh; set config.mesh.data "
            "and config.mesh.space to 1"
        )
    held = held_rows(make_mesh(mesh.data, mesh.space))
    if not processes.together:
        return Team(held)
    return Team(held, processes.index, processes.count, agree)


def _run_folds(job: Job, folds: Sequence[int]) -> None:
    for fold, trained in train_folds(job, folds):
        score_fold(job, fold, trained)


def _start(
    config: Config,
    workdir: Path,
    source: Path,
    found: Sequence[SessionFiles],
    folds: Sequence[int] | None,
    console: Console,
    processes: Processes,
    team: Team,
) -> Job:
    """Writes configuration and folds of a new run, or checks those of a resumed one; see `run`."""
    expect_config(workdir, config, source)
    with console.status("reading the data set"):
        heldout, folds_record = take_folds(
            workdir, config, found, _take_digests(config, found, team)
        )
        wanted = list(range(len(heldout))) if folds is None else list(folds)
        for fold in wanted:
            split(heldout, fold)
            is_done(workdir, fold)  # fails on a damaged model before minutes of reading
        read = partial(_read, config)
        if team.count == 1:
            subjects = {files.name: read(files) for files in found}
            read = lambda files: subjects[files.name]  # noqa: E731
    for sentence in find_twins(found, config.data.inputs, folds_record["read"]):
        console.print(f"{source}: {sentence}")
    if processes.is_first:
        stored = {"source": str(source.resolve()), "config": json.loads(fields.to_json(config))}
        write_json(workdir / "config.json", stored)
        write_json(workdir / "folds.json", folds_record)
        derivatives.start(workdir / "derivative", source)
    event_log = EventLog(_log_path(workdir, processes))
    event_log.write("run", folds=wanted, subjects=len(found), machine=describe_machine())
    network = NETWORKS[config.network.name](len(config.data.inputs), config.network)
    sessions: dict[str, list[SessionFiles]] = {}
    for files in found:
        sessions.setdefault(files.participant, []).append(files)
    job = Job(
        config, workdir, source, sessions, read, heldout, wanted, network, event_log, console, team
    )
    _print_plan(job)
    return job


def _take_digests(
    config: Config, found: Sequence[SessionFiles], team: Team
) -> dict[str, Fingerprint]:
    """Returns session -> fingerprint; each process reads the files of its share."""
    sequences = (*config.data.inputs, TARGET)
    digests = {files.name: fingerprint(files, sequences) for files in team.share(found)}
    names = names_of(found)
    return dict(zip(names, team.collect(digests, names), strict=True))


def _read(config: Config, files: SessionFiles) -> Subject:
    """Reads a session, brain-extracted if the configuration says so."""
    subject = load_session(files)
    return extract_brain(subject) if config.data.region == "brain" else subject


def _log_path(workdir: Path, processes: Processes) -> Path | None:
    """Returns the log of this process, or None if the first one logs what all do."""
    if processes.is_first:
        return workdir / "log.jsonl"
    # Lines that two machines append to one file of a network file system may be lost.
    return None if processes.together else workdir / f"log-{processes.index}.jsonl"


def _finish(job: Job) -> dict[str, Any]:
    """Writes and prints the summary of the finished folds."""
    summary = summarize(job.workdir)
    write_json(job.workdir / "summary.json", summary)
    job.console.print(tabulate(summary))
    if summary["saliency"]:  # only of networks, and if configured
        job.console.print(tabulate_saliency(summary))
    return summary


def _print_plan(job: Job) -> None:
    """Prints data, network, training and folds of the run."""
    config = job.config
    sessions = job.sessions_of(list(job.sessions))
    grid = ""
    if job.team.count == 1:  # of several processes, none reads all sessions
        shapes = {job.read(files).geometry.shape for files in sessions}
        grids = " and ".join("×".join(map(str, shape)) for shape in sorted(shapes)[:3])
        grid = f"on {grids} voxels"
    size = training = ""
    if config.method == NETWORK:
        window = config.train.window
        what = "whole volumes" if not any(window) else f"windows of {'×'.join(map(str, window))}"
        size = f", {count_parameters(job.network.init(jax.random.key(0))):,} parameters"
        training = (
            f"at most {config.train.epochs} epochs of {steps_per_epoch(job, job.wanted[0])} steps "
            f"on {what}, {config.train.optimizer} at {config.train.learning_rate:g} "
            f"({config.train.schedule}), {config.network.dtype}, "
        )
    job.console.print(
        f"{job.config.title}{size}, from {', '.join(config.data.inputs)} to FLAIR\n"
        f"{len(sessions)} sessions of {len(job.sessions)} participants "
        f"{grid or f'on {job.team.count} processes'}, {len(job.wanted)} of {len(job.folds)} folds\n"
        f"{training}into {job.workdir}"
    )
