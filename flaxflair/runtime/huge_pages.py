"""Memory: huge pages for the large arrays of a program. Knows nothing of arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

_CHOSEN = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def start_with_huge_pages(
    execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
) -> None:
    """Starts this program anew, once, so that what it allocates lies in pages of 2 MiB.

    A forward pass of the paper's network takes gigabytes from the kernel and gives them back; in
    pages of 4 KiB that is half a million page faults and a sixth of the time. The C library reads
    whether to ask for larger ones when a program starts, and then only. Where the kernel does not
    leave that to the program, or `GLIBC_TUNABLES` is set already, nothing is done. To be called
    first of all, while nothing is open that the new start would lose.

    Args:
      execute: replaces the running program, as `os.execve` does.
    """
    if _VARIABLE in os.environ or not _CHOSEN.is_file() or "[madvise]" not in _CHOSEN.read_text():
        return
    environment = {**os.environ, _VARIABLE: _TUNABLE}
    sys.stdout.flush()
    sys.stderr.flush()
    execute(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
