"""A cross-validation whose folds are dealt to several processes, which share its folder.

The first process holds the lock, decides which folds are left, and writes what concerns all of
them. Every process writes the folders of its own folds and the images of their held-out subjects.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxflair.pipelines.job import Job, Team
from flaxflair.pipelines.run_state import is_done, occupied
from flaxflair.pipelines.summary import summarize
from flaxflair.runtime.peers import Peers, remove_earlier, wait_for, watch_peers
from flaxflair.runtime.processes import Processes
from flaxflair.runtime.signals import deferred
from flaxflair.training.sharding import process_share

FOLDER = ".processes"  # in the folder of the run: what the processes tell each other


def share_folds(
    processes: Processes,
    workdir: Path,
    *,
    start: Callable[[Team], Job],
    run_folds: Callable[[Job, Sequence[int]], None],
    finish: Callable[[Job], dict[str, Any]],
) -> dict[str, Any]:
    """Runs this process's share of the folds that are not done, and returns the summary.

    Args:
      processes: this process among the others; all must call this function.
      workdir: folder of the run, shared by all processes.
      start: checks and reads what the run needs; its argument is for `Job.team`.
      run_folds: trains and scores folds.
      finish: writes the summary; called by the first process once all folds are done.

    Raises:
      InputError: see `start` and `occupied`.
      Interrupted: this or another process received a signal.
    """
    folder = workdir / FOLDER
    with watch_peers(folder, processes) as peers:
        if not processes.is_first:
            job = start(Team(agree=peers.agree))
            left = _wait_for_folds(peers)
            run_folds(job, process_share(left, processes.index, processes.count))
            return summarize(workdir)
        with occupied(workdir):
            remove_earlier(folder, processes)
            job = start(Team(agree=peers.agree))
            left = [fold for fold in job.wanted if not is_done(workdir, fold)]
            job.console.print(f"{len(left)} folds to do, dealt to {processes.count} processes")
            peers.tell({"folds": left})
            run_folds(job, process_share(left, 0, processes.count))
            _wait_for_others(peers, processes)
            summary = finish(job)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def _wait_for_folds(peers: Peers) -> list[int]:
    """Returns the folds that are not done, as the first process found them."""
    with deferred() as signalled:
        wait_for(peers, lambda: "folds" in peers.ask(0), signalled, "the first process")
    return peers.ask(0)["folds"]


def _wait_for_others(peers: Peers, processes: Processes) -> None:
    """Waits until all other processes have ended."""

    def ended() -> bool:
        others = range(1, processes.count)
        return all(peers.ask(index).get("state") == "ended" for index in others)

    with deferred() as signalled:
        wait_for(peers, ended, signalled, "the other processes")
