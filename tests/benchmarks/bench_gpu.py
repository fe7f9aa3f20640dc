"""Prediction, training and saliency of the paper's network on an accelerator, against targets.

Run as `python -m tests.benchmarks.bench_gpu [--torch PYTHON] [--cv] [--json OUT]`; for a test on a
CPU, with `--grid 16 16 8 --filters 8`. PYTHON is an interpreter with PyTorch, which runs in a
separate process. The contestants of a part alternate within every repeat, each after a warm-up
call, and the minimum time of each is reported. The floor of a time is its number of operations over
the rate of matrix products measured on this device.

A part that fails is reported in its row and the others continue; the exit code is 1 if one of ours
failed. Results are written after every part, so an interrupted run keeps them. All data are random,
except for `--cv`, which cross-validates on the embedded phantom.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxflair.config import NetworkConfig
from flaxflair.configs import fcn64
from flaxflair.core.sequences import INPUTS
from flaxflair.models.inference import predict_volumes
from flaxflair.models.saliency import p3s
from flaxflair.networks import NETWORKS, Network
from flaxflair.networks.conv import conv3d
from flaxflair.networks.network import ARITHMETIC
from flaxflair.pipelines import cross_validation
from flaxflair.simulation.cache import open_phantom
from flaxflair.simulation.dataset import SMALLEST_SCALE
from flaxflair.training.batches import Example, cut_batch, edges_of, make_draws, stack_examples
from flaxflair.training.step import (
    Plan,
    by_epoch,
    by_step,
    init_fit,
    make_optimizer,
    make_train_epoch,
    make_train_step,
)
from tests.benchmarks.record import describe_run

Grid = tuple[int, int, int]
Run = Callable[[], float]  # -> seconds

PAPER: tuple[Grid, int] = (208, 256, 40), 64
HIDDEN, RATE, BATCH, WHOLE = 3, 5e-4, 4, (0, 0, 0)
DTYPES = tuple(reversed(ARITHMETIC))  # quickest first
PRODUCTS = 8  # of matrices in one call, so that starting it does not count
LANES = 8  # channels that a tensor core takes at a time

# Milliseconds a volume or a step, at most, at the paper's size on an accelerator.
TARGETS = {
    ("prediction", "bfloat16"): 4.0,
    ("prediction", "tensorfloat32"): 12.0,
    ("training step", "bfloat16"): 15.0,
}
# Operations in forward passes: a gradient costs another pass for each thing differentiated by.
PASSES = {"prediction": 1, "training step": 3, "P3S": 2}

# Reads "<task> <dtype> <mode>" lines, answers each with its seconds. Predicts a batch, or trains
# the requested number of steps, without waiting for the device between them.
TORCH = """
import json, sys, time
out, sys.stdout = sys.stdout, sys.stderr  # nobody else's words among the answers
try:
    import torch
    from torch import nn
except ImportError as error:
    print(json.dumps({"error": str(error)}), file=out, flush=True)
    sys.exit()

size = json.loads(sys.argv[1])
device, grid = size["device"], size["grid"]
channels = [size["inputs"], *[size["filters"]] * size["hidden"], 1]
if device == "cuda" and not torch.cuda.is_available():
    found = f"PyTorch {torch.__version__} finds no CUDA device; install one built for CUDA"
    print(json.dumps({"error": found}), file=out, flush=True)
    sys.exit()
torch.backends.cudnn.benchmark = True

def build():
    layers = []
    for c, f in zip(channels, channels[1:]):
        layers += [nn.Conv3d(c, f, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(device, memory_format=torch.channels_last_3d)

x = torch.randn(size["batch"], channels[0], *grid, device=device)
x = x.to(memory_format=torch.channels_last_3d)
y = torch.randn(size["batch"], 1, *grid, device=device)

def compiled(f, mode):
    return torch.compile(f) if mode == "compile" else f

def prediction(dtype, mode):
    half = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    net = build().to(half)
    forward = compiled(lambda x: net(x.to(half)).float(), mode)
    def call():
        with torch.inference_mode():
            forward(x)
    return call

def training_step(dtype, mode):
    net = build()
    sgd = torch.optim.SGD(net.parameters(), size["rate"])
    def loss(x, y):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            z = net(x)
        return ((z.float() - y) ** 2).mean()
    loss_of = compiled(loss, mode)
    def call():
        for step in range(size["steps"]):
            at = step % len(x)
            sgd.zero_grad()
            loss_of(x[at : at + 1], y[at : at + 1]).backward()
            sgd.step()
    return call

def synchronize():
    if device == "cuda":
        torch.cuda.synchronize()

tasks = {f.__name__: f for f in (prediction, training_step)}
name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
reply = {"version": torch.__version__, "device": name, "cuda": torch.version.cuda}
print(json.dumps(reply), file=out, flush=True)
calls = {}
for line in sys.stdin:
    task, dtype, mode = line.split()
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tensorfloat32"
    torch.backends.cudnn.allow_tf32 = dtype == "tensorfloat32"
    try:
        if line not in calls:
            calls[line] = tasks[task](dtype, mode)
        synchronize()
        start = time.perf_counter()
        calls[line]()
        synchronize()
        answer = {"seconds": time.perf_counter() - start}
    except Exception as error:
        calls.pop(line, None)
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=out, flush=True)
"""


@dataclass
class Row:
    """One figure, and what it is held against.

    Attributes:
      part: of the benchmark.
      name: of who did it.
      dtype: of the computation.
      unit: of the figure and its target.
      figure: the result; None if there is none.
      seconds: each call that counted.
      first: seconds of the call before them, compilation included.
      floor: the least time that the device could take, over the time that was taken.
      target: the most that the figure may be; None for no target, or not at this size.
      ours: whether a failure is this project's.
      error: why there is no figure.
      more: whatever else is to be kept.
    """

    part: str
    name: str
    dtype: str
    unit: str = "ms"
    figure: float | None = None
    seconds: list[float] = field(default_factory=list)
    first: float | None = None
    floor: float | None = None
    target: float | None = None
    ours: bool = True
    error: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def of_target(self) -> float | None:
        """The figure over its target."""
        return self.figure / self.target if self.figure is not None and self.target else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one. What failed has not met it."""
        if self.target is None:
            return None
        return self.of_target is not None and self.of_target <= 1


class Entry(NamedTuple):
    """A contestant.

    Attributes:
      name: who.
      dtype: of the computation.
      prepare: returns the call to be timed.
      ours: whether it is this project's.
    """

    name: str
    dtype: str
    prepare: Callable[[], Run]
    ours: bool = True


class Setting(NamedTuple):
    """What all parts share.

    Attributes:
      grid: of a volume.
      filters: of a hidden layer.
      dtypes: to compute in.
      repeats: calls of each contestant that count.
      steps: training steps in a call.
      size: of the matrices.
      examples: noise, a batch of it.
    """

    grid: Grid
    filters: int
    dtypes: Sequence[str]
    repeats: int
    steps: int
    size: int
    examples: Sequence[Example]


def count_operations(grid: Grid, filters: int) -> int:
    """Returns the floating-point operations of a forward pass.

    A multiplication and an addition for each tap of a kernel, those on padding included, and two
    more for each output: its bias and its rectifier.
    """
    channels = [len(INPUTS), *[filters] * HIDDEN, 1]
    return prod(grid) * sum(2 * (27 * c + 1) * f for c, f in pairwise(channels))


def draw_examples(grid: Grid) -> list[Example]:
    """Returns a batch of noise."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    return [
        Example(normal(*grid, len(INPUTS)), normal(*grid), np.ones(grid, bool))
        for _ in range(BATCH)
    ]


# --- taking turns --------------------------------------------------------------------------------


def timed(call: Callable[[], Any]) -> Run:
    """Returns the call, waited for and timed."""

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    return run


def take_turns(part: str, entries: Sequence[Entry], repeats: int) -> list[Row]:
    """Runs contestants one after the other, `repeats` times, and returns a row for each.

    A contestant that fails is excluded from then on, and its row has the reason.
    """
    rows = [Row(part, entry.name, entry.dtype, ours=entry.ours) for entry in entries]
    running: list[tuple[Row, Run]] = []
    for row, entry in zip(rows, entries, strict=True):
        try:
            run = entry.prepare()
            row.first = run()
            running.append((row, run))
        except Exception as error:
            row.error = describe_error(error)
    for _ in range(repeats):
        for row, run in running:
            if row.error is None:
                try:
                    row.seconds.append(run())
                except Exception as error:
                    row.error = describe_error(error)
    return rows


def describe_error(error: Exception) -> str:
    """Returns what went wrong, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def count_time(rows: Sequence[Row], per_call: int) -> None:
    """Sets each figure to the milliseconds of one of the `per_call` things that a call does."""
    for row in rows:
        if row.error is None:
            row.figure = 1000 * min(row.seconds) / per_call


def hold_against(
    rows: Sequence[Row], task: str, setting: Setting, rates: Mapping[str, float]
) -> None:
    """Sets floors, and the targets of what is ours where they apply.

    Args:
      rows: with their figures.
      task: a key of `PASSES`.
      setting: of the run.
      rates: dtype -> operations a second.
    """
    operations = PASSES[task] * count_operations(setting.grid, setting.filters)
    for row in rows:
        if row.figure and row.dtype in rates:
            row.floor = 1000 * operations / rates[row.dtype] / row.figure
        if row.ours and at_paper_size(setting):
            row.target = TARGETS.get((task, row.dtype))


def at_paper_size(setting: Setting) -> bool:
    """Whether targets in milliseconds apply."""
    return (setting.grid, setting.filters) == PAPER and jax.default_backend() != "cpu"


def compare(
    part: str,
    name: str,
    dtype: str,
    figures: tuple[float | None, float | None],
    target: float | None = None,
) -> Row:
    """Returns the row of a ratio; without target if there is nothing to hold against."""
    first, second = figures
    row = Row(part, name, dtype, "×", target=target if second else None)
    if first is None or not second:
        row.error, row.ours = "nothing to compare with", False
    else:
        row.figure = first / second
    return row


# --- ours ----------------------------------------------------------------------------------------


def matrix_rates(setting: Setting) -> tuple[list[Row], dict[str, float]]:
    """Returns rows in TFLOP/s, and dtype -> operations a second."""
    size = setting.size

    def prepare(dtype: str) -> Run:
        computed, precision = ARITHMETIC[dtype]
        drawn = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        a, b = jnp.asarray(drawn / size**0.5, computed)  # so that powers of b stay finite

        @jax.jit
        def products(a: jax.Array, b: jax.Array) -> jax.Array:
            def product(_: int, a: jax.Array) -> jax.Array:
                return jnp.matmul(a, b, precision=precision)

            return lax.fori_loop(0, PRODUCTS, product, a)

        return timed(lambda: products(a, b))

    name = f"{size}×{size}"
    entries = [Entry(name, dtype, lambda dtype=dtype: prepare(dtype)) for dtype in setting.dtypes]
    rows = take_turns("matrices", entries, setting.repeats)
    rates = {}
    for row in rows:
        row.unit = "TFLOP/s"
        if row.error is None:
            rates[row.dtype] = PRODUCTS * 2 * size**3 / min(row.seconds)
            row.figure = rates[row.dtype] / 1e12
    return rows, rates


def build(setting: Setting, dtype: str, convolution: Callable[..., jax.Array] = conv3d) -> Network:
    """Returns the project's network."""
    config = NetworkConfig(layers=HIDDEN, filters=setting.filters, dtype=dtype)
    return NETWORKS["fcn"](len(INPUTS), config, convolution)


def padded(lhs: jax.Array, rhs: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Convolves as `conv3d` does, channels filled up with zeros to a multiple of `LANES`."""
    c, f = rhs.shape[-2:]
    lhs = jnp.pad(lhs, [(0, 0)] * 4 + [(0, -c % LANES)])
    rhs = jnp.pad(rhs, [(0, 0)] * 3 + [(0, -c % LANES), (0, -f % LANES)])
    return conv3d(lhs, rhs, *args, **kwargs)[..., :f]


def prediction_run(
    setting: Setting, dtype: str, convolution: Callable[..., jax.Array] = conv3d
) -> Run:
    """Returns a call that predicts a batch from inputs on the device."""
    network = build(setting, dtype, convolution)
    params = network.init(jax.random.key(0))
    images = jnp.stack([example.images for example in setting.examples])
    return timed(lambda: predict_volumes(network.forward, params, images, batch=BATCH))


def training_run(setting: Setting, dtype: str, *, whole: bool) -> Run:
    """Returns a call that takes `setting.steps` steps: compiled as one, or one by one."""
    forward = build(setting, dtype).forward
    optimizer = make_optimizer("sgd", RATE, "constant", setting.steps)
    draws, _ = make_draws(
        setting.examples, window=WHOLE, windows_per_subject=1, batch=1, address=(0, 0)
    )
    if whole:
        edges = edges_of(setting.examples[0], WHOLE)
        train_epoch = make_train_epoch(forward, optimizer, edges)
        advance = by_epoch(train_epoch, stack_examples(setting.examples), draws)
    else:
        train_step = make_train_step(forward, optimizer)
        advance = by_step(train_step, lambda step: cut_batch(setting.examples, draws(step), WHOLE))
    params = build(setting, dtype).init(jax.random.key(0))
    state = init_fit(params, optimizer, Plan(1, setting.steps, 1, 0, 1)).train
    step = 0

    def call() -> tuple[Any, jax.Array]:
        nonlocal state, step
        state, loss = advance(state, step, setting.steps)
        step += setting.steps
        return state, loss

    return timed(call)


def p3s_run(setting: Setting, dtype: str) -> Run:
    """Returns a call that explains a volume."""
    network = build(setting, dtype)
    params = network.init(jax.random.key(0))
    images, flair = map(jnp.asarray, setting.examples[0][:2])
    return timed(lambda: p3s(network.forward, params, images, flair))


def measure_network(
    task: str, setting: Setting, rates: Mapping[str, float], worker: Worker | None
) -> list[Row]:
    """Returns rows of prediction or training, ours beside PyTorch's, and their ratios."""
    predicts = task == "prediction"

    def prepare(dtype: str, whole: bool = True) -> Run:
        if predicts:
            return prediction_run(setting, dtype)
        return training_run(setting, dtype, whole=whole)

    entries: list[Entry] = []
    for dtype in setting.dtypes:
        entries.append(Entry("ours", dtype, lambda dtype=dtype: prepare(dtype)))
        if worker and dtype in worker.dtypes:
            for mode in worker.modes:
                run = worker.run(task, dtype, mode)
                entries.append(Entry(f"PyTorch {mode}", dtype, lambda run=run: run, ours=False))
    if not predicts:
        entries += [
            Entry("ours, from the host", dtype, lambda dtype=dtype: prepare(dtype, False))
            for dtype in setting.dtypes
        ]
    rows = take_turns(task, entries, setting.repeats)
    count_time(rows, BATCH if predicts else setting.steps)
    hold_against(rows, task, setting, rates)
    for row in rows:
        if row.name == "ours, from the host":
            row.target = None  # it is there for comparison
    for dtype in (dtype for dtype in setting.dtypes if worker and dtype in worker.dtypes):
        rows.append(beside_torch(task, dtype, rows))
    return rows


def beside_torch(task: str, dtype: str, rows: Sequence[Row]) -> Row:
    """Returns the ratio of our time to that of PyTorch's quicker mode, named."""
    figures = {row.name: row.figure for row in rows if row.dtype == dtype and row.figure}
    theirs = {name: figure for name, figure in figures.items() if name.startswith("PyTorch")}
    quicker = min(theirs, key=lambda name: theirs[name], default="PyTorch")
    pair = figures.get("ours"), theirs.get(quicker)
    # On a CPU, and at the size of a test, this compares how fast threads wake up.
    target = None if jax.default_backend() == "cpu" else 1.0
    return compare(task, f"ours / {quicker}", dtype, pair, target)


def measure_p3s(setting: Setting, rates: Mapping[str, float]) -> list[Row]:
    """Returns rows of P3S."""
    entries = [
        Entry("ours", dtype, lambda dtype=dtype: p3s_run(setting, dtype))
        for dtype in setting.dtypes
    ]
    rows = take_turns("P3S", entries, setting.repeats)
    count_time(rows, 1)
    hold_against(rows, "P3S", setting, rates)
    return rows


def measure_thin_layers(setting: Setting) -> list[Row]:
    """Returns rows of prediction with thin layers as they are and padded, and their ratios."""
    ways = {"as it is": conv3d, "padded": padded}
    entries = [
        Entry(name, dtype, lambda dtype=dtype, way=way: prediction_run(setting, dtype, way))
        for dtype in setting.dtypes
        for name, way in ways.items()
    ]
    rows = take_turns("thin layers", entries, setting.repeats)
    count_time(rows, BATCH)
    figures = {(row.dtype, row.name): row.figure for row in rows}
    for dtype in setting.dtypes:
        pair = figures[dtype, "padded"], figures[dtype, "as it is"]
        rows.append(compare("thin layers", "padded / as it is", dtype, pair))
    return rows


def measure_crossval(setting: Setting, epochs: int, subjects: int) -> list[Row]:
    """Returns rows of five-fold cross-validation in bfloat16 and float32, and how MSEs differ.

    At the phantom's scale that comes nearest to the grid. Each fold goes on to the last epoch, so
    that both do the same work; the phantom is made before the clock starts.
    """
    part, name = "cross-validation", "ours"
    config = fcn64.get_config()
    config.network.filters = setting.filters
    config.train.epochs, config.stop.patience = epochs, 0
    config.folds.at_once = len(jax.local_devices())
    config.data.phantom.scale = min(max(setting.grid[0] / PAPER[0][0], SMALLEST_SCALE), 1.0)
    config.data.phantom.subjects = subjects
    config.data.phantom.healthy = subjects // 6
    rows = [Row(part, name, dtype, "s") for dtype in ("bfloat16", "float32")]
    for row in rows:
        config.network.dtype = row.dtype
        try:
            source = open_phantom(config.data.phantom)
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                summary = cross_validation.run(config, Path(folder) / "run", source)
                row.figure = time.perf_counter() - start
            row.seconds = [row.figure]
            row.more = {
                "mse": summary["methods"][config.network.name]["mse"],
                "folds": len(summary["folds"]),
                "epochs": epochs,
                "scale": config.data.phantom.scale,
                "at once": config.folds.at_once,
            }
        except Exception as error:
            row.error = describe_error(error)
    mse = [row.more["mse"]["mean"] if row.more else None for row in rows]
    away = compare(part, "MSE away from float32's", "bfloat16", (mse[0], mse[1]), target=1.0)
    away.unit, away.more = "%", {"ratio": away.figure}
    if away.figure is not None:
        away.figure = 100 * abs(away.figure - 1)
    return [*rows, away]


# --- PyTorch -------------------------------------------------------------------------------------


class Worker(NamedTuple):
    """PyTorch in a separate process.

    Attributes:
      reply: versions and device, or the error that prevents running.
      process: the process; None if it could not be started.
      dtypes: that it is asked for.
      modes: likewise.
    """

    reply: dict[str, Any]
    process: subprocess.Popen[str] | None
    dtypes: Sequence[str] = ("bfloat16", "tensorfloat32")
    modes: Sequence[str] = ("compile", "eager")

    def run(self, task: str, dtype: str, mode: str) -> Run:
        """Returns a call that has the worker do a task and returns the seconds it reports."""

        def run() -> float:
            if self.process is None or "error" in self.reply:
                raise RuntimeError(self.reply["error"])
            return ask(self.process, f"{task.replace(' ', '_')} {dtype} {mode}")["seconds"]

        return run


def ask(process: subprocess.Popen[str], line: str | None = None) -> dict[str, Any]:
    """Returns the worker's reply to a line; without a line, its description.

    Raises:
      RuntimeError: the worker failed or has ended.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        print(line, file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("the PyTorch process has ended")
    reply = json.loads(answer)
    if line is not None and "error" in reply:
        raise RuntimeError(reply["error"])
    return reply


@contextmanager
def open_worker(python: str | None, setting: Setting) -> Iterator[Worker | None]:
    """Starts PyTorch on the kind of device that JAX has, and ends it afterwards."""
    if python is None:
        yield None
        return
    size = {
        "device": "cpu" if jax.default_backend() == "cpu" else "cuda",
        "grid": setting.grid,
        "filters": setting.filters,
        "inputs": len(INPUTS),
        "hidden": HIDDEN,
        "rate": RATE,
        "batch": BATCH,
        "steps": setting.steps,
    }
    try:
        process = subprocess.Popen(
            [python, "-c", TORCH, json.dumps(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        yield Worker({"error": describe_error(error)}, None)
        return
    try:
        try:
            reply = ask(process)
        except (RuntimeError, ValueError) as error:
            reply = {"error": describe_error(error)}
        yield Worker(reply, process)
    finally:
        process.kill()
        process.communicate()


# --- the run -------------------------------------------------------------------------------------


def describe_device() -> dict[str, Any]:
    """Returns the description of the accelerator."""
    device = jax.local_devices()[0]
    description = {
        "backend": jax.default_backend(),
        "devices": len(jax.local_devices()),
        "platform version": " ".join(device.client.platform_version.split()),
    }
    if shutil.which("nvidia-smi"):
        wanted = "name,driver_version,memory.total,power.limit,clocks.max.sm"
        command = ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        description["nvidia-smi"] = answer.stdout.strip().splitlines()
    return description


def format_row(row: Row) -> str:
    """Returns a row as a line."""
    start = f"{row.part:17}{row.name:26}{row.dtype:14}"
    if row.figure is None:
        return f"{start} {row.error}"
    line = f"{start}{row.figure:10.4g} {row.unit:8}"
    if row.floor is not None:
        line += f"{row.floor:6.0%} of the rate"
    if row.target is not None:
        verdict = "met" if row.met else "missed"
        line += f"  {verdict}: {row.of_target:.2f} of the {row.target:g} {row.unit} allowed"
    return line


def report(results: dict[str, Any], rows: Sequence[Row], path: Path | None) -> None:
    """Writes everything known so far."""
    if path is None:
        return
    judged = {f"{row.part}, {row.name}, {row.dtype}": row.met for row in rows if row.target}
    results |= {
        "rows": [{**asdict(row), "of_target": row.of_target, "met": row.met} for row in rows],
        "met": [name for name, met in judged.items() if met],
        "missed": [name for name, met in judged.items() if not met],
        "failed": [asdict(row) for row in rows if row.error and row.ours],
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=2) + "\n")
    part.replace(path)


def parse() -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", help="a Python interpreter that has PyTorch")
    parser.add_argument("--grid", type=int, nargs=3, default=PAPER[0])
    parser.add_argument("--filters", type=int, default=PAPER[1])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16, help="training steps in a call")
    parser.add_argument("--size", type=int, help="of the matrices; 8192, on a CPU 256")
    parser.add_argument("--cv", action="store_true", help="cross-validate on the phantom, too")
    parser.add_argument("--epochs", type=int, default=100, help="of --cv")
    parser.add_argument("--subjects", type=int, default=24, help="of --cv")
    parser.add_argument("--json", type=Path, help="where to write it all")
    return parser.parse_args()


def main() -> int:
    """Measures, prints a line for each figure, and returns the exit code."""
    options = parse()
    if options.torch:
        # JAX would take three quarters of the device's memory and leave PyTorch too little.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    x, y, z = options.grid
    size = options.size or (256 if jax.default_backend() == "cpu" else 8192)
    setting = Setting(
        (x, y, z),
        options.filters,
        options.dtypes,
        options.repeats,
        options.steps,
        size,
        draw_examples((x, y, z)),
    )
    operations = count_operations(setting.grid, setting.filters)
    results: dict[str, Any] = {
        "machine": describe_run("tests.benchmarks.bench_gpu") | describe_device(),
        "grid": setting.grid,
        "filters": setting.filters,
        "batch": BATCH,
        "repeats": setting.repeats,
        "steps": setting.steps,
        "tflop": operations / 1e12,
        "targets_in_ms_apply": at_paper_size(setting),
        "memory": {},
    }
    rows: list[Row] = []

    def done(part: str, own: Sequence[Row]) -> None:
        rows.extend(own)
        print(*map(format_row, own), sep="\n", flush=True)
        results["memory"][part] = jax.local_devices()[0].memory_stats()
        report(results, rows, options.json)

    print(f"{results['machine']['device']}: {x}×{y}×{z} voxels, {setting.filters} filters", end="")
    print(f", {operations / 1e12:.3g} TFLOP a forward pass; least of {setting.repeats} calls")
    if not at_paper_size(setting):
        print("targets in ms are left out: they are for 208×256×40, 64 filters, an accelerator")
    own, rates = matrix_rates(setting)
    done("matrices", own)
    with open_worker(options.torch, setting) as worker:
        if worker is not None:
            results["torch"] = worker.reply
            print("PyTorch:", worker.reply, flush=True)
        for task in ("prediction", "training step"):
            done(task, measure_network(task, setting, rates, worker))
    done("P3S", measure_p3s(setting, rates))
    done("thin layers", measure_thin_layers(setting))
    if options.cv:
        done("cross-validation", measure_crossval(setting, options.epochs, options.subjects))
    failed = [row for row in rows if row.error and row.ours]
    judged = [row.met for row in rows if row.met is not None]
    print(f"{sum(judged)} of {len(judged)} targets met; {len(failed)} of our rows failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
