"""Pulse sequences: their names, their order, and how BIDS file names spell them.

Knows nothing of files or of images; it only says that the sequence called `DIR` is the one whose
file name carries `acq-DIR` and the suffix `T2w`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PulseSequence:
    """One MRI pulse sequence, and its spelling in BIDS.

    Attributes:
      name: short name used for channels, flags and tables (`T1`).
      suffix: BIDS suffix (`T1w`).
      acquisition: BIDS `acq` label that tells it from other sequences of the same suffix, or None
        for the sequence that owns the bare suffix (and every `acq` label nobody else claims).
      title: what a figure prints above it.
    """

    name: str
    suffix: str
    acquisition: str | None
    title: str

    @property
    def flag(self) -> str:
        """How a command line names it: `t1w`, `t1se`."""
        return (self.suffix if self.acquisition is None else self.name).lower()


# BIDS has no suffix for spin-echo T1 or for double inversion recovery. Both are told apart by
# `acq`: a DIR is long-TE and T2-weighted, and must never be mistaken for the FLAIR that we
# synthesise.
SEQUENCES: Mapping[str, PulseSequence] = {
    sequence.name: sequence
    for sequence in (
        PulseSequence("T1", "T1w", None, "T1-w"),
        PulseSequence("T1SE", "T1w", "SE", "T1SE"),
        PulseSequence("T2", "T2w", None, "T2-w"),
        PulseSequence("PD", "PDw", None, "PD"),
        PulseSequence("DIR", "T2w", "DIR", "DIR"),
        PulseSequence("FLAIR", "FLAIR", None, "FLAIR"),
    )
}

TARGET = "FLAIR"
INPUTS: tuple[str, ...] = tuple(name for name in SEQUENCES if name != TARGET)


def parse_inputs(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns the input sequences named, in the package's order.

    Args:
      names: comma-separated (`"T1,T2,DIR"`) or a tuple of names; case does not matter.

    Raises:
      ValueError: a name is unknown, repeated, the target itself, or none is given.
    """
    parts = names.split(",") if isinstance(names, str) else list(names)
    wanted = [name for part in parts if (name := str(part).strip().upper())]
    unknown = [name for name in wanted if name not in INPUTS]
    if unknown:
        raise ValueError(f"unknown input sequence {unknown[0]!r}; choose from {', '.join(INPUTS)}")
    if not wanted:
        raise ValueError(f"no input sequence named; choose from {', '.join(INPUTS)}")
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"an input sequence is named twice in {','.join(wanted)}")
    return tuple(name for name in INPUTS if name in wanted)


@dataclass(frozen=True)
class NameRule:
    """What an entity of a file name says of the sequence, whatever the suffix would say alone.

    Attributes:
      entity: BIDS entity (`acq`).
      label: pattern of the whole label.
      suffixes: those that it holds for; empty for all.
      sequence: the sequence that it is; None if it is none of ours.
      meaning: why it is no sequence of ours, for a message.
    """

    entity: str
    label: re.Pattern[str]
    suffixes: tuple[str, ...]
    sequence: str | None
    meaning: str = ""


_ANY = re.compile(".+")
_CONTRAST = re.compile(
    r"(?i).*(gado|gadolinium|contrast|postg|post-?gd).*|.*t1c|t1ce|gd|gad|ce|post"
)
# THE table of what names say; the first rule that holds decides, and else the suffix alone does.
# Labels are of any case, but a long one is a DIR only by its capitals: `3DDIR`, not `direct`.
NAME_RULES: tuple[NameRule, ...] = (
    NameRule("ce", _ANY, (), None, "post-contrast"),
    NameRule("part", re.compile("(?i)phase|real|imag"), (), None, "no magnitude image"),
    NameRule("mt", re.compile("(?i)on"), (), None, "with magnetisation transfer"),
    NameRule("inv", _ANY, ("T1w",), None, "one of several inversions"),
    NameRule("acq", re.compile("(?i).*mton"), ("T1w", "PDw"), None, "with magnetisation transfer"),
    NameRule("acq", _CONTRAST, ("T1w", "T2w", "PDw", "FLAIR"), None, "post-contrast"),
    NameRule("acq", re.compile("(?i)phase|real|imag"), (), None, "no magnitude image"),
    NameRule("acq", re.compile("(?i:dir)|.*DIR.*"), ("T2w", "FLAIR"), "DIR"),
    NameRule("acq", re.compile("(?i).*flair.*"), ("T2w", "FLAIR"), "FLAIR"),
    NameRule("acq", re.compile("(?i)pdw?"), ("T2w",), "PD"),
    NameRule("acq", re.compile("(?i)se"), ("T1w",), "T1SE"),
)


def identify(suffix: str, entities: Mapping[str, str]) -> str | None:
    """Returns the name of the sequence that a file of this suffix and these entities holds.

    By `NAME_RULES`: a label that a sequence claims (`acq-DIR_T2w`) goes to that sequence; one that
    no rule knows (`acq-highres_T2w`) goes to the sequence that owns the bare suffix. None: not one
    of ours.
    """
    rule = find_rule(suffix, entities)
    if rule is not None:
        return rule.sequence
    bare = (s.name for s in SEQUENCES.values() if s.suffix == suffix and s.acquisition is None)
    return next(bare, None)


def find_rule(suffix: str, entities: Mapping[str, str]) -> NameRule | None:
    """Returns the rule that decides over a file of a suffix of ours, or None."""
    if suffix not in {sequence.suffix for sequence in SEQUENCES.values()}:
        return None
    for rule in NAME_RULES:
        holds = not rule.suffixes or suffix in rule.suffixes
        if holds and rule.entity in entities and rule.label.fullmatch(entities[rule.entity]):
            return rule
    return None


def parse_patterns(texts: Iterable[str]) -> dict[str, str]:
    """Returns sequence -> pattern, from `T1SE=*_acq-tse_T1w.nii.gz`.

    Raises:
      ValueError: one is not written as such, or names no sequence.
    """
    patterns = {}
    for text in texts:
        name, equals, pattern = text.partition("=")
        if name not in SEQUENCES or not equals or not pattern:
            raise ValueError(
                f"{text!r} is no pattern; write SEQUENCE=PATTERN, one of {', '.join(SEQUENCES)}"
            )
        patterns[name] = pattern
    return patterns
