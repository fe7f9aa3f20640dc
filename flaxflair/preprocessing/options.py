"""Options of the preparation of a session, and the choice of its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flaxflair.core.records import InputError
from flaxflair.core.sequences import TARGET
from flaxflair.preprocessing.registration import Dof

# Order of preference for the reference.
REFERENCES = (TARGET, "T2", "T1", "PD", "DIR", "T1SE")

Finder = Literal["template", "hdbet"]


@dataclass(frozen=True)
class Preparation:
    """Options of the preparation of raw sessions.

    Attributes:
      reference: sequence that defines the grid; empty for the first of `REFERENCES` in the session.
      dof: degrees of freedom of the registration: 6 for a rigid transform, 12 for an affine one.
      finder: brain extraction if no mask is given: by the ICBM152 template, or HD-BET.
      bias_by: whether the bias of a scan is estimated from all scans of its session, or from that
        scan alone.
      workers: sequences processed in parallel, one thread each.
    """

    reference: str = ""
    dof: Dof = 12
    finder: Finder = "template"
    bias_by: Literal["session", "scan"] = "session"
    workers: int = 2


DEFAULTS = Preparation()


def choose_reference(sequences: Mapping[str, object], wanted: str = "") -> str:
    """Returns the sequence that defines the grid of a prepared session.

    Args:
      sequences: sequences of the session, as keys.
      wanted: requested reference; empty for the first of `REFERENCES` in the session.

    Raises:
      InputError: the session lacks the requested sequence, or has no sequence.
    """
    if wanted and wanted not in sequences:
        raise InputError(f"the reference {wanted} is missing; choose from {', '.join(sequences)}")
    if not sequences:
        raise InputError(f"no sequence can be the reference; give {' or '.join(REFERENCES)}")
    return wanted or next(name for name in REFERENCES if name in sequences)
