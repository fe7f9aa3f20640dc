"""Remarks: why, on the phantom, a figure differs from the published one. Knows no figures."""

from __future__ import annotations

from typing import Any

# (part, metric, row) -> why.
_WHY: dict[tuple[str, str, Any], str] = {}


def explain(part: str, metric: str, key: Any) -> str:
    """Returns why a row of a table tells another story than the paper's; empty if it is not known.

    Args:
      part: key of `studies.PARTS`.
      metric: heading of the table's values.
      key: of the row, in the `Twin`.
    """
    return _WHY.get((part, metric, key), "")
