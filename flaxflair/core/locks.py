"""Locks between processes, by `flock`.

The kernel releases the locks of a killed process. On a file system without locks, every process
proceeds. Independent of the locked resource.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextlib.contextmanager
def hold(path: Path, what: str, *, wait: bool = False) -> Iterator[bool]:
    """Holds a lock within a block; its file is removed at the end.

    Args:
      path: path of the lock's file, whose folder must exist.
      what: name of the locked resource, for the message.
      wait: whether to wait for another holder.

    Yields:
      Whether the lock is held: False on a file system without locks.

    Raises:
      InputError: another process holds it, and `wait` is False.
      WriteError: the folder is read-only, or its disk full.
    """
    descriptor, held = _take(path, what, wait)
    try:
        if held:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _describe_self().encode(), 0)
        yield held
    finally:
        if held:
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _take(path: Path, what: str, wait: bool) -> tuple[int, bool]:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise WriteError(
                f"{what}: cannot be written to ({error.strerror}); name another folder"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor, False
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno not in _BUSY:
                raise
            raise InputError(
                f"{what}: in use by {holder or 'another process'}; "
                "wait until it has ended, or name another folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        # The previous holder may have removed the file that was opened; then the lock is void.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, True
        os.close(descriptor)


def _describe_self() -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {began}"
