"""Time of prediction on a CPU with ONNX Runtime and OpenVINO, from one ONNX model.

Run as `python -m tests.benchmarks.bench_engines --engines PYTHON [--grid X Y Z] [--filters F]`.
PYTHON is an interpreter with numpy, onnx, onnxruntime and openvino, which runs in a separate
process. The network is the paper's with random kernels; the engines alternate, and the minimum time
of each is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flaxflair.config import NetworkConfig
from flaxflair.core.atomic_files import write_json
from flaxflair.core.sequences import INPUTS
from flaxflair.models.inference import predict_volumes
from flaxflair.networks import NETWORKS
from flaxflair.runtime.huge_pages import start_with_huge_pages
from tests.benchmarks.record import describe_run

# Answers each line, the name of an engine, with the seconds of one prediction.
WORKER = """
import json, sys, time
import numpy as np
import onnx, onnxruntime, openvino
from onnx import TensorProto, helper, numpy_helper

size = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
widths = [size["inputs"], *[size["filters"]] * size["hidden"], 1]
nodes, weights, name = [], [], "x"
for i, (c, f) in enumerate(zip(widths, widths[1:])):
    kernel = rng.standard_normal((f, c, 3, 3, 3)).astype(np.float32) / (27 * c) ** 0.5
    weights += [numpy_helper.from_array(kernel, f"w{i}")]
    weights += [numpy_helper.from_array(np.zeros(f, np.float32), f"b{i}")]
    nodes += [helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 6)]
    name = f"c{i}"
    if i < size["hidden"]:
        nodes += [helper.make_node("Relu", [name], [f"r{i}"])]
        name = f"r{i}"
shape = [1, size["inputs"], *size["grid"]]
graph = helper.make_graph(
    nodes, "fcn",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, *size["grid"]])],
    weights,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
text = model.SerializeToString()
x = rng.standard_normal(shape).astype(np.float32)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = size["threads"]
session = onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
core = openvino.Core()
compiled = core.compile_model(core.read_model(text, b""), "CPU", {
    "INFERENCE_NUM_THREADS": size["threads"], "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
})
engines = {
    "ONNX Runtime": lambda: session.run(None, {"x": x}),
    "OpenVINO": lambda: compiled([x]),
}
print(json.dumps({"ONNX Runtime": onnxruntime.__version__, "OpenVINO": openvino.__version__}),
      flush=True)
ran = set()
for line in sys.stdin:
    name = line.strip()
    if name not in ran:
        engines[name]()
        ran.add(name)
    start = time.perf_counter()
    engines[name]()
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Measures, prints a table of ratios and writes it with where it comes from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", required=True, help="a Python interpreter that has them")
    parser.add_argument("--grid", type=int, nargs=3, default=(208, 256, 40))
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args()
    record = describe_run("tests.benchmarks.bench_engines")
    config = NetworkConfig(filters=options.filters)
    network = NETWORKS["fcn"](len(INPUTS), config)
    params = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((1, *options.grid, len(INPUTS)), np.float32))
    size = {
        "grid": options.grid,
        "filters": options.filters,
        "hidden": config.layers,
        "inputs": len(INPUTS),
        "threads": os.cpu_count(),
    }
    with subprocess.Popen(
        [options.engines, "-c", WORKER, json.dumps(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        write, read = worker.stdin, worker.stdout
        assert write is not None
        assert read is not None
        versions = json.loads(read.readline())

        def ours() -> float:
            started = time.perf_counter()
            jax.block_until_ready(predict_volumes(network.forward, params, images))
            return time.perf_counter() - started

        def theirs(name: str) -> float:
            print(name, file=write, flush=True)
            return float(read.readline())

        ours()
        seconds: dict[str, list[float]] = {"conv3d": [], **{name: [] for name in versions}}
        for _ in range(options.repeats):
            seconds["conv3d"].append(ours())
            for name in versions:
                seconds[name].append(theirs(name))
        write.close()
    least = {name: min(times) for name, times in seconds.items()}
    print(f"{'x'.join(map(str, options.grid))}, {options.filters} filters; {record['processor']}")
    for name, own in least.items():
        print(f"{name:14} {own:7.3f} s  conv3d takes {least['conv3d'] / own:.2f} of it")
    if options.json:
        write_json(
            options.json, {"machine": record, **size, "versions": versions, "seconds": seconds}
        )


if __name__ == "__main__":
    start_with_huge_pages()
    main()
