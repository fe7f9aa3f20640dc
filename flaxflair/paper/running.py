"""Running: the studies that are missing, one after the other or side by side.

Each goes on where it was cut off. Knows no table and no report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from flaxflair import crossval, program
from flaxflair.config import Config
from flaxflair.paper.studies import Scale, Study
from flaxflair.screen import say_seconds
from flaxflair.workers import run_side_by_side


def run_studies(
    studies: Sequence[Study],
    scale: Scale,
    workdir: Path,
    source: Path,
    *,
    jobs: int | None,
    console: Console,
) -> None:
    """Runs the studies that are not done yet.

    Args:
      studies: in the order in which they are begun.
      scale: how many folds and how many at a time.
      workdir: of the reproduction.
      source: prepared BIDS data set.
      jobs: studies side by side, each on its share of the cores; None for the scale's own number.
      console: prints progress.

    Raises:
      InputError: the data cannot be used.
      Interrupted: SIGTERM or SIGINT came while training; everything is saved.
    """
    jobs = (scale.jobs if jobs is None else jobs) or len(os.sched_getaffinity(0))
    missing = [study for study in studies if not _is_complete(workdir, study, scale)]
    console.print(f"{len(studies)} studies, {len(studies) - len(missing)} of them done")
    if jobs == 1:
        for study in missing:
            console.rule(study.name, align="left")
            folder, folds = folder_of(workdir, study), _folds(study, scale)
            folder.mkdir(parents=True, exist_ok=True)
            crossval.run(study.config, folder, source, folds=folds, console=console)
        return
    left = len(missing)

    def tell(name: str, seconds: float) -> None:
        nonlocal left
        left -= 1
        console.print(f"{name}: {say_seconds(seconds)}; {left} to do")

    console.print(f"{jobs} at a time, each telling its progress in {workdir}/runs/*/output.txt")
    calls = {
        study.name: partial(
            _run_apart, study.config, folder_of(workdir, study), source, _folds(study, scale)
        )
        for study in missing
    }
    run_side_by_side(calls, jobs, tell)


def folder_of(workdir: Path, study: Study) -> Path:
    """Returns the folder of a study's run."""
    return workdir / "runs" / study.name


def is_done(workdir: Path, study: Study, fold: int) -> bool:
    """Whether one fold of a study is done."""
    return (folder_of(workdir, study) / f"fold-{fold}" / "scores.json").is_file()


def _run_apart(config: Config, folder: Path, source: Path, folds: Sequence[int] | None) -> None:
    """Runs one study in a process of its own, which prints into `output.txt`."""
    program.prepare()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a", encoding="utf-8") as stream:
        console = Console(file=stream, width=120)
        crossval.run(config, folder, source, folds=folds, console=console)


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
