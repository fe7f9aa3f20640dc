"""Writable standard streams, and consoles on them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from flaxflair.core.atomic_files import WriteError

if TYPE_CHECKING:
    from rich.console import Console

_T = TypeVar("_T")


def open_console(**options: Any) -> Console:
    """Returns a console that prints text verbatim: `data[old]` is a folder, not markup."""
    from rich.console import Console  # not needed for --help

    return Console(**{"markup": False, "emoji": False, "file": _Output(), **options})


class _Output:
    """The current `sys.stdout`, whose write errors are raised as `WriteError`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        return _try(lambda: sys.stdout.write(text))

    def flush(self) -> None:
        _try(lambda: sys.stdout.flush())


def _try(act: Callable[[], _T]) -> _T:
    try:
        return act()
    except BrokenPipeError:  # the reader has closed the pipe; rich ends the program silently
        raise
    except OSError as error:
        _discard_output()
        raise WriteError(
            f"standard output: cannot be written ({error.strerror}); free space there, or print "
            "to another place"
        ) from None


def _discard_output() -> None:
    """Turns standard output into the null device: what is buffered would fail again at exit."""
    with contextlib.suppress(io.UnsupportedOperation):  # in memory: nothing is written at exit
        number = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def prepare_streams() -> None:
    """Makes standard output and error writable; call before anything else.

    A closed stream becomes the null device: otherwise the next file opened would get its number,
    and output of libraries would be written into that file. A character that the terminal cannot
    encode, such as `×`, is replaced by a question mark. Matplotlib's warnings
    about an unwritable home directory are disabled.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if number and getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        stream = getattr(sys, name)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
