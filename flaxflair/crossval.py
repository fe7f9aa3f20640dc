"""Cross-validation: for each fold fit, save, predict, write, score, explain; then the summary.

The one place where data, network, files and screen meet. A fold that is done is left alone, one
that was cut off goes on from its last checkpoint, so the same command always ends with the same
numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from flaxflair import config as configs
from flaxflair import derivative, evaluate, normalize, panels
from flaxflair import model as models
from flaxflair.baselines import BASELINES
from flaxflair.cohort import by_grid, extract_brain, load_cohort
from flaxflair.config import NETWORK, Config
from flaxflair.examples import Example, by_shape, make_example
from flaxflair.files import write_json
from flaxflair.fitting import Engine, Fold, fit_fold, make_engine, say_estimate
from flaxflair.folds import make_folds, split
from flaxflair.machine import describe_machine, peak_memory_gib
from flaxflair.methods import Fitted, FittedBaseline, FittedNetwork
from flaxflair.model import Model
from flaxflair.networks import NETWORKS, Network
from flaxflair.networks.network import Params, count_parameters
from flaxflair.predict import predict_volumes
from flaxflair.saliency import shares
from flaxflair.screen import Journal, say_seconds
from flaxflair.sequences import parse_patterns
from flaxflair.signals import deferred
from flaxflair.summary import summarize, tabulate, tabulate_saliency
from flaxflair.train import OPTIMIZERS
from flaxflair.volume import Array, InputError, Subject


@dataclass(frozen=True)
class Job:
    """What all folds of a run share.

    Attributes:
      config: of the run.
      workdir: where it writes.
      source: the data set it reads.
      subjects: participant -> sessions.
      folds: held-out participants of each fold.
      wanted: numbers of the folds to run.
      network: pure functions; of no effect on a baseline.
      journal: `log.jsonl`.
      console: for people.
    """

    config: Config
    workdir: Path
    source: Path
    subjects: Mapping[str, Sequence[Subject]]
    folds: Sequence[Sequence[str]]
    wanted: Sequence[int]
    network: Network
    journal: Journal
    console: Console

    def of(self, participants: Sequence[str]) -> list[Subject]:
        """Returns the sessions of participants."""
        return [subject for name in participants for subject in self.subjects[name]]


def run(
    config: Config,
    workdir: Path,
    source: Path,
    *,
    folds: Sequence[int] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs (or goes on with) a cross-validation and returns its summary.

    Args:
      config: of the run.
      workdir: made if missing. Afterwards it holds `config.json`, `folds.json`, `log.jsonl`,
        `summary.json`, a folder a fold, and `derivative/`, the synthetic FLAIRs and saliency maps
        as a BIDS derivative.
      source: prepared BIDS data set.
      folds: which to run; None for all.
      console: None prints nothing.

    Returns:
      What `summary.json` holds, over the folds done so far.

    Raises:
      InputError: the data cannot be used, or `workdir` holds a run of another configuration.
      Interrupted: SIGTERM or SIGINT came while training; everything is saved.
    """
    console = console or Console(quiet=True)
    configs.validate(config)
    for place, name, known in (
        ("network.name", config.network.name, NETWORKS),
        ("train.optimizer", config.train.optimizer, OPTIMIZERS),
    ):
        if name not in known:
            raise InputError(f"config.{place} is {name!r}; choose from {', '.join(known)}")
    with console.status("reading the data set"):
        cohort = load_cohort(
            source, config.data.inputs, patterns=parse_patterns(config.data.patterns)
        )
    if config.data.region == "brain":
        cohort = [extract_brain(subject) for subject in cohort]
    subjects: dict[str, list[Subject]] = {}
    for subject in cohort:
        subjects.setdefault(subject.participant, []).append(subject)
    groups = {name: sessions[0].group for name, sessions in subjects.items()}
    cut = make_folds(groups, config.folds.count, config.folds.seed)
    wanted = list(range(len(cut))) if folds is None else list(folds)
    for fold in wanted:
        split(cut, fold)
    _claim(workdir, config, source)
    journal = Journal(workdir / "log.jsonl")
    write_json(workdir / "folds.json", {"groups": groups, "heldout": cut})
    network = NETWORKS[config.network.name](len(config.data.inputs), config.network)
    job = Job(config, workdir, source, subjects, cut, wanted, network, journal, console)
    derivative.start(workdir / "derivative", source)
    journal.write("run", folds=wanted, subjects=len(cohort), machine=describe_machine())
    _announce(job)
    for fold, trained in _train(job, [n for n in wanted if not _scores_path(workdir, n).is_file()]):
        _score(job, fold, trained)
    summary = summarize(workdir)
    write_json(workdir / "summary.json", summary)
    console.print(tabulate(summary))
    if summary["saliency"]:  # of a network alone, and only if it is wanted
        console.print(tabulate_saliency(summary))
    return summary


def _claim(workdir: Path, config: Config, source: Path) -> None:
    """Makes the folder this run's own, or checks that it is."""
    path = workdir / "config.json"
    stored = {"source": str(source.resolve()), "config": json.loads(configs.to_json(config))}
    if not path.is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, stored)
        return
    there = json.loads(path.read_text())
    others = configs.differences(config, configs.from_json(json.dumps(there["config"])))
    if there["source"] != stored["source"]:
        others.append(f"source: {stored['source']} instead of {there['source']}")
    if others:
        raise InputError(
            f"{workdir}: holds a run of another configuration ({'; '.join(others[:3])}); "
            "name another --workdir, or remove this one"
        )


def _cast(job: Job, fold: int) -> tuple[list[Subject], list[Subject], list[Subject]]:
    """Returns who is trained on, who is watched and who is held out in one fold."""
    training, heldout = split(job.folds, fold)
    watched = {"heldout": heldout, "training": training[-1:], "none": []}[job.config.stop.watch]
    if job.config.stop.watch == "training":
        training = training[:-1]
    return job.of(training), job.of(watched), job.of(heldout)


def _steps(job: Job, fold: int) -> int:
    """Returns the steps in an epoch of one fold."""
    config = job.config.train
    shown = len(_cast(job, fold)[0]) * (config.windows_per_subject if any(config.window) else 1)
    return -(-shown // config.batch)


def _make_engine(job: Job) -> Engine:
    config = job.config
    # The longest of all folds, wanted or not: a fold is the same whichever others are run.
    steps = config.train.epochs * max(_steps(job, fold) for fold in range(len(job.folds)))
    build = partial(NETWORKS[config.network.name], len(config.data.inputs), config.network)
    return make_engine(config, build, steps)


def _announce(job: Job) -> None:
    """Says what will be run, before it is."""
    config = job.config
    shapes = {subject.geometry.shape for subject in job.of(list(job.subjects))}
    grid = " and ".join("×".join(map(str, shape)) for shape in sorted(shapes)[:3])
    size = how = ""
    if config.method == NETWORK:
        window = config.train.window
        what = "whole volumes" if not any(window) else f"windows of {'×'.join(map(str, window))}"
        size = f", {count_parameters(job.network.init(jax.random.key(0))):,} parameters"
        how = (
            f"at most {config.train.epochs} epochs of {_steps(job, job.wanted[0])} steps on "
            f"{what}, {config.train.optimizer} at {config.train.learning_rate:g} "
            f"({config.train.schedule}), {config.network.dtype}, "
        )
    job.console.print(
        f"[bold]{job.config.title}[/]{size}, from {', '.join(config.data.inputs)} to FLAIR\n"
        f"{sum(map(len, job.subjects.values()))} sessions of {len(job.subjects)} participants "
        f"on {grid} voxels, {len(job.wanted)} of {len(job.folds)} folds\n"
        f"{how}into {job.workdir}"
    )


class Trained(NamedTuple):
    """A model, least squares to compare it with, and the seconds that its training took."""

    model: Model
    rival: Model
    seconds: float


class Task(NamedTuple):
    """One fold, prepared: what a method is fitted on.

    Attributes:
      fold: its number.
      examples: z-scores of the training subjects.
      watched: z-scores of the subjects whose error is watched.
      rival: least squares, fitted on the examples.
    """

    fold: int
    examples: Sequence[Example]
    watched: Sequence[Example]
    rival: FittedBaseline


Fit = Callable[[Job, Task], Fitted]


def _train(job: Job, folds: Sequence[int]) -> Iterator[tuple[int, Trained]]:
    """Trains folds and yields each when it is done, in their order.

    `folds.at_once` networks train side by side, each on a device of its own. A request to end
    reaches them all, and each saves its state.
    """
    if job.config.method != NETWORK:
        for fold in folds:
            yield fold, _train_fold(job, fold, _fit_baseline)
        return
    engine = _make_engine(job)
    told = False

    def tell(job: Job, fold: int, seconds: float, left: int) -> None:
        """Says once how long the run will take."""
        nonlocal told
        remaining = len(job.wanted) - list(job.wanted).index(fold)
        if not told:
            total = job.config.train.epochs * _steps(job, fold)
            job.console.print(say_estimate(seconds, left, remaining, total))
            told = True

    at_once = min(job.config.folds.at_once, len(folds))
    if at_once <= 1:
        for fold in folds:
            with deferred() as signalled:
                fit = partial(_fit_network, engine=engine, tell=tell, signalled=signalled)
                trained = _train_fold(job, fold, fit)
            yield fold, trained
        return
    devices = jax.local_devices()
    quiet = replace(job, console=Console(quiet=True))  # bars of several folds would overwrite

    def train(place: int, fold: int, fit: Fit) -> Trained:
        with jax.default_device(devices[place % at_once % len(devices)]):
            return _train_fold(quiet, fold, fit)

    with deferred() as signalled, ThreadPoolExecutor(at_once) as pool:
        fit = partial(_fit_network, engine=engine, tell=tell, signalled=signalled)
        trained = [pool.submit(train, place, fold, fit) for place, fold in enumerate(folds)]
        done = [future.result() for future in trained]
    yield from zip(folds, done, strict=True)


def _train_fold(job: Job, fold: int, fit: Fit) -> Trained:
    started = time.monotonic()
    config = job.config
    training, watched, heldout = _cast(job, fold)
    everyone = training + heldout if config.normalization.statistics == "all" else training
    normalization = normalize.fit(everyone, config.normalization.method)
    examples = [make_example(s, normalization, config.data.region) for s in training]
    looked_at = [make_example(s, normalization, config.data.region) for s in watched]
    job.journal.write("fold", fold=fold, training=_names(training), heldout=_names(heldout))
    least_squares = BASELINES["least_squares"].fit(examples, config, config.folds.seed)
    rival = FittedBaseline("least_squares", least_squares)
    fitted = fit(job, Task(fold, examples, looked_at, rival))
    sizes = np.median([subject.geometry.voxel_size for subject in training], axis=0)
    size = (float(sizes[0]), float(sizes[1]), float(sizes[2]))
    model, beside = (
        Model(config.data.inputs, which, normalization, config.data.region, size)
        for which in (fitted, rival)
    )
    models.save_model(_fold_dir(job.workdir, fold), model)
    return Trained(model, beside, time.monotonic() - started)


def _fit_baseline(job: Job, task: Task) -> Fitted:
    method = job.config.method
    if method == task.rival.name:
        return task.rival
    with job.console.status(f"fold {task.fold}: fitting the {method}"):
        seed = job.config.folds.seed + task.fold
        return FittedBaseline(method, BASELINES[method].fit(task.examples, job.config, seed))


def _fit_network(
    job: Job,
    task: Task,
    *,
    engine: Engine,
    tell: Callable[[Job, int, float, int], None],
    signalled: Callable[[], int | None],
) -> Fitted:
    params = fit_fold(
        job.config,
        Fold(
            task.fold,
            _fold_dir(job.workdir, task.fold),
            task.examples,
            _init(job, task),
            _make_watch(job, task.watched) if task.watched else None,
        ),
        engine,
        journal=job.journal,
        console=job.console,
        on_timed=partial(tell, job, task.fold),
        signalled=signalled,
    )
    return FittedNetwork(job.config.network, job.network, params)


def _score(job: Job, fold: int, trained: Trained) -> None:
    """Predicts, scores and explains the held-out subjects of a fold, and writes it all."""
    started = time.monotonic()
    config = job.config
    model = trained.model
    training, _, heldout = _cast(job, fold)
    heldout = [subject for together in by_grid(heldout) for subject in together]
    compared = {each.fitted.name: each for each in (model, trained.rival)}
    flairs = {name: _predict_all(job, each, heldout) for name, each in compared.items()}
    rows = {
        name: [evaluate.score(s, flair) for s, flair in zip(heldout, own, strict=True)]
        for name, own in flairs.items()
    }
    synthetic = flairs[job.config.title]
    for subject, flair in zip(heldout, synthetic, strict=True):
        derivative.write_flair(
            job.workdir / "derivative",
            subject,
            flair,
            extracted=config.data.region == "brain",
            model={"Method": job.config.title, "Fold": fold, "Training": _names(training)},
        )
    saliency = _explain(job, fold, model, heldout, synthetic)
    scores = {
        "fold": fold,
        "heldout": _names(heldout),
        "methods": rows,
        "truth": [evaluate.score_truth(subject) for subject in heldout],
        "saliency": saliency,
        "seconds": trained.seconds + time.monotonic() - started,
    }
    write_json(_scores_path(job.workdir, fold), scores)
    mean = {name: float(np.mean([row["mse"] for row in rows[name]])) for name in rows}
    seconds, peak = scores["seconds"], peak_memory_gib()
    job.journal.write("scored", fold=fold, mse=mean, seconds=seconds, peak_gib=peak)
    told = ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
    job.console.print(f"fold {fold}: MSE {told}; {say_seconds(seconds)}, peak {peak:.1f} GiB")


def _init(job: Job, task: Task) -> Params:
    """Returns the weights that a fold starts from."""
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
    return job.network.start_linear(params, task.rival.state.coefficients)


def _make_watch(job: Job, examples: Sequence[Example]) -> Callable[[Params], float]:
    """Returns parameters -> mean squared error of z-scores over the voxels that count."""

    def watch(params: Params) -> float:
        total, count = 0.0, 0
        for together in by_shape(examples):
            images = np.stack([example.images for example in together])
            forward, batch = job.network.forward, min(job.config.predict.batch, len(together))
            flairs = np.asarray(predict_volumes(forward, params, images, batch=batch))
            for example, flair in zip(together, flairs, strict=True):
                error = np.square(flair - example.flair)[example.region]
                total, count = total + float(error.sum(dtype=np.float64)), count + error.size
        return total / count

    return watch


def _predict_all(job: Job, model: Model, subjects: Sequence[Subject]) -> list[Array]:
    """Returns a model's FLAIRs, subjects of one grid being handed to it together."""
    return [
        flair
        for together in by_grid(subjects)
        for flair in models.predict_many(
            model,
            [subject.images for subject in together],
            [subject.masks.brain for subject in together],
            voxels=job.config.predict.voxels,
            batch=job.config.predict.batch,
        )
    ]


def _explain(
    job: Job, fold: int, model: Model, subjects: Sequence[Subject], flairs: Sequence[Array]
) -> dict[str, Any]:
    """Draws one subject; writes all subjects' saliency maps and returns their shares.

    What is no network has no gradient, and so no saliency: of a baseline, the shares are empty, as
    they are where maps are not wanted.
    """
    drawn = max(range(len(subjects)), key=lambda place: _lesion_voxels(subjects[place]))
    folder = _fold_dir(job.workdir, fold)
    subject = subjects[drawn]
    panels.draw_prediction(subject, flairs[drawn], folder / f"{subject.name}_prediction.png")
    if not (job.config.predict.saliency and isinstance(model.fitted, FittedNetwork)):
        return {}
    tables = {}
    for place, subject in enumerate(subjects):
        maps = models.saliency_maps(model, subject, voxels=job.config.predict.voxels)
        derivative.write_saliency(job.workdir / "derivative", subject, maps)
        table = shares(maps, evaluate.regions(subject))
        tables[subject.name] = {
            region: dict(zip(subject.sequences, row, strict=True)) for region, row in table.items()
        }
        if place == drawn:
            panels.draw_p3s(subject, maps, folder / f"{subject.name}_p3s.png")
    return tables


def _lesion_voxels(subject: Subject) -> int:
    return 0 if subject.masks.lesion is None else int(subject.masks.lesion.sum())


def _fold_dir(workdir: Path, fold: int) -> Path:
    return workdir / f"fold-{fold}"


def _scores_path(workdir: Path, fold: int) -> Path:
    return _fold_dir(workdir, fold) / "scores.json"


def _names(subjects: Sequence[Subject]) -> list[str]:
    return [subject.name for subject in subjects]
