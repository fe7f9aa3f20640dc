"""Compilation: what XLA compiled once is kept on disk, so that the next start compiles nothing."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import platformdirs


def keep_compilations() -> Path:
    """Makes JAX keep every program that it compiles, and returns the folder.

    `JAX_COMPILATION_CACHE_DIR` names another folder than the user's cache. A program is found again
    by its content, the versions of JAX and XLA, and the device, so that of other code is never run.
    To be called before anything is compiled.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(chosen) if chosen else platformdirs.user_cache_path("flaxflair") / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The small ones too: there are dozens, and together they are seconds of every start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
