"""Time of the paper's network with conv3d, with XLA's convolution and with PyTorch.

Run as `python -m tests.benchmarks.bench_conv [--torch PYTHON] [--grid X Y Z] [--filters F]`. PYTHON
is an interpreter with PyTorch, which runs in a separate process. The contestants alternate within
every repeat, so that other load affects all of them, and the minimum time of each is reported. This
process uses huge pages, like the programs of this package; PyTorch is run without and, since it
also gains, with them. Covers prediction and one step of SGD on noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxflair.networks.conv import conv3d
from flaxflair.runtime.huge_pages import start_with_huge_pages
from tests.benchmarks.record import count_stolen, describe_run

INPUTS, HIDDEN, RATE = 5, 3, 5e-4
TASKS = ("prediction", "training step", "input gradient")
Run = Callable[[], tuple[float, float]]  # -> seconds on the wall, seconds of all cores

# Reads "<mode> <task>" lines, answers each with both times: one call first if it has not run yet.
TORCH = """
import json, sys, time
import torch
from torch import nn

size = json.loads(sys.argv[1])
torch.set_num_threads(size["threads"])
channels = [size["inputs"], *[size["filters"]] * size["hidden"], 1]
layers = []
for c, f in zip(channels, channels[1:]):
    layers += [nn.Conv3d(c, f, 3, padding=1), nn.ReLU()]
net = nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last_3d)
nets = {"eager": net, "compile": torch.compile(net)}
x = torch.randn(1, channels[0], *size["grid"]).to(memory_format=torch.channels_last_3d)
y = torch.randn(1, 1, *size["grid"])
sgd = torch.optim.SGD(net.parameters(), size["rate"])

def prediction(net):
    with torch.inference_mode():
        net(x)

def training_step(net):
    net.requires_grad_(True)
    sgd.zero_grad()
    ((net(x) - y) ** 2).mean().backward()
    sgd.step()

def input_gradient(net):
    net.requires_grad_(False)
    z = x.detach().requires_grad_(True)
    ((net(z) - y) ** 2).sum().backward()

tasks = {f.__name__: f for f in (prediction, training_step, input_gradient)}
print(torch.__version__, flush=True)
ran = set()
for line in sys.stdin:
    mode, task = line.split()
    call = lambda: tasks[task](nets[mode])
    try:
        if line not in ran:
            call()
            ran.add(line)
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    except Exception as error:
        print("failed", repr(error)[:300].replace(chr(10), " "), flush=True)
"""


def jax_runs(conv, grid: tuple[int, int, int], filters: int) -> dict[str, Run]:
    """Returns a timed call of each task with the convolution given; the first ones compile."""
    rng = np.random.default_rng(0)
    channels = [INPUTS, *[filters] * HIDDEN, 1]

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    params = [
        (normal(3, 3, 3, c, f) / (27 * c) ** 0.5, jnp.zeros(f)) for c, f in pairwise(channels)
    ]
    images, flair = normal(1, *grid, INPUTS), normal(1, *grid, 1)

    def forward(params, x):
        for i, (w, b) in enumerate(params):
            dims = ("NDHWC", "DHWIO", "NDHWC")
            x = conv(x, w, (1, 1, 1), "SAME", dimension_numbers=dims) + b
            x = jax.nn.relu(x) if i < HIDDEN else x
        return x

    def loss(params, x):
        return jnp.mean((forward(params, x) - flair) ** 2)

    def step(params, x):
        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params, x))

    def timed(task: Callable) -> Run:
        task = jax.jit(task)
        ran = []

        def run() -> tuple[float, float]:
            if not ran:
                ran.append(jax.block_until_ready(task(params, images)) is not None)
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(task(params, images))
            return time.perf_counter() - wall, time.process_time() - cpu

        return run

    return dict(zip(TASKS, map(timed, (forward, step, jax.grad(loss, 1))), strict=True))


def start_torch(
    python: str, size: dict[str, Any], *, huge: bool
) -> tuple[subprocess.Popen[str], str]:
    """Starts a process that runs the network in PyTorch; returns it and PyTorch's version."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if huge:
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    worker = subprocess.Popen(
        [python, "-c", TORCH, json.dumps(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert worker.stdout is not None
    return worker, worker.stdout.readline().strip()


def torch_runs(worker: subprocess.Popen[str], mode: str) -> dict[str, Run]:
    """Returns a timed call of each task in the worker; `mode` is eager or compile."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    write, read = worker.stdin, worker.stdout

    def timed(task: str) -> Run:
        def run() -> tuple[float, float]:
            print(mode, task.replace(" ", "_"), file=write, flush=True)
            answer = read.readline()
            if not answer or answer.startswith("failed"):
                print(f"PyTorch, {mode}, {task}: {answer or 'ended'}", file=sys.stderr)
                return float("nan"), float("nan")
            wall, cpu = map(float, answer.split())
            return wall, cpu

        return run

    return {task: timed(task) for task in TASKS}


def main() -> None:
    """Measures, prints a table of ratios and writes them with where they come from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", help="a Python interpreter that has PyTorch")
    parser.add_argument("--grid", type=int, nargs=3, default=(208, 256, 40))
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument(
        "--skip", nargs="+", choices=("XLA", "eager", "compile", "huge"), default=()
    )
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args()

    grid = tuple(options.grid)
    record = describe_run("tests.benchmarks.bench_conv")
    runs = {"conv3d": jax_runs(conv3d, grid, options.filters)}
    if "XLA" not in options.skip:
        runs["XLA"] = jax_runs(lax.conv_general_dilated, grid, options.filters)
    workers = []
    for pages in ("", "huge") if options.torch else ():
        if pages not in options.skip:
            size = {
                "grid": grid,
                "filters": options.filters,
                "threads": options.threads,
                "inputs": INPUTS,
                "hidden": HIDDEN,
                "rate": RATE,
            }
            worker, record["torch"] = start_torch(options.torch, size, huge=bool(pages))
            workers.append(worker)
            for mode in ("eager", "compile"):
                if mode not in options.skip:
                    runs[f"PyTorch {mode} {pages}".strip()] = torch_runs(worker, mode)

    print(f"{'x'.join(map(str, grid))}, {options.filters} filters; {record['processor']}")
    print("least seconds on the wall (of all cores); conv3d's share of them")
    results, before = {}, count_stolen()
    for task in options.tasks:
        times = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, tasks in runs.items():
                times[name].append(tasks[task]())
        least = {name: np.min(t, axis=0) for name, t in times.items()}
        results[task] = {
            name: {
                "wall": [wall for wall, _ in t],
                "cores": [cores for _, cores in t],
                "ratio": list(least["conv3d"] / least[name]),
            }
            for name, t in times.items()
        }
        for name, (wall, cores) in least.items():
            ratio = least["conv3d"] / least[name]
            print(
                f"{task:15} {name:20} {wall:8.3f} ({cores:8.3f})  {ratio[0]:.2f} ({ratio[1]:.2f})",
                flush=True,
            )
    for worker in workers:
        worker.communicate()
    stolen, ticks = (after - first for after, first in zip(count_stolen(), before, strict=True))
    record["stolen"] = stolen / max(1, ticks)
    print(f"the host gave {record['stolen']:.0%} of the cores' time to other machines")
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "machine": record,
                    "grid": grid,
                    "filters": options.filters,
                    "threads": options.threads,
                    "ratio": "conv3d's least time to theirs: on the wall, of all cores",
                    "seconds": results,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    start_with_huge_pages()
    main()
