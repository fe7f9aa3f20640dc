"""Fixtures that several tests share."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import settings

from flaxflair.core.records import Array, Geometry, Masks, Subject, Volume
from flaxflair.io.bids import write_json
from flaxflair.io.nifti import read_volume, write_volume
from flaxflair.io.session_files import find_sessions
from flaxflair.networks.fcn import build
from flaxflair.networks.network import Network, Params
from flaxflair.pipelines.cross_validation import run
from flaxflair.simulation.phantom import write_phantom
from tests.samples import (
    AFFINE,
    SHAPE,
    brain_of,
    draw_params,
    image_of,
    save_untrained,
    tiny_config,
)

# No deadline: a first call compiles. The same examples every time: a failure is there to stay.
settings.register_profile("flaxflair", deadline=None, derandomize=True)
settings.load_profile("flaxflair")
# Arrays of different rank are combined by explicit axes only.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def raw_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw data set of one patient, at half of the paper's resolution."""
    root = tmp_path_factory.mktemp("raw") / "phantom"
    write_phantom(root, subjects=1, healthy=0, seed=5, layout="raw", scale=0.5)
    return root


@pytest.fixture(scope="session")
def raw_scans(raw_phantom: Path) -> dict[str, Volume]:
    """The scans of that patient, by sequence."""
    (session,) = find_sessions(raw_phantom, (), flair="welcome")
    return {i.sequence: read_volume(i.path) for i in session.images if i.sequence is not None}


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes images as a tiny BIDS data set, and returns its root.

    It takes file names without extension (`sub-01_ses-1_T1w`), each alone or with its array, and,
    if wanted: participant -> group for `participants.tsv`, the name of a derivative to write into,
    and an affine. Called again, it adds to the same data set.
    """

    def write(
        images: Iterable[str] | Mapping[str, Array],
        *,
        groups: Mapping[str, str] | None = None,
        derivative: str | None = None,
        affine: Array = AFFINE,
    ) -> Path:
        root = tmp_path / "dataset"
        base = root / "derivatives" / derivative if derivative else root
        arrays = (
            images if isinstance(images, Mapping) else {name: image_of(name) for name in images}
        )
        for name, array in arrays.items():
            parents = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
            folder = base.joinpath(*parents, "anat")
            folder.mkdir(parents=True, exist_ok=True)
            write_volume(folder / f"{name}.nii.gz", array, affine)
        for folder in {root, base}:
            folder.mkdir(parents=True, exist_ok=True)
            description = {"Name": "tiny", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
            write_json(folder / "dataset_description.json", description)
        if groups is not None:
            with open(root / "participants.tsv", "w", encoding="utf-8", newline="") as stream:
                rows = csv.writer(stream, delimiter="\t")
                rows.writerows([("participant_id", "group"), *groups.items()])
        return root

    return write


@pytest.fixture
def make_subject() -> Callable[..., Subject]:
    """A function that makes a subject of two sequences and a FLAIR; its name is its content."""

    def make(
        name: str = "sub-01",
        shape: tuple[int, int, int] = SHAPE,
        *,
        flair: bool = True,
        **masks: Array,
    ) -> Subject:
        images = np.stack([image_of(f"{name}_{s}", shape) for s in ("T1", "T2")], axis=-1)
        return Subject(
            participant=name,
            session=None,
            group="MS",
            sequences=("T1", "T2"),
            images=images,
            flair=image_of(f"{name}_FLAIR", shape) if flair else None,
            masks=Masks(brain_of(shape), **masks),
            geometry=Geometry(shape, AFFINE),
        )

    return make


@pytest.fixture(scope="module")
def quick_compile() -> Iterator[None]:
    """Compiles in half the time, to slower code: what is computed here takes microseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def network() -> Network:
    """A small FCN: two inputs, two hidden layers of four filters."""
    return build(2, layers=2, filters=4)


@pytest.fixture(scope="session")
def params(network: Network) -> Params:
    """Its parameters, with biases that are not zero."""
    return draw_params(network)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny prepared phantom: six participants, three of them healthy."""
    root = tmp_path_factory.mktemp("cohort") / "phantom"
    write_phantom(root, subjects=6, healthy=3, scale=0.1)
    return root


@pytest.fixture(scope="session")
def finished(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tiny_config` on the tiny phantom."""
    workdir = tmp_path_factory.mktemp("run") / "finished"
    run(tiny_config(), workdir, phantom)
    return workdir


@pytest.fixture(scope="session")
def raw_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose network, untrained, reads T1 and T2 in the brain."""
    folder = tmp_path_factory.mktemp("run") / "untrained"
    save_untrained(folder)
    return folder
