"""Remarks: why, on the phantom, a figure differs from the published one. Knows no figures."""

from __future__ import annotations

from typing import Any

_WHY: dict[tuple[str, Any], str] = {}


def explain(part: str, key: Any) -> str:
    """Returns why a row of a part tells another story than the paper's, or nothing if not known."""
    return _WHY.get((part, key), "")
