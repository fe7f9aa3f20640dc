"""Pulse sequences: names, order, and identification from BIDS file names.

Independent of files and images: for example, the sequence `DIR` is that of file names with
`acq-DIR` and the suffix `T2w`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise


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
      label: pattern of the whole label, or of one of its words.
      suffixes: suffixes that the rule applies to; empty for all.
      sequence: identified sequence; None if it is not in `SEQUENCES`.
      meaning: why it is not in `SEQUENCES`, for a message.
      by_word: whether `label` is the pattern of a word; see `split_label`.
    """

    entity: str
    label: re.Pattern[str]
    suffixes: tuple[str, ...]
    sequence: str | None
    meaning: str = ""
    by_word: bool = False

    def matches(self, label: str) -> bool:
        """Whether the rule applies to a label."""
        parts = split_label(label) if self.by_word else {label}
        return any(self.label.fullmatch(part) for part in parts)


_AGENT = "contrast|gadolinium|gado|gad|gd|ce|km|enhanced"
# These parts of a label say that there is no contrast agent, or that `post` is not of one. They
# begin at a change of case: `mpragePreGd`, not `suprece`.
_NEUTRAL = re.compile(
    "(?:(?<![a-z])(?=[a-z])|(?<![A-Z])(?=[A-Z]))"
    f"(?i:(?:pre|non?|not|without|wo|ohne|un)(?:{_AGENT})|"
    "post(?:op|surg|treat|therap|tx|mortem|natal|proc))"
)
# Two ways to find words where the case changes: SE, gd in `SEgd`, and MPRAGE, Post in `MPRAGEPost`.
_SPLITS = tuple(
    re.compile(rf"[23][dD]|[tT][12][wW]?|[0-9]+(?:mm)?|{letters}")
    for letters in ("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", "[A-Z]{2,}|[A-Z]?[a-z]+|[A-Z]")
)


def split_label(label: str) -> frozenset[str]:
    """Returns the words of a label: split at changes of case and digits, single and in pairs.

    `T1mapGd` gives `T1`, `map`, `Gd`, `T1map` and `mapGd`. Parts that deny a contrast agent
    (`preGd`, `nocontrast`) are left out.
    """
    words: set[str] = set()
    for split in _SPLITS:
        single = split.findall(_NEUTRAL.sub("-", label))
        words.update(single, (first + second for first, second in pairwise(single)))
    return frozenset(words)


# Names of techniques and orientations, which labels run together with other words: `segd`.
_TECHNIQUE = (
    "t[12]w?|[23]d|mprage|mpr|f?spgr|bravo|vibe|space|cube|vista|tfe|ffe|flash|gre|tse|fse|se|ir|"
    "iso|sag|cor|tra|ax"
)


def _word(pattern: str) -> re.Pattern[str]:
    """Returns the pattern of a word, alone or run together with names of techniques."""
    return re.compile(f"(?:{_TECHNIQUE})*(?:{pattern})(?:{_TECHNIQUE})*", re.I)


_ANY = re.compile(".+")
_NONE = "none|no|non|pre|precontrast|nocontrast|noncontrast|without|off|false|0|na"
_CONTRAST = _word(f"{_AGENT}|post|.*(?:gado|contrast|postg).*|t1w?c")
# What is computed from scans, or is no scan of the brain's tissues, in labels of `acq` or `rec`.
_NOT_PLAIN = {
    "a subtraction": "sub|subtr|subtracted|subtraction",
    "one of several inversions": "inv[0-9]*",
    "a quantitative map": "maps?|mapping",
    "an angiogram": "tof|mra|mrv|angio|angiography|venography",
    "a projection": "minips?|mips?",
    "a localizer": "locali[sz]er|loc|scout|aahscout|aahead|survey",
    "weighted by T2* or susceptibility": "t2starw?|swi|swan|qsm",
}
# The first rule that applies decides; otherwise the suffix does. Labels are case-insensitive, but
# `DIR` within a word is a DIR only in capitals.
NAME_RULES: tuple[NameRule, ...] = (
    NameRule("ce", re.compile(f"(?i)(?!(?:{_NONE})$).+"), (), None, "post-contrast"),
    NameRule("part", re.compile("(?i)phase|real|imag"), (), None, "not a magnitude image"),
    NameRule("mt", re.compile("(?i)on"), (), None, "with magnetisation transfer"),
    NameRule("inv", _ANY, ("T1w",), None, "one of several inversions"),
    NameRule("acq", re.compile("(?i).*mton"), ("T1w", "PDw"), None, "with magnetisation transfer"),
    *(NameRule(e, _CONTRAST, (), None, "post-contrast", by_word=True) for e in ("acq", "rec")),
    NameRule("acq", re.compile("(?i)phase|real|imag"), (), None, "not a magnitude image"),
    *(
        NameRule(entity, _word(pattern), (), None, meaning, by_word=True)
        for meaning, pattern in _NOT_PLAIN.items()
        for entity in ("acq", "rec")
    ),
    NameRule("acq", _word("dir"), ("T2w", "FLAIR"), "DIR", by_word=True),
    NameRule("acq", re.compile(".*DIR(?!ECT).*"), ("T2w", "FLAIR"), "DIR"),
    NameRule("acq", re.compile("(?i).*(?:flair|dark-?fluid).*"), ("T2w", "FLAIR"), "FLAIR"),
    NameRule("acq", _word("stir|tirm"), ("T1w", "T2w", "PDw"), None, "a STIR", by_word=True),
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
        if applies and rule.entity in entities and rule.matches(entities[rule.entity]):
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
