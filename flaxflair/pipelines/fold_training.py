"""Training of the folds of a cross-validation, sequentially or one per device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from flaxflair.baselines import BASELINES, least_squares
from flaxflair.config import NETWORK
from flaxflair.core.records import InputError, Subject
from flaxflair.imaging.normalization import Normalization
from flaxflair.imaging.normalization import fit as fit_normalization
from flaxflair.models.estimators import Fitted, FittedBaseline, FittedNetwork
from flaxflair.models.inference import predict_volumes
from flaxflair.models.model import Model
from flaxflair.models.saving import save_model
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import Params
from flaxflair.pipelines.job import (
    FoldSessions,
    Job,
    fold_dir,
    names_of,
    sessions_of_fold,
    steps_per_epoch,
)
from flaxflair.runtime.signals import deferred
from flaxflair.training.batches import (
    Example,
    Rows,
    by_shape,
    edges_of,
    expect_one_shape,
    make_example,
)
from flaxflair.training.fit import Engine, Fold, fit_fold, format_estimate, make_engine


def _make_engine(job: Job) -> Engine:
    config = job.config
    # The longest of all folds, selected or not: the schedule is independent of the selection.
    steps = config.train.epochs * max(steps_per_epoch(job, fold) for fold in range(len(job.folds)))
    build = partial(NETWORKS[config.network.name], len(config.data.inputs), config.network)
    return make_engine(config, build, steps)


class Trained(NamedTuple):
    """A model, the least-squares baseline, and the duration of training.

    Attributes:
      model: fitted model.
      baseline: least squares, fitted on the same subjects.
      seconds: duration of training.
    """

    model: Model
    baseline: Model
    seconds: float


class Task(NamedTuple):
    """Normalised data of one fold.

    Attributes:
      fold: number of the fold.
      sessions: files of the fold's sessions.
      examples: z-scores of the training subjects of this process, row by row of the mesh.
      monitored: session -> z-scores, of those of this process whose error is monitored.
      baseline: least squares, fitted on the training subjects of all processes.
    """

    fold: int
    sessions: FoldSessions
    examples: Sequence[Example]
    monitored: Mapping[str, Example]
    baseline: FittedBaseline


Fit = Callable[[Job, Task], Fitted]


def train_folds(job: Job, folds: Sequence[int]) -> Iterator[tuple[int, Trained]]:
    """Trains folds and yields the results in order.

    `folds.at_once` networks train in parallel, each on its own device. On a signal, all of them
    save their state and end.
    """
    if job.config.method != NETWORK:
        for fold in folds:
            yield fold, _train_fold(job, fold, _fit_baseline)
        return
    engine = _make_engine(job)
    reported = False

    def report_estimate(job: Job, fold: int, seconds: float, left: int) -> None:
        """Prints the estimated duration of the run, once."""
        nonlocal reported
        remaining = len(folds) - list(folds).index(fold)
        if not reported:
            total = job.config.train.epochs * steps_per_epoch(job, fold)
            job.console.print(format_estimate(seconds, left, remaining, total))
            reported = True

    at_once = min(job.config.folds.at_once, len(folds))
    if at_once <= 1:
        for fold in folds:
            with deferred() as signalled:
                fit = partial(
                    _fit_network, engine=engine, on_timed=report_estimate, signalled=signalled
                )
                trained = _train_fold(job, fold, fit)
            yield fold, trained
        return
    devices = jax.local_devices()
    # Progress bars of several folds would overwrite each other.
    quiet = replace(job, console=Console(quiet=True))

    def train(index: int, fold: int, fit: Fit) -> Trained:
        with jax.default_device(devices[index % at_once % len(devices)]):
            return _train_fold(quiet, fold, fit)

    with deferred() as signalled, ThreadPoolExecutor(at_once) as pool:
        fit = partial(_fit_network, engine=engine, on_timed=report_estimate, signalled=signalled)
        trained = [pool.submit(train, index, fold, fit) for index, fold in enumerate(folds)]
        done = [future.result() for future in trained]
    yield from zip(folds, done, strict=True)


def _train_fold(job: Job, fold: int, fit: Fit) -> Trained:
    started = time.monotonic()
    config = job.config
    task, normalization, size = _prepare(job, fold)
    fitted = fit(job, task)
    model, baseline = (
        Model(config.data.inputs, each, normalization, config.data.region, size)
        for each in (fitted, task.baseline)
    )
    if job.team.is_first:
        save_model(fold_dir(job.workdir, fold), model)
    return Trained(model, baseline, time.monotonic() - started)


def _prepare(job: Job, fold: int) -> tuple[Task, Normalization, tuple[float, float, float]]:
    """Reads and normalises this process's sessions of a fold.

    Returns:
      The data of the fold, its normalisation, and the median voxel size of the training sessions of
      all processes in mm.
    """
    config = job.config
    sessions = sessions_of_fold(job, fold)
    names = names_of(sessions.training)
    job.event_log.write("fold", fold=fold, training=names, heldout=names_of(sessions.heldout))
    training = [job.read(files) for files in job.take_training(sessions.training)]
    normalization = _fit_normalization(job, sessions, training)
    encode = partial(make_example, normalization=normalization, region=config.data.region)
    examples = [encode(subject) for subject in training]
    shared = [job.read(files) for files in job.team.share(sessions.monitored)]
    monitored = {subject.name: encode(subject) for subject in shared}
    parts = {s.name: least_squares.measure(e) for s, e in zip(training, examples, strict=True)}
    baseline = least_squares.solve(job.team.collect(parts, names))
    sizes = job.team.collect({s.name: s.geometry.voxel_size for s in training}, names)
    x, y, z = np.median(sizes, axis=0).tolist()
    fitted_baseline = FittedBaseline("least_squares", baseline)
    task = Task(fold, sessions, examples, monitored, fitted_baseline)
    return task, normalization, (x, y, z)


def _fit_normalization(
    job: Job, sessions: FoldSessions, training: Sequence[Subject]
) -> Normalization:
    """Fits the normalisation to the sessions of all processes."""
    normalization, subjects, files = job.config.normalization, [*training], sessions.training
    if normalization.statistics == "all":
        files = files + sessions.heldout
        subjects += [job.read(heldout) for heldout in job.team.share(sessions.heldout)]
    names = names_of(files)
    return fit_normalization(
        subjects, normalization.method, lambda parts: job.team.collect(parts, names)
    )


def _fit_baseline(job: Job, task: Task) -> Fitted:
    method = job.config.method
    if method == task.baseline.name:
        return task.baseline
    with job.console.status(f"fold {task.fold}: fitting the {method}"):
        seed = job.config.folds.seed + task.fold
        return FittedBaseline(method, BASELINES[method].fit(task.examples, job.config, seed))


def _fit_network(
    job: Job,
    task: Task,
    *,
    engine: Engine,
    on_timed: Callable[[Job, int, float, int], None],
    signalled: Callable[[], int | None],
) -> Fitted:
    training = task.sessions.training
    monitored = names_of(task.sessions.monitored)
    _expect_one_shape(job, task)
    params = fit_fold(
        job.config,
        Fold(
            task.fold,
            fold_dir(job.workdir, task.fold),
            task.examples,
            _init(job, task),
            _make_monitor(job, task.monitored, monitored) if monitored else None,
            Rows(job.team.held, job.rows, len(training)),
        ),
        engine,
        event_log=job.event_log,
        console=job.console,
        on_timed=partial(on_timed, job, task.fold),
        signalled=signalled,
        agree=job.team.agree,
    )
    return FittedNetwork(job.config.network, job.network, params)


def _init(job: Job, task: Task) -> Params:
    """Returns the initial weights of a fold."""
    key = jax.random.fold_in(jax.random.key(job.config.folds.seed), task.fold)
    params = job.network.init(key)
    if job.config.network.init == "glorot":
        return params
    if job.network.start_linear is None:
        raise InputError(
            f"config.network.init is 'least_squares', and a {job.config.network.name} of "
            f"{job.config.network.filters} filters cannot start as a linear map of "
            f"{len(job.config.data.inputs)} sequences; take twice as many filters, or 'glorot'"
        )
    return job.network.start_linear(params, task.baseline.state.coefficients)


def _expect_one_shape(job: Job, task: Task) -> None:
    """Checks the shapes of the windows of all processes; see `expect_one_shape`."""
    train = job.config.train
    training = job.take_training(task.sessions.training)
    pairs = zip(training, task.examples, strict=True)
    shapes = {files.name: edges_of(example, train.window) for files, example in pairs}
    found = job.team.collect(shapes, names_of(task.sessions.training))
    expect_one_shape([(x, y, z) for x, y, z in found], train.batch)


def _make_monitor(
    job: Job, examples: Mapping[str, Example], names: Sequence[str]
) -> Callable[[Params], float]:
    """Returns parameters -> mean squared error of z-scores over the region of each example.

    Args:
      job: the cross-validation.
      examples: session -> example, of this process.
      names: sessions of all processes.
    """

    def monitor(params: Params) -> float:
        if job.team.count > 1:  # the parameters are on the devices of all processes
            params = jax.tree.map(np.asarray, params)
        errors: dict[str, tuple[float, int]] = {}
        for group in by_shape(list(examples.values())):
            images = np.stack([example.images for example in group])
            forward, batch = job.network.forward, min(job.config.predict.batch, len(group))
            flairs = np.asarray(predict_volumes(forward, params, images, batch=batch))
            members = [name for name, e in examples.items() if e.flair.shape == flairs.shape[1:]]
            for name, example, flair in zip(members, group, flairs, strict=True):
                error = np.square(flair - example.flair)[example.region]
                errors[name] = float(error.sum(dtype=np.float64)), error.size
        totals, counts = zip(*job.team.collect(errors, names), strict=True)
        return sum(totals) / sum(counts)

    return monitor
