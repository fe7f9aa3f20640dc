"""Parts of the commands: what their common flags mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flaxflair.core.records import InputError
from flaxflair.core.sequences import SEQUENCES, parse_patterns
from flaxflair.io.session_files import SessionFiles, find_sessions
from flaxflair.preprocessing.options import Preparation


def find_by_flags(
    args: argparse.Namespace, root: Path, inputs: Sequence[str] = ()
) -> list[SessionFiles]:
    """Returns the sessions of a data set that the flags select; a FLAIR is optional."""
    return find_sessions(
        root,
        inputs,
        flair="welcome",
        participants=args.participant_label,
        sessions=args.session_label,
        patterns=read_patterns(args),
    )


def sequence_files(args: argparse.Namespace) -> dict[str, Path]:
    """Returns sequence -> file, from the flags of sequences."""
    flags = {name: getattr(args, sequence.flag, None) for name, sequence in SEQUENCES.items()}
    return {name: path for name, path in flags.items() if path is not None}


def expect_tile_voxels(args: argparse.Namespace) -> None:
    """Checks `--tile-voxels`.

    Raises:
      InputError: it is negative.
    """
    if args.tile_voxels is not None and args.tile_voxels < 0:
        raise InputError(
            f"--tile-voxels is {args.tile_voxels}; it must be at least 1, or 0 for the whole volume"
        )


def read_preparation(args: argparse.Namespace) -> Preparation:
    """Returns the options of the preparation."""
    return Preparation(args.reference, args.dof, args.brain_by, args.bias_by)


def read_patterns(args: argparse.Namespace) -> dict[str, str]:
    """Returns sequence -> pattern, from `--pattern`.

    Raises:
      InputError: a pattern is not `SEQUENCE=PATTERN`.
    """
    try:
        return parse_patterns(args.pattern)
    except ValueError as error:
        raise InputError(f"--pattern: {error}") from None
