"""Replaces what JAX prints when another process dies, some thirty lines, by one sentence.

JAX aborts the program from a thread of its own, where Python cannot catch it. So standard error
passes through a small process, which stops at the first of these lines.
"""

from __future__ import annotations

import os
import sys

LOST = (
    "another process of this command has ended, as its own output says; "
    "the same command resumes from the last checkpoint"
)
_FILTER = f"""
import sys
lost = False
for line in sys.stdin.buffer:
    starts = b"coordination_service" in line or b"JAX distributed service" in line
    text = b"flaxflair: {LOST}\\n" if starts else line
    if not lost:
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()
    lost = lost or starts
"""


def filter_errors() -> None:
    """Passes standard error of this process through the filter, until the process ends."""
    sys.stderr.flush()
    read, write = os.pipe()
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-E", "-c", _FILTER],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
        setsid=True,  # signals of a terminal are for this process alone
    )
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
