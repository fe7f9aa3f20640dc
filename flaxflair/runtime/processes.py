"""Joining the processes that `srun`, `mpirun` or Kubernetes started, on one machine or several.

Processes that compute each batch together stay one JAX program over all devices. Processes that
share only a folder are separate JAX programs once they know their index and number. Independent of
what they compute.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from flaxflair.core.records import InputError
from flaxflair.runtime.devices import VARIABLE
from flaxflair.runtime.error_filter import LOST, filter_errors, filtered_errors
from flaxflair.runtime.signals import Wish

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Seconds without a sign of life after which JAX ends the other processes.
HEARTBEAT_SECONDS = 20
_START_SECONDS = 300  # that processes wait for each other at the start
_LAST_SECONDS = 2.0
_ABSENT = (
    f"--distributed: the other processes have ended, or did not answer within {_START_SECONDS} s; "
    f"start all of them, with the same {ADDRESS}"
)
# What the errors of collective operations say when another process is gone.
_LOSS = re.compile("Gloo|NCCL|collective|coordination service|barrier|Socket closed", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """This process among those of a command.

    Attributes:
      index: index of this process, from 0.
      count: number of processes.
      token: name of this start of all of them, the same in each; empty for one process.
      together: whether they are one JAX program over all devices.
    """

    index: int = 0
    count: int = 1
    token: str = ""
    together: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is shared, and prints."""
        return self.index == 0


ALONE = Processes()


def join(*, together: bool) -> Processes:
    """Finds the other processes of this command; call before any JAX device is used.

    Every process must call it. From then on, standard output is that of the first alone.

    Args:
      together: whether JAX remains one program over the devices of all processes. If not, each
        process has its own devices afterwards, and JAX knows of no other process.

    Raises:
      InputError: no other process is found. If they do not answer, JAX ends this process, after
        one sentence.
    """
    import jax  # only after flags are parsed

    # JAX would handle SIGTERM itself, beside `signals.deferred`.
    jax.config.update("jax_enable_preemption_service", False)
    if not together:
        # An index needs no accelerator, whose memory a first client would take.
        jax.config.update("jax_platforms", "cpu")
    try:
        # Gloo prints a line in every process.
        with _muted_output(), filtered_errors(_ABSENT):
            count, index = read_environment()
            jax.distributed.initialize(
                num_processes=count,
                process_id=index,
                initialization_timeout=_START_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            )
            processes = _greet(together)
            if not together:
                _part()
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        raise InputError(_describe(error)) from None
    finally:
        jax.config.update("jax_platforms", os.environ.get(VARIABLE))
    if not processes.is_first:
        _discard_output()
    if together:
        filter_errors()
    return processes


def read_environment() -> tuple[int | None, int | None]:
    """Returns the number of processes and the index of this one, as `COUNT` and `INDEX` say.

    JAX itself reads only `ADDRESS`, and all three from SLURM, Open MPI and Kubernetes. A variable
    that is not set is None.

    Raises:
      InputError: a variable is not a number, or number and index do not fit.
    """
    count, index = _read_number(COUNT), _read_number(INDEX)
    if count is not None and index is not None and index >= count:
        raise InputError(f"{INDEX} is {index} and {COUNT} is {count}; give 0 to {count - 1}")
    return count, index


def _read_number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not (text.isascii() and text.isdigit()):
        raise InputError(f"{variable} is {text!r}; it must be a number")
    return None if text is None else int(text)


def gather(value: Any) -> list[Any]:
    """Returns the values that all processes of one JAX program pass, in the order of their index.

    All of them must call it, and in the same order as their computations over all devices.

    Args:
      value: of numbers, texts, lists and dictionaries, as in JSON; floats are exchanged exactly.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(text)], np.int32)).ravel()
    # Rounded up, so that few lengths are compiled.
    padded = np.zeros(1 << int(max(lengths) - 1).bit_length(), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    rows = rows.reshape(len(lengths), -1)
    return [json.loads(bytes(row[:n])) for row, n in zip(rows, lengths, strict=True)]


def agree(wish: Wish) -> Wish:
    """See `signals.Agree`: every process gets what any of them wishes."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return wish
    own = np.array([wish.save, wish.number or 0], np.int32)
    save, number = np.asarray(multihost_utils.process_allgather(own)).reshape(-1, 2).max(axis=0)
    return Wish(bool(save), int(number) or None)


def describe_loss(error: Exception) -> str | None:
    """Returns one sentence if an error says that another process of the program died; else None."""
    causes = (error, error.__cause__)
    texts = [str(each) for each in causes if isinstance(each, ValueError | RuntimeError)]
    return LOST if is_joined() and any(map(_LOSS.search, texts)) else None


def is_joined() -> bool:
    """Whether this process is one of several of one JAX program."""
    import jax

    return jax.distributed.is_initialized()


def leave(status: int) -> NoReturn:
    """Ends a process of one JAX program before its end, without waiting for the others.

    The first process ends last, since JAX ends the others at once when it does.
    """
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LAST_SECONDS)
    os._exit(status)


def _greet(together: bool) -> Processes:
    """Returns this process among the others, with a token that the first one drew."""
    import jax
    from jax.experimental import multihost_utils

    drawn = np.frombuffer(secrets.token_bytes(8), np.uint8)
    token = np.asarray(multihost_utils.broadcast_one_to_all(drawn)).tobytes().hex()
    return Processes(jax.process_index(), jax.process_count(), token, together)


def _part() -> None:
    """Makes JAX a program of one process again."""
    import jax
    from jax.extend import backend

    jax.distributed.shutdown()
    backend.clear_backends()
    # JAX keeps index and number beyond the shutdown; a group of one resets them.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0, cluster_detection_method="deactivate")
    jax.distributed.shutdown()


def _describe(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return (
        f"--distributed: the other processes are not found ({first}); start the command by srun or "
        f"mpirun, or set {ADDRESS} (HOST:PORT of the first process), {COUNT} and {INDEX} for each"
    )


@contextlib.contextmanager
def _muted_output() -> Iterator[None]:
    """Discards what libraries print on standard output within a block."""
    sys.stdout.flush()
    kept = os.dup(1)
    _discard_output()
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _discard_output() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
