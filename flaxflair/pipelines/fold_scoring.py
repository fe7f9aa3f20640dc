"""Scoring of a fold: predict, write, score and explain the subjects held out of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import Array, Subject, Volume
from flaxflair.evaluation import scoring
from flaxflair.io import derivatives
from flaxflair.io.datasets import by_grid
from flaxflair.models import model as models
from flaxflair.models.estimators import FittedNetwork
from flaxflair.models.model import Model
from flaxflair.models.saliency import shares
from flaxflair.pipelines.fold_training import Trained
from flaxflair.pipelines.job import Job, fold_dir, names_of, scores_path, subjects_of_fold
from flaxflair.runtime.environment import peak_memory_gib
from flaxflair.runtime.progress import format_seconds
from flaxflair.visualization import panels


def score_fold(job: Job, fold: int, trained: Trained) -> None:
    """Predicts, scores and explains the held-out subjects of a fold, and writes the results."""
    started = time.monotonic()
    config = job.config
    model = trained.model
    training, _, heldout = subjects_of_fold(job, fold)
    heldout = [subject for group in by_grid(heldout) for subject in group]
    methods = {method.fitted.name: method for method in (model, trained.baseline)}
    flairs = {name: _predict_all(job, method, heldout) for name, method in methods.items()}
    rows = {
        name: [scoring.score(s, flair) for s, flair in zip(heldout, predicted, strict=True)]
        for name, predicted in flairs.items()
    }
    synthetic = flairs[job.config.title]
    for subject, flair in zip(heldout, synthetic, strict=True):
        derivatives.write_flair(
            derivatives.in_derivative(job.workdir / "derivative", subject),
            subject,
            Volume(flair, subject.geometry),
            extracted=config.data.region == "brain",
            model={"Method": job.config.title, "Fold": fold, "Training": names_of(training)},
        )
    saliency = _explain(job, fold, model, heldout, synthetic)
    scores = {
        "fold": fold,
        "heldout": names_of(heldout),
        "methods": rows,
        "truth": [scoring.score_truth(subject) for subject in heldout],
        "saliency": saliency,
        "seconds": trained.seconds + time.monotonic() - started,
    }
    write_json(scores_path(job.workdir, fold), scores)
    mean = {name: float(np.mean([row["mse"] for row in rows[name]])) for name in rows}
    seconds, peak = scores["seconds"], peak_memory_gib()
    job.event_log.write("scored", fold=fold, mse=mean, seconds=seconds, peak_gib=peak)
    errors = ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
    job.console.print(f"fold {fold}: MSE {errors}; {format_seconds(seconds)}, peak {peak:.1f} GiB")


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


def _explain(
    job: Job, fold: int, model: Model, subjects: Sequence[Subject], flairs: Sequence[Array]
) -> dict[str, Any]:
    """Draws one subject; writes all subjects' saliency maps and returns their shares.

    Baselines have no gradient, and so no saliency: their shares are empty, as they are if saliency
    is disabled.
    """
    drawn = max(range(len(subjects)), key=lambda index: _lesion_voxels(subjects[index]))
    folder = fold_dir(job.workdir, fold)
    subject = subjects[drawn]
    panels.draw_prediction(subject, flairs[drawn], folder / f"{subject.name}_prediction.png")
    if not (job.config.predict.saliency and isinstance(model.fitted, FittedNetwork)):
        return {}
    tables = {}
    for index, subject in enumerate(subjects):
        maps = models.saliency_maps(model, subject, tile_voxels=job.config.predict.tile_voxels)
        derivatives.write_saliency(job.workdir / "derivative", subject, maps)
        table = shares(maps, scoring.regions(subject))
        tables[subject.name] = {
            region: dict(zip(subject.sequences, row, strict=True)) for region, row in table.items()
        }
        if index == drawn:
            panels.draw_p3s(subject, maps, folder / f"{subject.name}_p3s.png")
    return tables


def _lesion_voxels(subject: Subject) -> int:
    return 0 if subject.masks.lesion is None else int(subject.masks.lesion.sum())
