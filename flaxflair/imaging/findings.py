"""Findings: results of the checks of scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flaxflair.core.records import InputError

Severity = Literal["stop", "warn"]


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
      severity: `stop`, or `warn`.
      sequence: whose it is.
      what: one clear sentence: what was found, and what to do.
    """

    severity: Severity
    sequence: str
    what: str


def refuse_or_warn(findings: Iterable[Finding], paths: Mapping[str, Path]) -> tuple[str, ...]:
    """Returns the warnings among findings, a sentence each that names the file.

    Args:
      findings: of the scans of one session.
      paths: sequence -> its file.

    Raises:
      InputError: one of the findings stops the session; the message is the first of them.
    """
    sentences = []
    for finding in findings:
        sentence = f"{paths[finding.sequence]}: {finding.what}"
        if finding.severity == "stop":
            raise InputError(sentence)
        sentences.append(sentence)
    return tuple(sentences)
