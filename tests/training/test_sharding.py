"""Training and prediction on several devices and processes equal one device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxflair.core.records import Array, InputError
from flaxflair.models.inference import predict_volumes
from flaxflair.networks.conv import conv3d
from flaxflair.networks.network import Network, Params
from flaxflair.training.sharding import make_mesh, predict_parallel, process_share, shard_batch
from flaxflair.training.step import make_train_step
from tests.closeness import assert_near
from tests.samples import draw_params
from tests.training.sharding_worker import (
    EXTENT,
    EXTENTS,
    MESHES,
    OPTIMIZER,
    STEPS,
    SUBJECTS,
    batch_of,
    build_network,
    flat,
    forward_and_gradients,
    images_of,
    start_state,
    take_steps,
)

pytestmark = pytest.mark.usefixtures("quick_compile")

Found = Mapping[str, Array]
TIMEOUT = 120


def run_workers(out: Path, mode: str, *arguments: list[str], devices: int = 1) -> list[Found]:
    """Runs a worker for each list of arguments concurrently, and returns their results."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    files = [out / f"{number}.npz" for number in range(len(arguments))]
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "tests.training.sharding_worker",
                mode,
                file,
                *rest,
            ],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for file, rest in zip(files, arguments, strict=True)
    ]
    try:
        outputs = [worker.communicate(timeout=TIMEOUT)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # of no effect on one that has ended
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
    assert [worker.returncode for worker in workers] == [0] * len(workers), "\n".join(outputs)
    return [dict(np.load(file)) for file in files]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What four devices computed."""
    return run_workers(tmp_path_factory.mktemp("devices"), "devices", [], devices=4)[0]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes computed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    return run_workers(tmp_path_factory.mktemp("processes"), "process", [port, "0"], [port, "1"])


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(conv3d)


@pytest.fixture(scope="module")
def params(network: Network) -> Params:
    return draw_params(network)


@pytest.fixture(scope="module")
def stepped(network: Network, params: Params) -> Array:
    """The state and the losses after the steps that one device takes."""
    step = make_train_step(network.forward, OPTIMIZER)
    return take_steps(step, start_state(params), batch_of(SUBJECTS))


# --- four devices --------------------------------------------------------------------------------


def test_slabs_equal_the_whole_in_prediction_and_gradients(devices, network, params):
    whole = forward_and_gradients(network.forward, params, images_of(2))
    for name, expected in zip(("flair", "by_params", "by_images"), whole, strict=True):
        assert_near(devices[name], flat(expected))


@pytest.mark.parametrize("extent", EXTENTS)
def test_halo_is_the_adjacent_row_of_each_neighbour(devices, extent: int):
    images = images_of(2, extent)
    margin = np.zeros_like(images[:, :1])
    before = np.concatenate([margin, images[:, :-1]], axis=1)
    after = np.concatenate([images[:, 1:], margin], axis=1)
    np.testing.assert_array_equal(devices[f"tap 0 {extent}"], before)
    np.testing.assert_array_equal(devices[f"tap 2 {extent}"], after)


def test_slab_without_halo_differs(network, params):
    images = images_of(1, 8)
    whole = jax.jit(network.forward)(params, images)
    alone = [jax.jit(network.forward)(params, images[:, i : i + 2]) for i in range(0, 8, 2)]
    assert np.abs(np.concatenate(alone, axis=1) - whole).max() > 0.1 * np.std(whole)


@pytest.mark.parametrize(("data", "space"), MESHES)
def test_parallel_step_equals_one_device(devices, stepped, data: int, space: int):
    assert_near(devices[f"step {data} {space}"], stepped)


def test_training_steps_change_the_parameters(stepped, params):
    moved = np.abs(stepped[: flat(params).size] - flat(params))
    assert np.median(moved) > 1e-3
    assert stepped[-STEPS] > stepped[-1] > 0


def test_predicted_volumes_are_whole_and_in_order(devices, network, params):
    expected = np.asarray(predict_volumes(network.forward, params, images_of(3)))
    assert_near(devices["predicted"], expected)


def test_indivisible_batch_is_padded_with_zero_weight(devices):
    np.testing.assert_array_equal(devices["slabs"], [(2, 3, 4, 3, 2)] * 4)
    weight = batch_of(SUBJECTS).weight
    assert isinstance(weight, np.ndarray)
    np.testing.assert_array_equal(devices["weight"][:, :EXTENT], weight)
    assert not devices["weight"][:, EXTENT:].any()


def test_indivisible_share_is_refused(devices):
    assert "3 examples" in str(devices["refused"])
    assert "2 equal parts" in str(devices["refused"])


# --- two processes -------------------------------------------------------------------------------


def test_two_processes_read_half_of_the_subjects_each(processes):
    own = [found["own"].tolist() for found in processes]
    assert sorted(own[0] + own[1]) == list(SUBJECTS)
    assert len(own[0]) == len(own[1])


def test_step_of_two_processes_equals_one_device(processes, stepped):
    for found in processes:
        assert_near(found["stepped"], stepped)


def test_two_processes_predict_one_volume(processes, network, params):
    expected = np.asarray(predict_volumes(network.forward, params, images_of(1)))
    for found in processes:
        assert_near(found["one volume"], expected)


def test_two_processes_predict_different_subjects(processes, network, params):
    for found in processes:
        images = batch_of(found["own"].tolist()).images
        expected = np.asarray(predict_volumes(network.forward, params, images))
        assert_near(found["own subjects"], expected)


# --- one device ----------------------------------------------------------------------------------


def test_mesh_of_one_device_equals_no_mesh(network, params):
    mesh = make_mesh(1, 1, jax.devices()[:1])
    actual = predict_parallel(build_network, params, images_of(3), mesh)
    expected = np.asarray(predict_volumes(network.forward, params, images_of(3)))
    assert_near(actual, expected)


@pytest.mark.parametrize(("data", "space"), [(2, 1), (1, 2), (0, 1), (-1, -1)])
def test_mesh_of_other_size_than_the_devices_is_refused(data: int, space: int):
    with pytest.raises(InputError, match="do not fit 1 devices"):
        make_mesh(data, space, jax.devices()[:1])


def test_sharded_batch_is_not_sharded_again():
    mesh = make_mesh(1, 1, jax.devices()[:1])
    with pytest.raises(ValueError, match="this one is on a device"):
        shard_batch(shard_batch(batch_of(SUBJECTS), mesh), mesh)


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_subject_is_read_by_one_process(subjects: int, count: int):
    names = [f"sub-{number:02}" for number in range(subjects)]
    shares = [process_share(names, index, count) for index in range(count)]
    assert sorted(name for share in shares for name in share) == names
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_single_process_reads_all():
    assert process_share(SUBJECTS) == list(SUBJECTS)


def test_unknown_process_is_refused():
    with pytest.raises(ValueError, match="no process 2 of 2"):
        process_share(SUBJECTS, 2, 2)
