"""Universal model: a FLAIR from any subset of the sequences, of any scanner.

A session is brought to standard form (`imaging.standard`), the network predicts it and its mirror
image on a grid of 1 mm, and the FLAIR returns to the session's grid. Independent of how the network
was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from flaxflair.config.universal import ConditionalConfig
from flaxflair.core.records import Array, Geometry, Subject, Volume
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation.metrics import fit_intensity
from flaxflair.evaluation.verdict import judge
from flaxflair.imaging.normalization import zero_outside
from flaxflair.imaging.resampling import resample
from flaxflair.imaging.standard import (
    CONDITION,
    Standard,
    coarse_sequences,
    standardize,
    to_subject_grid,
)
from flaxflair.models.error_scale import ErrorScale
from flaxflair.models.inference import predict_streamed
from flaxflair.models.saliency import p3s_streamed
from flaxflair.networks.conditional import OUTPUTS, build
from flaxflair.networks.network import ConditionalNetwork, Params

WARNING = "Warning"  # key of `UniversalModel.about`
WHITE = 1000.0  # intensity of normal-appearing white matter in a synthetic FLAIR
# Default number of voxels computed at once, about 120 bytes each: a head in one tile.
VOXELS = 8_000_000


@dataclass(frozen=True)
class UniversalModel:
    """A network for any subset of the sequences.

    Attributes:
      config: configuration of the network.
      network: network as pure functions.
      params: parameters.
      about: facts on its training, for the model card; its `Warning` is added to every FLAIR.
      scale: network of the error scale, for intervals; None if there is none.
    """

    config: ConditionalConfig
    network: ConditionalNetwork
    params: Params = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)
    scale: ErrorScale | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings added to every FLAIR of the model, without control characters of a terminal."""
        text = str(self.about.get(WARNING) or "")
        return ("".join(c if c.isprintable() else "�" for c in text),) if text else ()

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the possible inputs; any subset is accepted."""
        return INPUTS

    @property
    def region(self) -> str:
        """`brain`: the FLAIR outside it is zero."""
        return "brain"

    @property
    def voxel_size(self) -> None:
        """None: any voxel size is accepted."""
        return None


@dataclass(frozen=True)
class _Conditioned:
    """Forward function of network parameters and condition; equal for equal networks.

    The mean over the images and their mirror image along x: it has 2 % less error than either.
    Training mirrors heads at random. Tiles that begin at a multiple of the network's stride, and
    end as far from one as the volume, have the same blocks in the mirror image as the volume.
    """

    apply: Callable[..., tuple[jax.Array, jax.Array]]

    def __call__(self, params: tuple[Params, jax.Array], images: jax.Array) -> jax.Array:
        """Returns FLAIR and lesion logit, b x y z 2, from b x y z m."""
        weights, condition = params
        conditions = jnp.broadcast_to(condition, (images.shape[0], condition.shape[0]))

        def turn(mirrored: jax.Array, values: jax.Array) -> jax.Array:
            return jax.lax.cond(mirrored, lambda v: v[:, ::-1], lambda v: v, values)

        # One after the other, in the memory of one; a gradient computes each once more.
        @jax.checkpoint
        def add(total: jax.Array, mirrored: jax.Array) -> tuple[jax.Array, None]:
            out = jnp.stack(self.apply(weights, turn(mirrored, images), conditions), axis=-1)
            return total + turn(mirrored, out) / 2, None

        zero = jnp.zeros((*images.shape[:4], OUTPUTS), jnp.float32)
        return jax.lax.scan(add, zero, jnp.array([False, True]))[0]


@dataclass(frozen=True)
class _Flair(_Conditioned):
    """The FLAIR alone."""

    def __call__(self, params: tuple[Params, jax.Array], images: jax.Array) -> jax.Array:
        """Returns the FLAIR, b x y z, from b x y z m."""
        return super().__call__(params, images)[..., 0]


def make_network(config: ConditionalConfig) -> ConditionalNetwork:
    """Returns the network of a configuration, for the sequences of `INPUTS`."""
    return build(
        len(INPUTS),
        CONDITION,
        widths=config.widths,
        convolutions=config.convolutions,
        reduction=config.reduction,
        fine=config.fine,
        dtype=config.dtype,
    )


def predict_standard(
    model: UniversalModel,
    standard: Standard,
    *,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> tuple[Array, Array]:
    """Predicts a session in standard form.

    Args:
      model: from `load_model`.
      standard: from `standardize`.
      tile_voxels: voxels computed at once; 0 for `VOXELS`.
      device: held while the network computes.

    Returns:
      The FLAIR, white matter about 1, and the probability that a voxel is lesion, float32[x, y, z]
      each.
    """
    with device or nullcontext():
        out = predict_streamed(
            _Conditioned(model.network.forward),
            (model.params, jnp.asarray(standard.condition)),
            standard.images,
            radius=model.network.radius,
            tile_voxels=tile_voxels or VOXELS,
            stride=model.network.stride,
        )
    return np.maximum(out[..., 0], 0), expit(out[..., 1])


def predict_flair(
    model: UniversalModel,
    subject: Subject,
    *,
    brain_only: bool = True,
    tile_voxels: int = 0,
    device: AbstractContextManager[Any] | None = None,
) -> Volume:
    """Synthesises the FLAIR of one session.

    Args:
      model: from `load_model`.
      subject: with one or more of `INPUTS`.
      brain_only: whether the FLAIR is zero outside the brain.
      tile_voxels: voxels computed at once; 0 for `VOXELS`.
      device: held while the network computes.

    Returns:
      float32[x, y, z] on the subject's grid; white matter is at `WHITE`.

    Raises:
      InputError: see `standardize`.
    """
    standard = standardize(subject, brain_only=brain_only)
    geometry = standard.geometry
    flair, _ = predict_standard(model, standard, tile_voxels=tile_voxels, device=device)
    del standard
    return to_flair(subject, flair, geometry, brain_only=brain_only)


def to_flair(
    subject: Subject, flair: Array, geometry: Geometry, *, brain_only: bool = True
) -> Volume:
    """Returns the FLAIR of `predict_standard` on the subject's grid, white matter at `WHITE`.

    Args:
      subject: the session.
      flair: [x, y, z], white matter about 1.
      geometry: grid of the FLAIR.
      brain_only: whether the result is zero outside the brain.
    """
    array = to_subject_grid(subject, WHITE * flair, geometry)
    if brain_only:  # in place, since an image may take most of the memory
        np.copyto(array, 0, where=~subject.masks.brain)
    return Volume(array, subject.geometry)


def saliency_maps(
    model: UniversalModel, subject: Subject, flair: Array, *, tile_voxels: int = 0
) -> Array:
    """Returns the P3S maps of one session (Wei et al. 2019, eq. 3), on its grid.

    The error is that in the brain on the standard grid, against the true FLAIR with the gain and
    offset that fit it best to the synthetic one, since the scale of a FLAIR is arbitrary.

    Args:
      model: from `load_model`.
      subject: with one or more of `INPUTS`.
      flair: float[x, y, z], the true FLAIR on the subject's grid.
      tile_voxels: voxels computed at once, about 1.3 kB each; 0 for the whole grid. Tiles overlap
        by twice the network's radius.

    Returns:
      float32[x, y, z, m], one map per sequence of the subject, in squared standard levels (white
      matter of the FLAIR at 1) per standard level; zero outside the brain.

    Raises:
      InputError: see `standardize`.
    """
    standard = standardize(subject)
    forward = _Flair(model.network.forward)
    params = (model.params, jnp.asarray(standard.condition))
    same = np.eye(4)
    true = resample(flair, subject.geometry.affine, standard.geometry, same, beyond="zero")
    synthetic, _ = predict_standard(model, standard)
    target = fit_intensity(true, synthetic, standard.brain).astype(np.float32)
    maps = p3s_streamed(
        forward,
        params,
        standard.images,
        target,
        weight=standard.brain,
        radius=model.network.radius,
        tile_voxels=tile_voxels,
        stride=model.network.stride,
    )
    channels = [INPUTS.index(name) for name in subject.sequences]
    back = [to_subject_grid(subject, maps[..., n], standard.geometry) for n in channels]
    return zero_outside(subject.masks.brain, np.stack(back, axis=-1))


def resolution_warnings(subject: Subject) -> tuple[str, ...]:
    """Returns one sentence for each input with larger voxels than in training."""
    return tuple(
        f"the {name} was scanned in larger voxels than the model was trained with; look at the "
        "FLAIR before it is used"
        for name in coarse_sequences(subject)
    )


def flair_quality(subject: Subject, flair: Volume) -> dict[str, float]:
    """Returns `flair_median`: the median of a FLAIR in the brain, relative to `WHITE`."""
    inside = flair.array[subject.masks.brain]
    return {"flair_median": float(np.median(inside)) / WHITE if inside.size else 0.0}


def flair_warnings(quality: Mapping[str, float]) -> tuple[str, ...]:
    """Returns one sentence if the brightness of a universal model's FLAIR is implausible.

    Args:
      quality: from `flair_quality`.
    """
    return judge({"flair_median": quality["flair_median"]}).reasons
