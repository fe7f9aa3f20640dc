"""Receipts: what was made of a session, from what and by what, so that it is not made again.

One JSON a session in a hidden folder of the derivative, written last: a session that was cut off
has none. Knows files and digests; knows nothing of what was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxflair.core.atomic_files import write_json
from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.io import bids, derivatives
from flaxflair.io.fingerprints import digest_file
from flaxflair.io.session_files import SessionFiles
from flaxflair.runtime.sessions import Finished, Report, run_sessions
from flaxflair.runtime.stages import Stage


@dataclass(frozen=True)
class Receipts:
    """The receipts of one derivative.

    Attributes:
      root: of the derivative.
      request: session -> all that decides what is made of it: digests of what is read, of what it
        is made by, and options. Equal requests give equal files.
      pages: whether a page to look at belongs to what is made.
    """

    root: Path
    request: Callable[[SessionFiles], Mapping[str, Any]]
    pages: bool = False

    def find(self, files: SessionFiles) -> Finished | None:
        """Returns what was made of a session; None if it is not what is asked for, or not whole."""
        path = self._path(files)
        if not path.is_file():
            return None
        try:
            receipt = read_object(path, "")
            if receipt["request"] != self.request(files):
                return None
            digests: Mapping[str, str] = receipt["files"]
            wanted = {self._relative(output) for output in self.list_outputs(files)}
            if not wanted <= digests.keys():
                return None
            if any(digest_file(self.root / name) != own for name, own in digests.items()):
                return None
            return Finished(self.root / receipt["made"], tuple(receipt["warnings"]))
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            return None  # whatever is wrong with it, the session is made anew and says so

    def write(self, files: SessionFiles, request: Mapping[str, Any], made: Finished) -> None:
        """Writes the receipt of a session that is made.

        Raises:
          WriteError: the disk is full or the folder read-only.
        """
        path = self._path(files)
        path.parent.mkdir(exist_ok=True)
        outputs = {
            self._relative(output): digest_file(output) for output in self.list_outputs(files)
        }
        content = {
            "made": self._relative(made.path),
            "warnings": list(made.warnings),
            "request": request,
            "files": outputs,
        }
        write_json(path, content)

    def withdraw(self, files: SessionFiles) -> None:
        """Removes the receipt of a session that is made anew, and what a kill left of its files."""
        self._path(files).unlink(missing_ok=True)
        folder = self.root / files.participant / (files.session or "") / "anat"
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)

    def list_outputs(self, files: SessionFiles) -> list[Path]:
        """Returns the files that lie there of a session, and its page if one belongs to it."""
        folder = self.root / files.participant / (files.session or "") / "anat"
        page = derivatives.page_path(self.root, files.name)
        return [*sorted(folder.glob(f"{files.name}_*")), *([page] if self.pages else [])]

    def _path(self, files: SessionFiles) -> Path:
        return self.root / bids.RECEIPTS / f"{files.name}.json"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def run_unfinished(
    found: Sequence[SessionFiles],
    stages: Sequence[Stage],
    receipts: Receipts,
    on_done: Callable[[int, int], None] = lambda done, total: None,
    *,
    overwrite: bool = False,
) -> Report:
    """Passes sessions through stages, those left out that are done already and whole.

    Args:
      found: the sessions.
      stages: from `SessionFiles` to `Finished`.
      receipts: of the derivative that they write.
      on_done: see `run_sessions`.
      overwrite: whether all are done anew.
    """
    with ThreadPoolExecutor() as pool:
        kept = [None] * len(found) if overwrite else list(pool.map(receipts.find, found))
    done = {files.name: own for files, own in zip(found, kept, strict=True) if own is not None}
    left = [files for files in found if files.name not in done]
    requests: dict[str, Mapping[str, Any]] = {}
    first = stages[0]

    def begin(files: SessionFiles) -> Any:
        receipts.withdraw(files)
        requests[files.name] = receipts.request(files)  # before it is read
        return first.function(files)

    report = run_sessions(
        left,
        [replace(first, function=begin), *stages[1:]],
        lambda count, _: on_done(count + len(done), len(found)),
        on_finished=lambda files, made: receipts.write(files, requests.pop(files.name), made),
    )
    warnings = {name: own.warnings for name, own in done.items() if own.warnings}
    return replace(
        report,
        written=dict(
            sorted({**report.written, **{n: own.path for n, own in done.items()}}.items())
        ),
        warnings=dict(sorted({**report.warnings, **warnings}.items())),
        kept=tuple(sorted(done)),
    )
