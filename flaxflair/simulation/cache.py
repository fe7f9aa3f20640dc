"""The embedded data set: the phantom, made once into a cache folder and reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import platformdirs

import flaxflair.phantom
import flaxflair.resample
from flaxflair.config import PhantomConfig
from flaxflair.phantom import write_phantom


def locate(config: PhantomConfig) -> Path:
    """Returns where the phantom of this configuration and this code lies, made or not."""
    # The sources are part of the address: a phantom made by other code is never taken for it.
    digest = hashlib.sha256()
    own = sorted(Path(flaxflair.phantom.__file__).parent.glob("*.py"))
    for source in (*own, Path(flaxflair.resample.__file__)):
        digest.update(source.read_bytes())
    name = (
        f"phantom-{config.subjects}-{config.healthy}-seed{config.seed}-scale{config.scale:g}"
        f"-{digest.hexdigest()[:12]}"
    )
    return platformdirs.user_cache_path("flaxflair") / name


def open_phantom(
    config: PhantomConfig, on_subject: Callable[[int], None] = lambda count: None
) -> Path:
    """Returns the root of the prepared phantom, made first if it is not there yet.

    Args:
      config: what phantom.
      on_subject: told how many subjects are done, while it is made.
    """
    root = locate(config)
    if not (root / "dataset_description.json").is_file():
        done: list[int] = []

        def count(index: int) -> None:
            done.append(index)
            on_subject(len(done))

        root.parent.mkdir(parents=True, exist_ok=True)
        write_phantom(
            root,
            subjects=config.subjects,
            healthy=config.healthy,
            seed=config.seed,
            scale=config.scale,
            on_subject=count,
        )
    return root
