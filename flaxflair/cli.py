"""The command `flaxflair`: subcommands and dispatch; their flags are in `parsers`.

Large libraries are imported when a subcommand runs, so that `--help` is fast, and so that threads
and devices are configured before any library is initialised.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from flaxflair.core.atomic_files import describe_error
from flaxflair.core.records import InputError
from flaxflair.parsers import data, evaluation, prediction, training
from flaxflair.parsers.options import PLATFORMS
from flaxflair.runtime.devices import VARIABLE, require_device
from flaxflair.runtime.huge_pages import start_with_huge_pages
from flaxflair.runtime.signals import Interrupted
from flaxflair.runtime.terminal import prepare_streams

_GROUPS = (data, prediction, training, evaluation)  # of the same names in `commands`


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status; `argv` defaults to `sys.argv[1:]`."""
    prepare_streams()
    args = _parser().parse_args(argv)
    try:
        _configure_machine(args)
        if argv is None and args.command == "predict":
            start_with_huge_pages()
        require_device()
        getattr(import_module(f"flaxflair.commands.{args.group}"), args.command)(args)
    except (InputError, OSError) as error:
        print(f"flaxflair: {describe_error(error)}", file=sys.stderr)
        return 1
    except Interrupted as reason:
        print(f"flaxflair: interrupted: {reason}; the same command resumes it", file=sys.stderr)
        return 128 + reason.number
    except KeyboardInterrupt:
        print("flaxflair: interrupted", file=sys.stderr)
        return 130
    return 0


def _configure_machine(args: argparse.Namespace) -> None:
    """Restricts cores and selects the device, before libraries are imported."""
    if (threads := getattr(args, "threads", None)) is not None:
        cores = sorted(os.sched_getaffinity(0))
        if not 1 <= threads <= len(cores):
            raise InputError(
                f"--threads is {threads}; give 1 to {len(cores)}, the cores of this machine"
            )
        os.sched_setaffinity(0, cores[:threads])
    if (device := getattr(args, "device", None)) is not None:
        os.environ[VARIABLE] = PLATFORMS[device]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flaxflair",
        description="Synthesis of a FLAIR that was not scanned, from the sequences that were.",
        epilog="To train: python -m flaxflair.main --config=configs/fcn64.py:quick",
    )
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )
    for group in _GROUPS:
        known = set(commands.choices)
        group.add_commands(commands)
        for name in commands.choices.keys() - known:
            commands.choices[name].set_defaults(group=group.__name__.rpartition(".")[2])
    return parser


if __name__ == "__main__":
    sys.exit(main())
