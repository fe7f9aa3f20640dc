"""Receipts: records of finished sessions, with which a repeated run skips them.

A receipt is one JSON file for each session, in a hidden folder of the derivative, with digests of
inputs and outputs. It is written last: an interrupted session has none. The one before it is set
aside until then (`sub-01.earlier.json`), because it lists what has to be removed. Independent of
the content of outputs.
"""

from __future__ import annotations

import contextlib
import glob
import os
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

Stamps = Mapping[Path, tuple[int, int]]


@dataclass(frozen=True)
class Receipts:
    """The receipts of one derivative.

    Attributes:
      root: root of the derivative.
      request: session -> everything that its outputs depend on: digests of inputs and model, and
        options. Equal requests give equal files.
      pages: whether outputs include an HTML page.
      endings: endings of names of further files that outputs include.
    """

    root: Path
    request: Callable[[SessionFiles], Mapping[str, Any]]
    pages: bool = False
    endings: tuple[str, ...] = ()

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
            if self.pages and self._relative(self._page(files)) not in digests:
                return None
            if not all(any(name.endswith(end) for name in digests) for end in self.endings):
                return None
            if any(digest_file(self.root / name) != stored for name, stored in digests.items()):
                return None
            return Finished(self.root / receipt["made"], tuple(receipt["warnings"]))
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            return None  # the session is computed again, which reports any error

    def withdraw(self, files: SessionFiles) -> Stamps:
        """Sets the receipt of a session aside and removes partial files of a killed process.

        Returns:
          The files of the session that lie in the derivative, for `finish`.
        """
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path(files), self._path(files, earlier=True))
        page, receipt = self._page(files), self._path(files)
        for folder, start in (
            (self._folder(files), ""),
            (page.parent, page.name),
            (receipt.parent, receipt.name),
        ):
            for part in folder.glob(f".{glob.escape(start)}*.part"):
                part.unlink(missing_ok=True)
        return self._stamp(files)

    def finish(
        self,
        files: SessionFiles,
        request: Mapping[str, Any],
        finished: Finished,
        before: Stamps,
    ) -> tuple[str, ...]:
        """Removes what earlier runs wrote for a session and this one did not; writes its receipt.

        Args:
          files: the session.
          request: from `request`, of the inputs that were read.
          finished: result of the session.
          before: from `withdraw`.

        Returns:
          One sentence for each file that no receipt lists, or that was changed since: it is left.

        Raises:
          WriteError: the disk is full or the folder read-only.
        """
        now = self._stamp(files)
        left = [path for path, stamp in now.items() if before.get(path) == stamp]
        notes = self._remove(files, left)
        content = {
            "made": self._relative(finished.path),
            "warnings": list(finished.warnings),
            "request": request,
            "files": {self._relative(p): digest_file(p) for p in now if p not in left},
        }
        self._path(files).parent.mkdir(exist_ok=True)
        write_json(self._path(files), content)
        self._path(files, earlier=True).unlink(missing_ok=True)
        return notes

    def _remove(self, files: SessionFiles, paths: Sequence[Path]) -> tuple[str, ...]:
        """Removes files that are as the earlier receipt lists them, and describes the others."""
        try:
            listed = dict(read_object(self._path(files, earlier=True), "")["files"])
        except (InputError, KeyError, TypeError, ValueError):
            listed = {}
        notes = []
        for path in paths:
            if listed.get(self._relative(path)) == digest_file(path):
                path.unlink()
            else:
                notes.append(
                    f"{path}: is not of this run, and is left, because no record lists it as it "
                    "is; remove it if it is of an earlier one"
                )
        return tuple(notes)

    def _stamp(self, files: SessionFiles) -> Stamps:
        """Returns file -> inode and time, which change with every atomic write."""
        paths = sorted(self._folder(files).glob(f"{files.name}_*"))
        stats = {p: p.stat() for p in (*paths, self._page(files)) if p.is_file()}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}

    def _folder(self, files: SessionFiles) -> Path:
        return self.root / files.participant / (files.session or "") / "anat"

    def _page(self, files: SessionFiles) -> Path:
        return derivatives.page_path(self.root, files.name)

    def _path(self, files: SessionFiles, *, earlier: bool = False) -> Path:
        extension = ".earlier.json" if earlier else ".json"
        return self.root / bids.RECEIPTS / f"{files.name}{extension}"

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
    begun: dict[str, tuple[Mapping[str, Any], Stamps]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    first = stages[0]

    def begin(files: SessionFiles) -> Any:
        before = receipts.withdraw(files)
        # Digests of the inputs before they are read.
        begun[files.name] = receipts.request(files), before
        return first.function(files)

    def finish(files: SessionFiles, result: Finished) -> None:
        request, before = begun.pop(files.name)
        notes[files.name] = receipts.finish(files, request, result, before)

    report = run_sessions(
        remaining,
        [replace(first, function=begin), *stages[1:]],
        lambda count, _: on_done(count + len(done), len(found)),
        on_finished=finish,
    )
    warnings = {name: result.warnings for name, result in done.items()}
    for name in report.written:
        warnings[name] = (*report.warnings.get(name, ()), *notes[name])
    written = {**report.written, **{name: result.path for name, result in done.items()}}
    return replace(
        report,
        written=dict(sorted(written.items())),
        warnings={name: told for name, told in sorted(warnings.items()) if told},
        kept=tuple(sorted(done)),
    )
