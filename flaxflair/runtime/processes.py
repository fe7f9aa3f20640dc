"""Joining the processes that `srun`, `mpirun` or Kubernetes started, on one machine or several.

Processes that compute each batch together stay one JAX program over all devices. Processes that
share only a folder are separate JAX programs once they know their index and number. Independent of
what they compute.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flaxflair.core.records import InputError
from flaxflair.runtime.devices import VARIABLE

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Seconds without a sign of life after which JAX ends the other processes.
HEARTBEAT_SECONDS = 20
_START_SECONDS = 300  # that processes wait for each other at the start


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
      InputError: no other process is found, or they do not answer.
    """
    import jax  # only after flags are parsed

    # JAX would handle SIGTERM itself, beside `signals.deferred`.
    jax.config.update("jax_enable_preemption_service", False)
    if not together:
        # An index needs no accelerator, whose memory a first client would take.
        jax.config.update("jax_platforms", "cpu")
    try:
        with _muted_output():  # Gloo prints a line in every process
            count, index = read_environment()
            jax.distributed.initialize(
                num_processes=count,
                process_id=index,
                initialization_timeout=_START_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
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
