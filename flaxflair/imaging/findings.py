"""Findings: results of the checks of scans, as errors and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flaxflair.core.records import InputError

Severity = Literal["stop", "warn"]


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    Attributes:
      severity: `stop` for an error, `warn` for a warning.
      sequence: sequence of the scan.
      what: predicate of one sentence: what was found, and what to do.
    """

    severity: Severity
    sequence: str
    what: str


def refuse_or_warn(findings: Iterable[Finding], paths: Mapping[str, Path]) -> tuple[str, ...]:
    """Returns the warnings among findings, as sentences that name the file.

    Args:
      findings: findings of one session.
      paths: sequence -> its file.

    Raises:
      InputError: a finding stops the session; the message is that of the first one.
    """
    sentences = []
    for finding in findings:
        sentence = f"{paths[finding.sequence]}: {finding.what}"
        if finding.severity == "stop":
            raise InputError(sentence)
        sentences.append(sentence)
    return tuple(sentences)
