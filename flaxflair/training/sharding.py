"""Training and prediction on several devices, sharded over the batch and along x.

The mesh has the axes `data` (batch) and `space` (x) and spans the devices of all processes. Each
process provides the volumes of its own devices, whole along x, and reads no others. Every function
that takes a mesh must be called by all processes in the same order, with the same number of volumes
for each row of the mesh and one grid.

Results equal those of `step` and `inference` on one device to rounding. A network whose stride is
not 1 cannot be sharded along x. Independent of files, folds and subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding

from flaxflair.core.records import Array, InputError
from flaxflair.models.inference import predict_volumes
from flaxflair.networks.conv import conv3d
from flaxflair.networks.halo import halo_conv
from flaxflair.networks.network import Convolution, Network, Params
from flaxflair.training.batches import Batch
from flaxflair.training.losses import summed_squares
from flaxflair.training.step import TrainState, TrainStep, apply_gradients

DATA, SPACE = "data", "space"
SHARDED = jax.P(DATA, SPACE)  # b x ..., sharded over both
BATCHED = jax.P(DATA)  # b ..., whole along x

Build = Callable[[Convolution], Network]
Tree = TypeVar("Tree")
Item = TypeVar("Item")


def make_mesh(data: int, space: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh; `space` is the fast axis, so neighbours along x share a host if possible.

    Args:
      data: parts of a batch.
      space: slabs of a volume along x.
      devices: devices of the mesh; None for those of all processes.

    Raises:
      InputError: `data * space` differs from the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if min(data, space) < 1 or data * space != len(devices):
        raise InputError(
            f"{data} parts of a batch by {space} slabs of a volume do not fit {len(devices)} "
            "devices; set config.mesh so that the product is their number"
        )
    return jax.make_mesh(
        (data, space), (DATA, SPACE), (AxisType.Auto, AxisType.Auto), devices=devices
    )


def process_share(
    names: Sequence[Item], process_index: int | None = None, process_count: int | None = None
) -> list[Item]:
    """Returns the items of this process; every item is that of exactly one process.

    Shares differ by at most one item. All processes must pass the same items in the same order.

    Args:
      names: names of subjects, their files, or folds.
      process_index: index of this process; None for JAX's.
      process_count: number of processes; None for JAX's. If the slabs of a volume are on several
        processes, all of which read it, pass the index and number of these groups instead.

    Raises:
      ValueError: the index is out of range.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if not 0 <= index < count:
        raise ValueError(f"there is no process {index} of {count}")
    return list(names[index::count])


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Returns the arrays replicated on every device; replicated ones are returned unchanged.

    All processes must pass the same values.
    """
    everywhere = NamedSharding(mesh, jax.P())

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == everywhere:
            return leaf
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, everywhere, lambda at: array[at])

    return jax.tree.map(put, tree)


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Returns the global batch on the devices, b over `data` and x over `space`.

    If x is not divisible, it is padded at its end with zeros of weight zero.

    Args:
      batch: share of this process, on the host. The global batch has the shares in the order of the
        mesh's rows.
      mesh: from `make_mesh`.

    Raises:
      InputError: the share is not divisible by this process's number of rows of the mesh.
      ValueError: the batch is on a device, so it may be padded already.
    """
    if any(isinstance(array, jax.Array) for array in batch):
        raise ValueError("a batch is sharded once, from the host, and this one is on a device")
    rows = _local_rows(mesh)
    if len(batch.flair) % rows:
        raise InputError(
            f"{len(batch.flair)} examples of a batch cannot be cut into {rows} equal parts"
        )
    return Batch(*(_put(np.asarray(array), mesh) for array in batch))


def make_parallel_step(
    build: Build, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """Returns the training step of `step.make_train_step` for the global batch on a mesh.

    Its batch is this process's share, on the host; volumes may have any extent and are compiled
    once for each. The state is replicated over the mesh if necessary.

    Args:
      build: convolution -> network, such as `partial(NETWORKS[name], channels, config)`.
      optimizer: from `step.make_optimizer`.
      mesh: from `make_mesh`.

    Raises:
      InputError: the mesh shards volumes along x, and the network's stride is not 1.
    """
    _check_sharding(build, mesh)
    everywhere = NamedSharding(mesh, jax.P())

    @cache
    def step_of(extent: int) -> TrainStep:
        forward = build(_convolution(mesh, extent)).forward

        # check_vma is off: the custom derivative of the convolution does not declare over which
        # mesh axes a kernel's gradient varies.
        @partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(jax.P(), SHARDED),
            out_specs=(jax.P(), jax.P()),
            check_vma=False,
        )
        def loss_and_gradient(params: Params, batch: Batch) -> tuple[jax.Array, Params]:
            images, flair, weight = map(jnp.asarray, batch)
            count = lax.psum(weight.sum(), mesh.axis_names)

            def part_of_loss(params: Params) -> jax.Array:
                # No sum over devices here: each differentiates its own part.
                return summed_squares(forward(params, images), flair, weight)[0] / count

            return lax.psum(jax.value_and_grad(part_of_loss)(params), mesh.axis_names)

        @partial(jax.jit, donate_argnames="state", out_shardings=everywhere)
        def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
            loss, gradient = loss_and_gradient(state.params, batch)
            return apply_gradients(optimizer, state, loss, gradient), loss

        return train_step

    def parallel_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        return step_of(batch.flair.shape[1])(replicate(state, mesh), shard_batch(batch, mesh))

    return parallel_step


def predict_parallel(
    build: Build, params: Params, images: Array, mesh: Mesh, *, batch: int = 1
) -> Array:
    """Predicts volumes of one grid; equal to `inference.predict_volumes` to rounding.

    Compiled once for each `build` (by identity), mesh and shape.

    Args:
      build: convolution -> network, such as `partial(NETWORKS[name], channels, config)`.
      params: parameters of the network.
      images: [n, x, y, z, m], z-scores, on the host: the volumes of this process, as many for each
        row of the mesh as on all other processes.
      mesh: from `make_mesh`.
      batch: volumes that a device computes together.

    Returns:
      [n, x, y, z], z-scores, of the same volumes, whole along x.

    Raises:
      InputError: the mesh cuts volumes along x, and the network's stride is not 1.
    """
    number, extent = images.shape[:2]
    missing = -number % _local_rows(mesh)
    filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    predict = _predictor(build, mesh, extent, batch)
    flair = predict(replicate(params, mesh), _put(filled, mesh))
    # Every device of a mesh row holds the whole volume; one of them suffices.
    volumes = {shard.index[0].start or 0: shard.data for shard in flair.addressable_shards}
    return np.concatenate([np.asarray(volumes[start]) for start in sorted(volumes)])[:number]


@lru_cache(maxsize=16)
def _predictor(
    build: Build, mesh: Mesh, extent: int, batch: int
) -> Callable[[Params, jax.Array], jax.Array]:
    _check_sharding(build, mesh)
    forward = build(_convolution(mesh, extent)).forward

    @partial(jax.jit, out_shardings=NamedSharding(mesh, BATCHED))
    def predict(params: Params, images: jax.Array) -> jax.Array:
        slabs = jax.shard_map(
            partial(predict_volumes, forward, batch=batch),
            mesh=mesh,
            in_specs=(jax.P(), SHARDED),
            out_specs=SHARDED,
            check_vma=False,
        )
        return slabs(params, images)[:, :extent]

    return predict


def _check_sharding(build: Build, mesh: Mesh) -> None:
    """Raises InputError if the mesh shards x and the network does not support it."""
    slabs, stride = mesh.shape[SPACE], build(conv3d).stride
    if slabs > 1 and stride != 1:
        raise InputError(
            f"config.mesh.space is {slabs}, and a network that pools (its stride is {stride}) "
            "cannot be cut along x; set it to 1, and config.mesh.data to the number of devices"
        )


def _convolution(mesh: Mesh, extent: int) -> Convolution:
    """Returns the convolution of a device's part, a slab or whole volumes."""
    return conv3d if mesh.shape[SPACE] == 1 else halo_conv(SPACE, extent)


def held_rows(mesh: Mesh) -> tuple[int, ...]:
    """Returns the mesh rows, along `data`, in which this process has a device.

    Where the slabs of a volume are on several processes, all of them hold its row, and read it.
    """
    index = jax.process_index()
    rows = enumerate(mesh.devices)
    return tuple(at for at, row in rows if any(d.process_index == index for d in row))


def _local_rows(mesh: Mesh) -> int:
    return len(held_rows(mesh))


def _put(array: Array, mesh: Mesh) -> jax.Array:
    """Returns the sharded global array, given the rows of this process, whole along x."""
    data, space = mesh.devices.shape
    margins = [(0, 0)] * array.ndim
    margins[1] = (0, -array.shape[1] % space)
    padded = np.pad(array, margins) if margins[1][1] else array
    shape = (len(padded) * data // _local_rows(mesh), *padded.shape[1:])
    return jax.make_array_from_process_local_data(NamedSharding(mesh, SHARDED), padded, shape)
