"""Scoring of a fold: predict, write, score and explain the subjects held out of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Subject, Volume
from flaxflair.evaluation import scoring
from flaxflair.io import derivatives
from flaxflair.io.datasets import by_grid
from flaxflair.io.session_files import SessionFiles
from flaxflair.models import model as models
from flaxflair.models.estimators import FittedNetwork
from flaxflair.models.model import Model
from flaxflair.models.saliency import shares
from flaxflair.pipelines.fold_training import Trained
from flaxflair.pipelines.job import Job, fold_dir, names_of, scores_path, sessions_of_fold
from flaxflair.runtime.environment import peak_memory_gib
from flaxflair.runtime.progress import format_seconds
from flaxflair.visualization import panels


def score_fold(job: Job, fold: int, trained: Trained) -> None:
    """Predicts, scores and explains the held-out subjects of a fold, and writes the results.

    Each process does so for its share of them; the first writes the scores of all.
    """
    started = time.monotonic()
    config, team = job.config, job.team
    sessions = sessions_of_fold(job, fold)
    shared = [job.read(files) for files in team.share(sessions.heldout)]
    heldout = [subject for group in by_grid(shared) for subject in group]
    methods = {method.fitted.name: method for method in (trained.model, trained.baseline)}
    flairs = {name: _predict_all(job, method, heldout) for name, method in methods.items()}
    synthetic = flairs[config.title]
    for subject, flair in zip(heldout, synthetic, strict=True):
        derivatives.write_flair(
            derivatives.in_derivative(job.workdir / "derivative", subject),
            subject,
            Volume(flair, subject.geometry),
            extracted=config.data.region == "brain",
            model={
                "Method": config.title,
                "Fold": fold,
                "Training": names_of(sessions.training),
            },
        )
    names = _by_grid(job, sessions.heldout, heldout)
    drawn = _choose_drawn(job, names, heldout)
    rows = {
        name: team.collect(
            {s.name: scoring.score(s, f) for s, f in zip(heldout, predicted, strict=True)}, names
        )
        for name, predicted in flairs.items()
    }
    truth = team.collect({s.name: scoring.score_truth(s) for s in heldout}, names)
    tables = _explain(job, fold, trained.model, heldout, synthetic, drawn)
    explained = _is_explained(job, trained.model)
    scores = {
        "fold": fold,
        "heldout": names,
        "methods": rows,
        "truth": truth,
        "saliency": dict(zip(names, team.collect(tables, names), strict=True)) if explained else {},
        "seconds": trained.seconds + time.monotonic() - started,
    }
    if team.is_first:
        _finish_fold(job, fold, scores)


def _finish_fold(job: Job, fold: int, scores: Mapping[str, Any]) -> None:
    """Writes and prints the scores of a fold."""
    write_json(scores_path(job.workdir, fold), scores)
    rows = scores["methods"]
    mean = {name: float(np.mean([row["mse"] for row in rows[name]])) for name in rows}
    seconds, peak = scores["seconds"], peak_memory_gib()
    job.event_log.write("scored", fold=fold, mse=mean, seconds=seconds, peak_gib=peak)
    errors = ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
    job.console.print(f"fold {fold}: MSE {errors}; {format_seconds(seconds)}, peak {peak:.1f} GiB")


def _by_grid(job: Job, sessions: Sequence[SessionFiles], subjects: Sequence[Subject]) -> list[str]:
    """Returns the names of all processes' sessions, those of one grid together.

    Args:
      job: the cross-validation.
      sessions: sessions of all processes.
      subjects: those of this process.
    """
    names = names_of(sessions)
    grids = job.team.collect({s.name: s.geometry.shape for s in subjects}, names)
    shapes = [tuple(grid) for grid in grids]
    pairs = list(zip(names, shapes, strict=True))
    return [name for shape in dict.fromkeys(shapes) for name, own in pairs if own == shape]


def _choose_drawn(job: Job, names: Sequence[str], subjects: Sequence[Subject]) -> str:
    """Returns the name of the first session with the most lesion voxels, of all processes."""
    counts = job.team.collect({s.name: _lesion_voxels(s) for s in subjects}, names)
    return max(zip(names, counts, strict=True), key=lambda pair: pair[1])[0]


def _predict_all(job: Job, model: Model, subjects: Sequence[Subject]) -> list[Array]:
    """Returns a model's FLAIRs, predicted together for all subjects of one grid."""
    return [
        flair.array
        for group in by_grid(subjects)
        for flair in models.predict_many(
            model,
            group,
            tile_voxels=job.config.predict.tile_voxels,
            batch=job.config.predict.batch,
        )
    ]


def _is_explained(job: Job, model: Model) -> bool:
    """Whether saliency is wanted; baselines have no gradient, and so no saliency."""
    return job.config.predict.saliency and isinstance(model.fitted, FittedNetwork)


def _explain(
    job: Job,
    fold: int,
    model: Model,
    subjects: Sequence[Subject],
    flairs: Sequence[Array],
    drawn: str,
) -> dict[str, Any]:
    """Draws one subject; writes the subjects' saliency maps and returns their shares, by name.

    Without saliency the shares are empty.
    """
    folder = fold_dir(job.workdir, fold)
    tables = {}
    for subject, flair in zip(subjects, flairs, strict=True):
        if subject.name == drawn:
            panels.draw_prediction(subject, flair, folder / f"{drawn}_prediction.png")
        if not _is_explained(job, model):
            continue
        maps = models.saliency_maps(model, subject, tile_voxels=job.config.predict.tile_voxels)
        derivatives.write_saliency(job.workdir / "derivative", subject, maps)
        table = shares(maps, scoring.regions(subject))
        tables[subject.name] = {
            region: dict(zip(subject.sequences, map(float, row), strict=True))
            for region, row in table.items()
        }
        if subject.name == drawn:
            panels.draw_p3s(subject, maps, folder / f"{drawn}_p3s.png")
    return tables


def _lesion_voxels(subject: Subject) -> int:
    return 0 if subject.masks.lesion is None else int(subject.masks.lesion.sum())
