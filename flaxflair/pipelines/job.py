"""State shared by all folds of a cross-validation: configuration, subjects, folds and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

from flaxflair.config import NETWORK, Config
from flaxflair.core.records import Subject
from flaxflair.io.session_files import SessionFiles
from flaxflair.networks import Network
from flaxflair.runtime.processes import gather
from flaxflair.runtime.progress import EventLog
from flaxflair.runtime.signals import Agree, wish_alone
from flaxflair.training.batches import count_steps, take_rows
from flaxflair.training.folds import split
from flaxflair.training.sharding import process_share

Session = TypeVar("Session")


@dataclass(frozen=True)
class Team:
    """The processes that train and score a fold together; by default this one alone.

    Attributes:
      held: rows of the mesh that this process holds, ascending.
      index: index of this process.
      count: number of processes.
      agree: agreement on saving and ending; see `signals.Agree`.
    """

    held: tuple[int, ...] = (0,)
    index: int = 0
    count: int = 1
    agree: Agree = wish_alone

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is shared."""
        return self.index == 0

    def share(self, sessions: Sequence[Session]) -> list[Session]:
        """Returns the sessions of those given that this process predicts and scores."""
        return process_share(sessions, self.index, self.count)

    def collect(self, parts: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        """Returns the parts of all sessions in the order of their names.

        Args:
          parts: session of this process -> its part, as for `processes.gather`.
          names: sessions of all processes.
        """
        found: dict[str, Any] = {}
        for each in gather(dict(parts)) if self.count > 1 else [parts]:
            found.update(each)
        return [found[name] for name in names]


@dataclass(frozen=True)
class Job:
    """A cross-validation.

    Attributes:
      config: configuration of the run.
      workdir: output folder.
      source: input data set.
      sessions: participant -> files of its sessions.
      read: files of a session -> the session; reads it unless it is in memory.
      folds: held-out participants of each fold.
      wanted: numbers of the folds to run.
      network: network as pure functions; not used by baselines.
      event_log: `log.jsonl`.
      console: output of progress.
      team: processes that train a fold together.
    """

    config: Config
    workdir: Path
    source: Path
    sessions: Mapping[str, Sequence[SessionFiles]]
    read: Callable[[SessionFiles], Subject]
    folds: Sequence[Sequence[str]]
    wanted: Sequence[int]
    network: Network
    event_log: EventLog
    console: Console
    team: Team

    def sessions_of(self, participants: Sequence[str]) -> list[SessionFiles]:
        """Returns the sessions of participants."""
        return [files for name in participants for files in self.sessions[name]]

    @property
    def rows(self) -> int:
        """Rows of the mesh, each of which trains on sessions of its own."""
        return self.config.mesh.data if self.config.method == NETWORK else 1

    def take_training(self, training: Sequence[SessionFiles]) -> list[SessionFiles]:
        """Returns the training sessions of this process, in the order of its rows."""
        return take_rows(training, self.team.held, self.rows)


class FoldSessions(NamedTuple):
    """The sessions of a fold, of all processes."""

    training: list[SessionFiles]
    monitored: list[SessionFiles]
    heldout: list[SessionFiles]


def sessions_of_fold(job: Job, fold: int) -> FoldSessions:
    """Returns the training, the monitored and the held-out sessions of one fold."""
    training, heldout = split(job.folds, fold)
    monitored = {"heldout": heldout, "training": training[-1:], "none": []}[job.config.stop.monitor]
    if job.config.stop.monitor == "training":
        training = training[:-1]
    return FoldSessions(*map(job.sessions_of, (training, monitored, heldout)))


def steps_per_epoch(job: Job, fold: int) -> int:
    """Returns the steps in an epoch of one fold."""
    config = job.config.train
    training = sessions_of_fold(job, fold).training
    windows = config.windows_per_subject if any(config.window) else 1
    return count_steps(len(training), windows=windows, batch=config.batch, rows=job.rows)


def fold_dir(workdir: Path, fold: int) -> Path:
    """Returns the folder of a fold: its model, checkpoints and scores."""
    return workdir / f"fold-{fold}"


def scores_path(workdir: Path, fold: int) -> Path:
    """Returns the path of a fold's scores, which exists once the fold is finished."""
    return fold_dir(workdir, fold) / "scores.json"


def names_of(sessions: Sequence[SessionFiles] | Sequence[Subject]) -> list[str]:
    """Returns the names of sessions."""
    return [session.name for session in sessions]
