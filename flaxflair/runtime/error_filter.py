"""Replaces what JAX prints when another process does not answer, some thirty lines, by a sentence.

JAX aborts the program from a thread of its own, where Python cannot catch it. So standard error
passes through a small process, which stops at the first of these lines.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

LOST = (
    "another process of this command has ended, as its own output says; "
    "the same command resumes from the last checkpoint"
)
_FILTER = """
import sys
lost = False
for line in sys.stdin.buffer:
    starts = b"coordination_service" in line or b"JAX distributed service" in line
    if not lost:
        sys.stderr.buffer.write(sys.argv[1].encode() if starts else line)
        sys.stderr.buffer.flush()
    lost = lost or starts
"""


def filter_errors(sentence: str = LOST) -> int:
    """Passes standard error of this process through the filter, until the process ends.

    Args:
      sentence: printed in place of JAX's lines.

    Returns:
      The number of the filter's process.
    """
    sys.stderr.flush()
    read, write = os.pipe()
    number = os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-E", "-c", _FILTER, f"flaxflair: {sentence}\n"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
        setsid=True,  # signals of a terminal are for this process alone
    )
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    return number


@contextlib.contextmanager
def filtered_errors(sentence: str) -> Iterator[None]:
    """Passes standard error through the filter within a block."""
    kept = os.dup(2)
    number = filter_errors(sentence)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)  # the filter reads to the end and ends
        os.close(kept)
        os.waitpid(number, 0)
