"""Pulse sequences: names, order, and identification from BIDS file names.

Independent of files and images: for example, the sequence `DIR` is that of file names with
`acq-DIR` and the suffix `T2w`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PulseSequence:
    """One MRI pulse sequence and its BIDS entities.

    Attributes:
      name: short name used for channels, flags and tables (`T1`).
      suffix: BIDS suffix (`T1w`).
      acquisition: BIDS `acq` label that distinguishes it from other sequences of the same suffix;
        None for the default sequence of the suffix (without `acq`, or with an unknown label).
      title: title in figures.
    """

    name: str
    suffix: str
    acquisition: str | None
    title: str

    @property
    def flag(self) -> str:
        """Name of its command-line flag: `t1w`, `t1se`."""
        return (self.suffix if self.acquisition is None else self.name).lower()


# BIDS has no suffix for spin-echo T1 or double inversion recovery. Both are identified by `acq`: a
# DIR is long-TE and T2-weighted, and must never be mistaken for the FLAIR.
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
    """Returns the named input sequences, in the order of `INPUTS`.

    Args:
      names: comma-separated (`"T1,T2,DIR"`) or a tuple of names; case does not matter.

    Raises:
      ValueError: a name is unknown, repeated or the target, or no name is given.
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
    """Identification of a sequence by an entity of a file name; overrides the suffix.

    Attributes:
      entity: BIDS entity (`acq`).
      label: pattern of the whole label.
      suffixes: suffixes that the rule applies to; empty for all.
      sequence: identified sequence; None if it is not in `SEQUENCES`.
      meaning: why it is not in `SEQUENCES`, for a message.
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
# The first rule that applies decides; otherwise the suffix does. Labels are case-insensitive, but a
# longer label is a DIR only in capitals: `3DDIR`, not `direct`.
NAME_RULES: tuple[NameRule, ...] = (
    NameRule("ce", _ANY, (), None, "post-contrast"),
    NameRule("part", re.compile("(?i)phase|real|imag"), (), None, "not a magnitude image"),
    NameRule("mt", re.compile("(?i)on"), (), None, "with magnetisation transfer"),
    NameRule("inv", _ANY, ("T1w",), None, "one of several inversions"),
    NameRule("acq", re.compile("(?i).*mton"), ("T1w", "PDw"), None, "with magnetisation transfer"),
    NameRule("acq", _CONTRAST, ("T1w", "T2w", "PDw", "FLAIR"), None, "post-contrast"),
    NameRule("acq", re.compile("(?i)phase|real|imag"), (), None, "not a magnitude image"),
    NameRule("acq", re.compile("(?i:dir)|.*DIR.*"), ("T2w", "FLAIR"), "DIR"),
    NameRule("acq", re.compile("(?i).*flair.*"), ("T2w", "FLAIR"), "FLAIR"),
    NameRule("acq", re.compile("(?i)pdw?"), ("T2w",), "PD"),
    NameRule("acq", re.compile("(?i)se"), ("T1w",), "T1SE"),
)


def identify(suffix: str, entities: Mapping[str, str]) -> str | None:
    """Returns the name of the sequence of a file with this suffix and these entities.

    By `NAME_RULES`: a label with a rule (`acq-DIR_T2w`) gives the sequence of that rule, and an
    unknown label (`acq-highres_T2w`) the default sequence of the suffix. None if it is not in
    `SEQUENCES`.
    """
    rule = find_rule(suffix, entities)
    if rule is not None:
        return rule.sequence
    default = (s.name for s in SEQUENCES.values() if s.suffix == suffix and s.acquisition is None)
    return next(default, None)


def find_rule(suffix: str, entities: Mapping[str, str]) -> NameRule | None:
    """Returns the rule that applies to a file with a suffix of `SEQUENCES`, or None."""
    if suffix not in {sequence.suffix for sequence in SEQUENCES.values()}:
        return None
    for rule in NAME_RULES:
        applies = not rule.suffixes or suffix in rule.suffixes
        if applies and rule.entity in entities and rule.label.fullmatch(entities[rule.entity]):
            return rule
    return None


def parse_patterns(texts: Iterable[str]) -> dict[str, str]:
    """Returns sequence -> pattern, from `T1SE=*_acq-tse_T1w.nii.gz`.

    Raises:
      ValueError: the syntax is wrong, or the sequence is unknown.
    """
    patterns = {}
    for text in texts:
        name, equals, pattern = text.partition("=")
        if name not in SEQUENCES or not equals or not pattern:
            raise ValueError(
                f"{text!r} is not a pattern; write SEQUENCE=PATTERN, one of {', '.join(SEQUENCES)}"
            )
        patterns[name] = pattern
    return patterns
