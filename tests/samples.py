"""Samples: small made-up images, the same every time, and an FCN in SciPy to compare with."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
from scipy import ndimage

from flaxflair.config import Config, NetworkConfig
from flaxflair.core.records import Array, Geometry, Masks, Subject, Volume
from flaxflair.imaging.normalization import Normalization, Stats
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.tissue_levels import STANDARD
from flaxflair.models.estimators import FittedNetwork
from flaxflair.models.model import Model
from flaxflair.models.saving import load_model, save_model
from flaxflair.networks.fcn import build
from flaxflair.networks.network import Network, Params
from flaxflair.simulation.rigid import rigid

# Oblique, anisotropic and shifted, so that a swapped axis or a lost offset shows.
AFFINE = np.array(
    [
        [0.9, 0.1, 0.05, -10.0],
        [-0.12, 0.85, 0.3, -20.0],
        [-0.02, -0.28, 2.9, 30.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
SHAPE = (8, 9, 7)


def brain_of(shape: tuple[int, int, int]) -> Array:
    """Returns a box that leaves a border of one voxel, bool[x, y, z]."""
    brain = np.zeros(shape, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    return brain


def image_of(name: str, shape: tuple[int, int, int] = SHAPE) -> Array:
    """Returns a brain-extracted image, float32[x, y, z], that no other name has."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return np.where(brain_of(shape), rng.uniform(50, 500, shape), 0).astype(np.float32)


def draw_params(network: Network) -> Params:
    """Returns parameters, biases included, without the seconds that compiling `init` takes."""
    rng = np.random.default_rng(0)
    shapes = network.init(jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), shapes)


def reference_fcn(params: Params, images: Array) -> Array:
    """The FCN once more, in SciPy and float64: x y z m -> x y z."""
    arrays = {
        jax.tree_util.keystr(place): np.asarray(leaf, np.float64)
        for place, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    # `hidden` comes before `readout`, and `hidden/0` before `hidden/1`, in the order of a state.
    kernels = [array for name, array in arrays.items() if "kernel" in name]
    biases = [array for name, array in arrays.items() if "bias" in name]
    values = images.astype(np.float64)
    for kernel, bias in zip(kernels, biases, strict=True):
        values = bias + np.stack(
            [
                sum(
                    ndimage.correlate(values[..., m], kernel[..., m, f], mode="constant")
                    for m in range(kernel.shape[-2])
                )
                for f in range(kernel.shape[-1])
            ],
            axis=-1,
        )
        if kernel is not kernels[-1]:
            values = np.maximum(values, 0)
    return values[..., 0]


def tiny_config() -> Config:
    """Returns a configuration that trains in seconds: three sequences, three folds, two epochs."""
    config = Config()
    config.data.inputs = ("T1", "T2", "DIR")
    config.network.filters, config.network.layers = 6, 2
    config.train.optimizer, config.train.epochs = "adam", 2
    config.folds.count = 3
    return config


def reorder(letters: str) -> Callable[[Volume], Volume]:
    """Returns what stores the same voxels with axes that run towards `letters`."""

    def change(volume: Volume) -> Volume:
        turned = to_ras(volume)
        onto = nib.orientations.axcodes2ornt(tuple(letters))
        move = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), onto)
        array = nib.orientations.apply_orientation(turned.array, move)
        back = nib.orientations.inv_ornt_aff(move, turned.geometry.shape)
        x, y, z = array.shape
        return Volume(array, Geometry((x, y, z), turned.geometry.affine @ back))

    return change


def tilt(volume: Volume) -> Volume:
    """Returns the same voxels in a scanner that is turned by 20 degrees about two axes."""
    turn = rigid(np.array([20.0, 0.0, 20.0]), np.array([6.0, -8.0, 20.0]))
    return Volume(volume.array, Geometry(volume.geometry.shape, turn @ volume.geometry.affine))


def load_fold(source: Path, fold: int = 0) -> Model:
    """Loads a model that was trained on a cohort."""
    model = load_model(source, fold)
    assert isinstance(model, Model)
    return model


def save_untrained(folder: Path) -> None:
    """Saves the run of a network, untrained, that reads T1 and T2 in the brain."""
    config = NetworkConfig(layers=2, filters=4)
    network = build(2, layers=2, filters=4)
    stats = Stats((1.0, 1.0), (0.4, 0.5)), Stats((1.0,), (0.5,))
    places = ((0.0, 1.0),) * 3
    model = Model(
        ("T1", "T2"),
        FittedNetwork(config, network, draw_params(network)),
        Normalization(*stats, "brain", places, (0.0, 1.2)),
        region="brain",
        voxel_size=(1.8, 1.8, 3.0),
    )
    save_model(folder / "fold-0", model)


def ball(edges: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Subject:
    """Returns T1, T2 and FLAIR of a ball of 72 mm: fluid, white matter, grey matter, and air."""
    x, y, z = (int(80 / edge) for edge in edges)
    at = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip((x, y, z), edges, strict=True)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*at, indexing="ij")))
    labels = np.select([radius < 12, radius < 26, radius < 36], [0, 2, 1], 3)
    noise = np.random.default_rng(0).normal(1, 0.02, (x, y, z, 3))

    def scan(name: str, channel: int) -> Array:
        levels = STANDARD[name]
        values = np.array([levels.fluid, levels.grey, levels.white, 0.3])
        return (350 * values[labels] * noise[..., channel]).astype(np.float32)

    images = np.stack([scan("T1", 0), scan("T2", 1)], axis=-1)
    right = np.indices((x, y, z))[0] > x // 2
    lesion = (radius > 14) & (radius < 20) & right
    geometry = Geometry((x, y, z), np.diag([*edges, 1.0]))
    masks = Masks(labels < 3, lesion)
    return Subject("sub-01", None, "", ("T1", "T2"), images, scan("FLAIR", 2), masks, geometry)
