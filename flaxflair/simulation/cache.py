"""The embedded data set: the phantom, made once into a cache folder and reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import flaxflair.imaging.resampling
from flaxflair.config import PhantomConfig
from flaxflair.core.records import InputError
from flaxflair.runtime.cache_folder import cache_folder
from flaxflair.simulation.dataset import lock_dataset, write_dataset


def locate(config: PhantomConfig) -> Path:
    """Returns the folder of the phantom of this configuration and code, which may not exist yet.

    Raises:
      InputError: there is no home folder.
    """
    # The digest covers the sources, so that a phantom of other code is never used.
    digest = hashlib.sha256()
    sources = sorted(Path(__file__).parent.glob("*.py"))
    for source in (*sources, Path(flaxflair.imaging.resampling.__file__)):
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
    """Returns the root of the prepared phantom, which is created if missing.

    Of concurrent processes, one creates it and the others wait.

    Args:
      config: configuration of the phantom.
      on_subject: called with the number of subjects written.
    """
    root = locate(config)
    if _is_made(root):
        return root
    with lock_dataset(root, wait=True):
        if not _is_made(root):  # by the process that held the lock
            _make(root, config, on_subject)
    return root


def _is_made(root: Path) -> bool:
    # The folder is renamed to `root` only when complete.
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
        # Without file locks, another process may have created it first.
        if not _is_made(root):
            raise
