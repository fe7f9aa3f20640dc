"""Execution of the missing studies, sequentially or in parallel.

Interrupted studies resume. Independent of tables and report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from flaxflair.config import Config
from flaxflair.paper.studies import Scale, Study
from flaxflair.pipelines import cross_validation
from flaxflair.runtime import entry_point
from flaxflair.runtime.process_pool import run_in_parallel
from flaxflair.runtime.progress import format_seconds
from flaxflair.runtime.terminal import open_console


def run_studies(
    studies: Sequence[Study],
    scale: Scale,
    workdir: Path,
    source: Path,
    *,
    jobs: int | None,
    console: Console,
) -> None:
    """Runs the studies that are not finished.

    Args:
      studies: studies in the order in which they are started.
      scale: number of folds and of parallel studies.
      workdir: folder of the reproduction.
      source: prepared BIDS data set.
      jobs: parallel studies, each on its share of the cores; None for the number of the scale.
      console: output of progress.

    Raises:
      InputError: the data cannot be used.
      Interrupted: SIGTERM or SIGINT was received during training; the state is saved.
    """
    jobs = (scale.jobs if jobs is None else jobs) or len(os.sched_getaffinity(0))
    missing = [study for study in studies if not _is_complete(workdir, study, scale)]
    console.print(f"{len(studies)} studies, {len(studies) - len(missing)} of them done")
    if jobs == 1:
        for study in missing:
            console.rule(study.name, align="left")
            folder, folds = folder_of(workdir, study), _folds(study, scale)
            folder.mkdir(parents=True, exist_ok=True)
            cross_validation.run(study.config, folder, source, folds=folds, console=console)
        return
    left = len(missing)

    def report(name: str, seconds: float) -> None:
        nonlocal left
        left -= 1
        console.print(f"{name}: {format_seconds(seconds)}; {left} to do")

    console.print(f"{jobs} at a time, progress in {workdir}/runs/*/output.txt")
    calls = {
        study.name: partial(
            _run_in_process, study.config, folder_of(workdir, study), source, _folds(study, scale)
        )
        for study in missing
    }
    run_in_parallel(calls, jobs, report)


def folder_of(workdir: Path, study: Study) -> Path:
    """Returns the folder of a study's run."""
    return workdir / "runs" / study.name


def is_done(workdir: Path, study: Study, fold: int) -> bool:
    """Whether one fold of a study is finished."""
    return (folder_of(workdir, study) / f"fold-{fold}" / "scores.json").is_file()


def _run_in_process(
    config: Config, folder: Path, source: Path, folds: Sequence[int] | None
) -> None:
    """Runs one study in a worker process, with its output in `output.txt`."""
    entry_point.prepare()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a", encoding="utf-8") as stream:
        console = open_console(file=stream, width=120)
        cross_validation.run(config, folder, source, folds=folds, console=console)


def _is_complete(workdir: Path, study: Study, scale: Scale) -> bool:
    path = folder_of(workdir, study) / "folds.json"
    if not path.is_file():
        return False
    folds = _folds(study, scale)
    if folds is None:
        folds = range(len(json.loads(path.read_text(encoding="utf-8"))["heldout"]))
    return all(is_done(workdir, study, fold) for fold in folds)


def _folds(study: Study, scale: Scale) -> list[int] | None:
    return list(range(scale.few)) if study.few and scale.few else None
