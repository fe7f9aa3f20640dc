"""The user's cache folder of this package, if there is one."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path | None:
    """Returns the cache folder, existing or not; None for a user without a home directory."""
    try:
        folder = platformdirs.user_cache_path("flaxflair")
    except (RuntimeError, OSError):  # a user unknown to the system
        return None
    return folder if folder.is_absolute() else None
