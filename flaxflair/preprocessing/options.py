"""Options of the preparation of a session, and the choice of its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flaxflair.core.records import InputError
from flaxflair.core.sequences import TARGET
from flaxflair.preprocessing.registration import Freedom

# Whose grid is kept, if none is asked for: the first that there is.
REFERENCES = (TARGET, "T2", "T1", "PD", "DIR", "T1SE")


Finder = Literal["template", "hdbet"]


@dataclass(frozen=True)
class Preparation:
    """How raw sessions are prepared.

    Attributes:
      reference: sequence whose grid is kept; empty for the first of `REFERENCES` that there is.
      freedom: of the registration: 6 for rotation and shift, 12 for an affine map.
      finder: what finds the brain where no mask is given: the ICBM152 template, or HD-BET.
      bias_by: what tells a scan's bias: the fields of all scans of its session, or its own alone.
      workers: sequences at a time, a thread each.
    """

    reference: str = ""
    freedom: Freedom = 12
    finder: Finder = "template"
    bias_by: Literal["session", "scan"] = "session"
    workers: int = 2


AS_USUAL = Preparation()


def choose_reference(sequences: Mapping[str, object], wanted: str = "") -> str:
    """Returns the sequence whose grid is kept.

    Args:
      sequences: names of those there are, as keys.
      wanted: the one asked for; empty for the first of `REFERENCES` that there is.

    Raises:
      InputError: it is not there, or none is.
    """
    if wanted and wanted not in sequences:
        raise InputError(
            f"there is no {wanted} to be the reference; choose from {', '.join(sequences)}"
        )
    if not sequences:
        raise InputError(
            f"no sequence is there to be the reference; give {' or '.join(REFERENCES)}"
        )
    return wanted or next(name for name in REFERENCES if name in sequences)
