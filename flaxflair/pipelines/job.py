"""State shared by all folds of a cross-validation: configuration, subjects, folds and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flaxflair.config import Config
from flaxflair.core.records import Subject
from flaxflair.networks import Network
from flaxflair.runtime.progress import EventLog
from flaxflair.runtime.signals import Agree
from flaxflair.training.folds import split


@dataclass(frozen=True)
class Job:
    """A cross-validation.

    Attributes:
      config: configuration of the run.
      workdir: output folder.
      source: input data set.
      subjects: participant -> sessions.
      folds: held-out participants of each fold.
      wanted: numbers of the folds to run.
      network: network as pure functions; not used by baselines.
      event_log: `log.jsonl`.
      console: output of progress.
      agree: agreement of all processes of the run on a signal that one of them received.
    """

    config: Config
    workdir: Path
    source: Path
    subjects: Mapping[str, Sequence[Subject]]
    folds: Sequence[Sequence[str]]
    wanted: Sequence[int]
    network: Network
    event_log: EventLog
    console: Console
    agree: Agree

    def sessions_of(self, participants: Sequence[str]) -> list[Subject]:
        """Returns the sessions of participants."""
        return [subject for name in participants for subject in self.subjects[name]]


def subjects_of_fold(job: Job, fold: int) -> tuple[list[Subject], list[Subject], list[Subject]]:
    """Returns the training, the monitored and the held-out subjects of one fold."""
    training, heldout = split(job.folds, fold)
    monitored = {"heldout": heldout, "training": training[-1:], "none": []}[job.config.stop.monitor]
    if job.config.stop.monitor == "training":
        training = training[:-1]
    return job.sessions_of(training), job.sessions_of(monitored), job.sessions_of(heldout)


def steps_per_epoch(job: Job, fold: int) -> int:
    """Returns the steps in an epoch of one fold."""
    config = job.config.train
    training, _, _ = subjects_of_fold(job, fold)
    windows = config.windows_per_subject if any(config.window) else 1
    return -(-len(training) * windows // config.batch)


def fold_dir(workdir: Path, fold: int) -> Path:
    """Returns the folder of a fold: its model, checkpoints and scores."""
    return workdir / f"fold-{fold}"


def scores_path(workdir: Path, fold: int) -> Path:
    """Returns the path of a fold's scores, which exists once the fold is finished."""
    return fold_dir(workdir, fold) / "scores.json"


def names_of(subjects: Sequence[Subject]) -> list[str]:
    """Returns the names of sessions."""
    return [subject.name for subject in subjects]
