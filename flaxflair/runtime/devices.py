"""Check that the requested JAX device is available."""

from __future__ import annotations

import os

from flaxflair.core.records import InputError

VARIABLE = "JAX_PLATFORMS"


def require_device() -> None:
    """Checks that the device requested by `--device` or `VARIABLE` is available.

    Without a request, JAX chooses the device, and no backend is initialised here.

    Raises:
      InputError: the device is unavailable or unknown.
    """
    requested = os.environ.get(VARIABLE)
    if not requested:
        return
    import jax  # only after flags are parsed

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or ["no such device is found"])[0]
        raise InputError(
            f"--device or {VARIABLE} requests {requested}, which is not available ({first}); "
            "omit it, or use cpu"
        ) from None
