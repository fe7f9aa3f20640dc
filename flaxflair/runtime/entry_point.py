"""Programs: what every command that runs studies sets up first, and how it ends. Knows no study."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from absl import logging
from rich.console import Console

from flaxflair.signals import Interrupted
from flaxflair.volume import InputError


def prepare() -> None:
    """Makes a process ready for JAX: what it compiles is kept, and orbax is quiet."""
    from flaxflair.compilation import keep_compilations  # JAX, wanted only once flags are right

    keep_compilations()
    logging.set_verbosity(logging.WARNING)  # orbax tells each save in a dozen lines


@contextmanager
def command() -> Iterator[Console]:
    """Sets a command up, and ends the program in one sentence where the block fails.

    What was interrupted ends with 128 and the number of the signal, what cannot be done with 1.

    Yields:
      The console to print on.

    Raises:
      SystemExit: the block was interrupted, or raised `InputError` or `OSError`.
    """
    prepare()
    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        yield console
    except Interrupted as reason:
        console.print(f"interrupted: {reason}; the same command goes on from there")
        sys.exit(128 + reason.number)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from the last checkpoint")
        sys.exit(130)
    except (InputError, OSError) as error:
        sys.exit(f"flaxflair: {error}")
