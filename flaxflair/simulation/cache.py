"""The embedded data set: the phantom, made once into a cache folder and reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import flaxflair.imaging.resampling
from flaxflair.config import PhantomConfig
from flaxflair.core.records import InputError
from flaxflair.runtime.cache_folder import cache_folder
from flaxflair.simulation.dataset import alone, write_dataset


def locate(config: PhantomConfig) -> Path:
    """Returns where the phantom of this configuration and this code lies, made or not.

    Raises:
      InputError: there is no home folder.
    """
    # The sources are part of the address: a phantom made by other code is never taken for it.
    digest = hashlib.sha256()
    own = sorted(Path(__file__).parent.glob("*.py"))
    for source in (*own, Path(flaxflair.imaging.resampling.__file__)):
        digest.update(source.read_bytes())
    name = (
        f"phantom-{config.subjects}-{config.healthy}-seed{config.seed}-scale{config.scale:g}"
        f"-{digest.hexdigest()[:12]}"
    )
    if (folder := cache_folder()) is None:
        raise InputError(
            "there is no home folder to keep the embedded phantom in; set HOME or XDG_CACHE_HOME, "
            "or name a data set by --config.data.root"
        )
    return folder / name


def open_phantom(
    config: PhantomConfig, on_subject: Callable[[int], None] = lambda count: None
) -> Path:
    """Returns the root of the prepared phantom, made first if it is not there yet.

    Of processes that ask for it at once, one makes it and the others wait.

    Args:
      config: what phantom.
      on_subject: called with the number of subjects written.
    """
    root = locate(config)
    if _is_made(root):
        return root
    with alone(root, wait=True):
        if not _is_made(root):  # by whoever was waited for
            _make(root, config, on_subject)
    return root


def _is_made(root: Path) -> bool:
    # The folder has its name only when it is complete.
    return (root / "dataset_description.json").is_file()


def _make(root: Path, config: PhantomConfig, on_subject: Callable[[int], None]) -> None:
    done: list[int] = []

    def count(index: int) -> None:
        done.append(index)
        on_subject(len(done))

    try:
        write_dataset(
            root,
            subjects=config.subjects,
            healthy=config.healthy,
            seed=config.seed,
            layout="prepared",
            scale=config.scale,
            on_subject=count,
        )
    except (InputError, OSError):
        # Where the file system has no locks, another process may have been faster.
        if not _is_made(root):
            raise
