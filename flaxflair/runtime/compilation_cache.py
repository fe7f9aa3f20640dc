"""Persistent cache of XLA compilations, so that later starts compile nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax

from flaxflair.runtime.cache_folder import cache_folder


def enable_compilation_cache() -> Path | None:
    """Makes JAX store every program that it compiles, and returns the folder.

    The folder is `JAX_COMPILATION_CACHE_DIR` if set, else one in the user's cache. The key of a
    program is its content, the versions of JAX and XLA, and the device, so a stale program is never
    run. Call before anything is compiled. If the folder is not writable (no home directory),
    nothing is stored and None is returned.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    home = cache_folder()
    folder = Path(chosen) if chosen else None if home is None else home / "xla"
    if folder is None or not (chosen or _is_usable(folder)):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: there are dozens, which together take seconds of every start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _is_usable(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK | os.X_OK)
