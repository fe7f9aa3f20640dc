"""Receipts: records of finished sessions, with which a repeated run skips them.

A receipt is one JSON file for each session, in a hidden folder of the derivative, with digests of
inputs and outputs. It is written last: an interrupted session has none. Independent of the content
of outputs.
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
      root: root of the derivative.
      request: session -> everything that its outputs depend on: digests of inputs and model, and
        options. Equal requests give equal files.
      pages: whether outputs include an HTML page.
    """

    root: Path
    request: Callable[[SessionFiles], Mapping[str, Any]]
    pages: bool = False

    def find(self, files: SessionFiles) -> Finished | None:
        """Returns the result of a finished session; None if request or outputs have changed."""
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
            if any(digest_file(self.root / name) != stored for name, stored in digests.items()):
                return None
            return Finished(self.root / receipt["made"], tuple(receipt["warnings"]))
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            return None  # the session is computed again, which reports any error

    def write(self, files: SessionFiles, request: Mapping[str, Any], finished: Finished) -> None:
        """Writes the receipt of a finished session.

        Raises:
          WriteError: the disk is full or the folder read-only.
        """
        path = self._path(files)
        path.parent.mkdir(exist_ok=True)
        outputs = {
            self._relative(output): digest_file(output) for output in self.list_outputs(files)
        }
        content = {
            "made": self._relative(finished.path),
            "warnings": list(finished.warnings),
            "request": request,
            "files": outputs,
        }
        write_json(path, content)

    def withdraw(self, files: SessionFiles) -> None:
        """Removes the receipt of a session and partial files of a killed process."""
        self._path(files).unlink(missing_ok=True)
        folder = self.root / files.participant / (files.session or "") / "anat"
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    def list_outputs(self, files: SessionFiles) -> list[Path]:
        """Returns the output files of a session, including its page if `pages`."""
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
    """Runs the stages for all sessions without a valid receipt.

    Args:
      found: the sessions.
      stages: stages from `SessionFiles` to `Finished`.
      receipts: receipts of the output derivative.
      on_done: see `run_sessions`.
      overwrite: whether finished sessions are recomputed.
    """
    with ThreadPoolExecutor() as pool:
        earlier = [None] * len(found) if overwrite else list(pool.map(receipts.find, found))
    done = {f.name: result for f, result in zip(found, earlier, strict=True) if result is not None}
    remaining = [files for files in found if files.name not in done]
    requests: dict[str, Mapping[str, Any]] = {}
    first = stages[0]

    def begin(files: SessionFiles) -> Any:
        receipts.withdraw(files)
        requests[files.name] = receipts.request(files)  # digests of the inputs before they are read
        return first.function(files)

    report = run_sessions(
        remaining,
        [replace(first, function=begin), *stages[1:]],
        lambda count, _: on_done(count + len(done), len(found)),
        on_finished=lambda files, result: receipts.write(files, requests.pop(files.name), result),
    )
    warnings = {name: result.warnings for name, result in done.items() if result.warnings}
    written = {**report.written, **{name: result.path for name, result in done.items()}}
    return replace(
        report,
        written=dict(sorted(written.items())),
        warnings=dict(sorted({**report.warnings, **warnings}.items())),
        kept=tuple(sorted(done)),
    )
