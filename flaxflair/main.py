"""Command line of trainings: `python -m flaxflair.main --config=configs/fcn64.py[:variant]`."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags
from rich.console import Console

from flaxflair.config import Config, validate
from flaxflair.config.fields import RENAMED, flatten
from flaxflair.config.universal import UniversalConfig
from flaxflair.config.universal import validate as validate_universal
from flaxflair.core.records import InputError
from flaxflair.core.sequences import parse_inputs
from flaxflair.runtime.entry_point import command
from flaxflair.runtime.huge_pages import start_with_huge_pages
from flaxflair.runtime.processes import ALONE, Processes, join
from flaxflair.runtime.progress import show_bar

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, such as configs/fcn64.py or configs/fcn64.py:quick."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; by default runs/CONFIG-VARIANT."
)
_FOLDS = flags.DEFINE_list("folds", None, "Folds to run, such as 0,3; by default all.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Share the run with the processes that srun or mpirun started with this."
)
_INPUTS = flags.DEFINE_string("inputs", None, "Inputs, such as T1,T2,DIR; by default the config's.")

_FIELD = re.compile(r"--?config\.([^=]+)")
_NUMBER = re.compile("[0-9]{1,9}")
_NO_FIELD = re.compile(r"'(\w+Config)' object has no attribute '(\w+)'")


def main(argv: list[str]) -> None:
    """Runs the cross-validation, or the training of a universal model, that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    processes = ALONE

    def find_processes() -> None:
        nonlocal processes
        if _DISTRIBUTED.value:
            processes = _join(_CONFIG.value)

    with command(find_processes) as console:
        workdir = Path(_WORKDIR.value or _default_workdir())
        if isinstance(_CONFIG.value, UniversalConfig):
            _train_universal(_CONFIG.value, workdir, console)
        else:
            _cross_validate(_CONFIG.value, workdir, console, processes)


def _join(config: Config | UniversalConfig) -> Processes:
    """Joins the other processes of the command, once the configuration is known to be valid."""
    if isinstance(config, UniversalConfig):
        raise InputError(
            "--distributed: a universal model is trained by one process; omit the flag"
        )
    validate(config)
    return join(together=config.mesh.data * config.mesh.space > 1)


def _cross_validate(config: Config, workdir: Path, console: Console, processes: Processes) -> None:
    # JAX is imported after the restart with huge pages, not by the first process.
    from flaxflair.pipelines.cross_validation import run

    if _INPUTS.value is not None:
        config.data.inputs = _parse(_INPUTS.value)
    run(
        validate(config),
        workdir,
        _source(config, console),
        folds=None if _FOLDS.value is None else _parse_folds(_FOLDS.value),
        console=console,
        processes=processes,
    )


def _train_universal(config: UniversalConfig, workdir: Path, console: Console) -> None:
    for name, value in (("--inputs", _INPUTS.value), ("--folds", _FOLDS.value)):
        if value is not None:
            raise InputError(f"{name}: a universal model takes any sequences and has no folds")
    from flaxflair.pipelines.universal import train

    train(validate_universal(config), workdir, console)


def _source(config: Config, console: Console) -> Path:
    """Returns the data set: `config.data.root`, or else the simulated phantom."""
    if config.data.root:
        return Path(config.data.root)
    from flaxflair.simulation.cache import locate, open_phantom

    phantom = config.data.phantom
    if not locate(phantom).is_dir():
        console.print(
            f"config.data.root is empty: simulating a phantom of {phantom.subjects} subjects"
        )
    with show_bar(console, "phantom", phantom.subjects, 0) as bar:
        return open_phantom(phantom, bar.advance)


def _default_workdir() -> Path:
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return Path("runs") / "-".join(part for part in (Path(path).stem, variant) if part)


def _parse(names: str) -> tuple[str, ...]:
    try:
        return parse_inputs(names)
    except ValueError as error:
        raise InputError(f"--inputs: {error}") from None


def _parse_folds(texts: Sequence[str]) -> list[int]:
    """Returns the numbers of folds, each once."""
    if not texts:
        raise InputError("--folds is empty; give numbers such as 0,3, or omit it for all folds")
    for text in texts:
        if not _NUMBER.fullmatch(text.strip()):
            raise InputError(
                f"--folds: {text!r} is not the number of a fold; give numbers such as 0,3"
            )
    return list(dict.fromkeys(map(int, texts)))


def parse_flags(argv: list[str]) -> list[str]:
    """Returns the arguments that are not flags, once the flags and the configuration are read.

    Raises:
      SystemExit: a flag, a field or the configuration file cannot be used; one sentence says why.
    """
    try:
        for argument in argv[1:]:
            if field := _FIELD.match(argument):
                _expect_field(field[1])
        rest = flags.FLAGS(argv)
        getattr(_CONFIG.value, "method", None)  # a file that was not found raises here
        return rest
    except Exception as error:  # a configuration file is a program, which may raise anything
        sys.exit(f"flaxflair: {_describe_flag_error(error)}")


def _expect_field(path: str) -> None:
    """Refuses what is a field of no configuration, by its present or its nearest name."""
    if path in RENAMED:
        raise InputError(f"config.{path} is now config.{RENAMED[path]}; use that name")
    known = [*flatten(asdict(Config())), *flatten(asdict(UniversalConfig()))]
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
        raise InputError(f"there is no field config.{path}; the nearest is config.{near[0]}")


def _describe_flag_error(error: Exception) -> str:
    """Returns one sentence on why flags or a configuration file were refused."""
    if field := _NO_FIELD.search(str(error)):
        kind, name = field.groups()
        new = [new for old, new in RENAMED.items() if old.rpartition(".")[2] == name]
        hint = f"; it is now config.{new[0]}" if new else ""
        return f"--config: {kind} has no field {name!r}{hint}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    sentence = lines[-1].strip().removeprefix(f"{InputError.__module__}.InputError: ")
    return sentence if isinstance(error, InputError | flags.Error) else f"--config: {sentence}"


def start() -> None:
    """Parses flags and runs."""
    start_with_huge_pages()
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    start()
