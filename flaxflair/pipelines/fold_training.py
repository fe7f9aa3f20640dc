"""Training of the folds of a cross-validation, sequentially or one per device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from flaxflair.baselines import BASELINES
from flaxflair.config import NETWORK
from flaxflair.core.records import InputError
from flaxflair.imaging.normalization import fit as fit_normalization
from flaxflair.models.estimators import Fitted, FittedBaseline, FittedNetwork
from flaxflair.models.inference import predict_volumes
from flaxflair.models.model import Model
from flaxflair.models.saving import save_model
from flaxflair.networks import NETWORKS
from flaxflair.networks.network import Params
from flaxflair.pipelines.job import Job, fold_dir, names_of, steps_per_epoch, subjects_of_fold
from flaxflair.runtime.signals import deferred
from flaxflair.training.batches import Example, by_shape, make_example
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
      examples: z-scores of the training subjects.
      monitored: z-scores of the subjects whose error is monitored.
      baseline: least squares, fitted on the examples.
    """

    fold: int
    examples: Sequence[Example]
    monitored: Sequence[Example]
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
    training, monitored, heldout = subjects_of_fold(job, fold)
    normalized = training + heldout if config.normalization.statistics == "all" else training
    normalization = fit_normalization(normalized, config.normalization.method)
    examples = [make_example(s, normalization, config.data.region) for s in training]
    monitored = [make_example(s, normalization, config.data.region) for s in monitored]
    job.event_log.write("fold", fold=fold, training=names_of(training), heldout=names_of(heldout))
    least_squares = BASELINES["least_squares"].fit(examples, config, config.folds.seed)
    fitted_baseline = FittedBaseline("least_squares", least_squares)
    fitted = fit(job, Task(fold, examples, monitored, fitted_baseline))
    sizes = np.median([subject.geometry.voxel_size for subject in training], axis=0)
    size = (float(sizes[0]), float(sizes[1]), float(sizes[2]))
    model, baseline = (
        Model(config.data.inputs, each, normalization, config.data.region, size)
        for each in (fitted, fitted_baseline)
    )
    save_model(fold_dir(job.workdir, fold), model)
    return Trained(model, baseline, time.monotonic() - started)


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
    params = fit_fold(
        job.config,
        Fold(
            task.fold,
            fold_dir(job.workdir, task.fold),
            task.examples,
            _init(job, task),
            _make_monitor(job, task.monitored) if task.monitored else None,
        ),
        engine,
        event_log=job.event_log,
        console=job.console,
        on_timed=partial(on_timed, job, task.fold),
        signalled=lambda: job.agree(signalled()),
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


def _make_monitor(job: Job, examples: Sequence[Example]) -> Callable[[Params], float]:
    """Returns parameters -> mean squared error of z-scores over the region of each example."""

    def monitor(params: Params) -> float:
        total, count = 0.0, 0
        for group in by_shape(examples):
            images = np.stack([example.images for example in group])
            forward, batch = job.network.forward, min(job.config.predict.batch, len(group))
            flairs = np.asarray(predict_volumes(forward, params, images, batch=batch))
            for example, flair in zip(group, flairs, strict=True):
                error = np.square(flair - example.flair)[example.region]
                total, count = total + float(error.sum(dtype=np.float64)), count + error.size
        return total / count

    return monitor
