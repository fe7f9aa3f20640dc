"""Shipped: the files that we take out of another package, which is not imported for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flaxflair.core.records import InputError


def nilearn_file(pattern: str) -> Path:
    """Returns the file below nilearn's folder that a pattern names, such as `**/niivue.umd.js`.

    Raises:
      InputError: nilearn is missing, or ships no such file.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError(f"nilearn, which ships {pattern}, is missing; pip install nilearn")
    found = sorted(Path(spec.origin).parent.glob(pattern))
    if not found:
        raise InputError(f"nilearn ships no {pattern}; pip install --upgrade nilearn")
    return found[0]
