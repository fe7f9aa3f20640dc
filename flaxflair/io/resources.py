"""Files from the installed package nilearn, which is not imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flaxflair.core.records import InputError


def nilearn_file(pattern: str) -> Path:
    """Returns the file in nilearn's folder that matches a pattern, such as `**/niivue.umd.js`.

    Raises:
      InputError: nilearn is not installed, or contains no such file.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError(f"nilearn, which contains {pattern}, is missing; pip install nilearn")
    found = sorted(Path(spec.origin).parent.glob(pattern))
    if not found:
        raise InputError(f"nilearn contains no {pattern}; pip install --upgrade nilearn")
    return found[0]
