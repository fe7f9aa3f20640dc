"""Set-up and exit codes of every command that runs studies. Independent of any study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from absl import logging
from rich.console import Console

from flaxflair.core.atomic_files import describe_error
from flaxflair.core.records import InputError
from flaxflair.runtime import processes
from flaxflair.runtime.devices import require_device
from flaxflair.runtime.signals import Interrupted
from flaxflair.runtime.terminal import open_console, prepare_streams


def prepare() -> None:
    """Enables JAX's compilation cache and silences orbax in this process."""
    from flaxflair.runtime.compilation_cache import (
        enable_compilation_cache,  # imports JAX: only after flags are parsed
    )

    enable_compilation_cache()
    logging.set_verbosity(logging.WARNING)  # orbax logs a dozen lines for each save


@contextmanager
def command(before: Callable[[], object] = lambda: None) -> Iterator[Console]:
    """Sets up a command, and exits with one sentence if the block fails.

    The exit code is 128 plus the number of the signal after an interruption, and 1 after an error.

    Args:
      before: called before any device is used.

    Yields:
      The console to print on.

    Raises:
      SystemExit: the block was interrupted, or raised `InputError` or `OSError`.
    """
    prepare_streams()
    prepare()
    console = open_console()
    if not console.is_terminal:
        console.width = 120
    try:
        before()
        require_device()
        yield console
    except Interrupted as reason:
        console.print(f"interrupted: {reason}; the same command resumes from there")
        _exit(128 + reason.number)
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes from the last checkpoint")
        _exit(130)
    except Exception as error:
        if loss := processes.describe_loss(error):
            _exit(f"flaxflair: {loss}")
        if not isinstance(error, InputError | OSError):
            raise
        _exit(f"flaxflair: {describe_error(error)}")


def _exit(status: int | str) -> NoReturn:
    """Exits like `sys.exit`; of several processes of one JAX program, without the others."""
    if not processes.is_joined():
        sys.exit(status)
    if isinstance(status, str):
        print(status, file=sys.stderr)
    processes.leave(1 if isinstance(status, str) else status)
