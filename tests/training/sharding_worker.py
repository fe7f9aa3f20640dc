"""Computations on several devices or processes, run by the tests in separate processes.

    python -m tests.training.sharding_worker devices OUT.npz
    python -m tests.training.sharding_worker process OUT.npz PORT INDEX

The first wants `XLA_FLAGS=--xla_force_host_platform_device_count=4`, the second a peer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxflair.config import NetworkConfig
from flaxflair.core.records import Array, InputError
from flaxflair.networks import NETWORKS
from flaxflair.networks.conv import CHANNELS_LAST, conv3d
from flaxflair.networks.halo import halo_conv
from flaxflair.networks.network import Params
from flaxflair.training.batches import Batch
from flaxflair.training.sharding import (
    make_mesh,
    make_parallel_step,
    predict_parallel,
    process_share,
    replicate,
    shard_batch,
)
from flaxflair.training.step import TrainState, make_optimizer
from tests.samples import draw_params

SUBJECTS = ("sub-01", "sub-02", "sub-03", "sub-04")
EXTENT = 5  # over 4 devices: slabs of 2, 2, 1 and 0 rows
EXTENTS = (8, EXTENT)
MESHES = ((4, 1), (2, 2))  # data, space
STEPS = 2
OPTIMIZER = make_optimizer("momentum", 0.01, "constant", 1)
build_network = partial(NETWORKS["fcn"], 2, NetworkConfig(layers=1, filters=4))


def images_of(number: int, extent: int = EXTENT) -> Array:
    """Returns images, n x y z m."""
    rng = np.random.default_rng([number, extent])
    return rng.standard_normal((number, extent, 4, 3, 2), dtype=np.float32)


def batch_of(names: Sequence[str]) -> Batch:
    """Returns the batch of subjects; the example of a name does not depend on the others."""
    numbers = [SUBJECTS.index(name) for name in names]
    images = images_of(len(SUBJECTS))
    rng = np.random.default_rng(0)
    flair = rng.standard_normal(images.shape[:4], dtype=np.float32)
    weight = (rng.random(images.shape[:4]) < 0.7).astype(np.float32)
    weight[1], weight[:, 0] = 0, 0  # a part with nothing that counts, on its own, would be 0 / 0
    return Batch(images[numbers], flair[numbers], weight[numbers])


def start_state(params: Params) -> TrainState:
    """Returns a copy of the state before the first step, since a step donates its buffers."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(params, OPTIMIZER.init(params), jnp.int32(0), jnp.float32(0))


def flat(tree: Any) -> Array:
    """Returns all values of a tree of arrays, one after another."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def take_steps(step: Callable, state: TrainState, batch: Batch) -> Array:
    """Returns all values of the state after some steps, and then the loss of each."""
    losses = []
    for _ in range(STEPS):
        state, loss = step(state, batch)
        losses.append(loss)
    return np.concatenate([flat(state), flat(losses)])


def forward_and_gradients(forward: Callable, params: Params, images: Array) -> tuple:
    """Returns the prediction, and the gradients by parameters and images of a sum of its squares.

    The sum goes over rows that weigh ever more, so that a row in the wrong place shows.
    """
    rows = jnp.arange(1.0, images.shape[1] + 1)[None, :, None, None]

    def energy(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        flair = forward(params, images)
        return jnp.sum(rows * flair**2), flair

    by = jax.value_and_grad(energy, argnums=(0, 1), has_aux=True)
    (_, flair), gradients = jax.jit(by)(params, images)
    return flair, *gradients


def over_slabs(function: Callable, extent: int) -> Callable:
    """Returns (w, b x ...) -> b x ..., computed in slabs over all devices."""
    mesh = make_mesh(1, jax.device_count())
    cut = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(jax.P(), jax.P(None, "space")),
        out_specs=jax.P(None, "space"),
        check_vma=False,
    )

    def whole(w: Any, x: jax.Array) -> jax.Array:
        # Filled up with threes: what lies beyond the end must not matter.
        margins = [(0, 0), (0, -extent % mesh.size), *[(0, 0)] * (x.ndim - 2)]
        return cut(w, jnp.pad(x, margins, constant_values=3))[:, :extent]

    return whole


def _convolve(extent: int, kernel: jax.Array, images: jax.Array) -> jax.Array:
    convolve = halo_conv("space", extent)
    return convolve(images, kernel, (1, 1, 1), "SAME", dimension_numbers=CHANNELS_LAST)


def on_devices() -> dict[str, Array]:
    """Returns what four devices compute."""
    found = {}
    params = draw_params(build_network(conv3d))
    forward = over_slabs(build_network(halo_conv("space", EXTENT)).forward, EXTENT)
    results = forward_and_gradients(forward, params, images_of(2))
    for name, result in zip(("flair", "by_params", "by_images"), results, strict=True):
        found[name] = flat(result)
    for extent in EXTENTS:
        convolve = jax.jit(over_slabs(partial(_convolve, extent), extent))
        for tap in (0, 2):
            kernel = np.zeros((3, 3, 3, 2, 2), np.float32)
            kernel[tap, 1, 1] = np.eye(2)
            found[f"tap {tap} {extent}"] = np.asarray(convolve(kernel, images_of(2, extent)))
    for data, space in MESHES:
        mesh = make_mesh(data, space)
        step = make_parallel_step(build_network, OPTIMIZER, mesh)
        found[f"step {data} {space}"] = take_steps(step, start_state(params), batch_of(SUBJECTS))
    mesh = make_mesh(2, 2)
    found["predicted"] = predict_parallel(build_network, params, images_of(3), mesh, batch=2)
    found["slabs"], found["weight"] = _sharded(mesh)
    try:
        shard_batch(batch_of(SUBJECTS[:3]), mesh)
    except InputError as error:
        found["refused"] = np.array(str(error))
    return found


def _sharded(mesh: Mesh) -> tuple[Array, Array]:
    """Returns the shape of each device's images, and the whole weight, of a sharded batch."""
    batch = shard_batch(batch_of(SUBJECTS), mesh)
    assert isinstance(batch.images, jax.Array)
    shapes = [shard.data.shape for shard in batch.images.addressable_shards]
    return np.array(shapes), np.asarray(batch.weight)


def in_process(port: str, index: int) -> dict[str, Array]:
    """Returns what one of two processes, of a device each, computes from its own subjects."""
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=2, process_id=index, initialization_timeout=30
    )
    params = draw_params(build_network(conv3d))
    found = {}

    mesh = make_mesh(2, 1)
    own = process_share(SUBJECTS)
    step = make_parallel_step(build_network, OPTIMIZER, mesh)
    # As `fit` leaves it at the end of an epoch: all global but for a new zero.
    state = replicate(start_state(params), mesh)._replace(loss_sum=jnp.float32(0))
    found["own"] = np.array(own)
    found["stepped"] = take_steps(step, state, batch_of(own))
    images = np.asarray(batch_of(own).images)
    found["own subjects"] = predict_parallel(build_network, params, images, mesh)

    mesh = make_mesh(1, 2)
    found["one volume"] = predict_parallel(build_network, params, images_of(1), mesh)
    jax.distributed.shutdown()
    return found


def main(mode: str, out: str, *rest: str) -> None:
    """Computes, and writes the results by name."""
    # Half the time to compile, to slower code.
    jax.config.update("jax_disable_most_optimizations", True)
    found = on_devices() if mode == "devices" else in_process(rest[0], int(rest[1]))
    np.savez(Path(out), allow_pickle=False, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
