"""Time of the quick job with XLA's convolution, with conv3d, and with a warm compilation cache.

Run as `python -m tests.benchmarks.bench_job [--folds 0]`. Every contestant is a separate process
that runs the main job on the same existing phantom; the first two compile everything, the third
uses the compilation cache. Compilation is included, since users wait for it in the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
from jax import lax

from flaxflair.configs.fcn64 import get_config
from flaxflair.core.atomic_files import write_json
from flaxflair.networks import NETWORKS
from flaxflair.pipelines.cross_validation import run
from flaxflair.runtime.compilation_cache import enable_compilation_cache
from flaxflair.simulation.cache import open_phantom
from tests.benchmarks.record import describe_run

MODULE = "tests.benchmarks.bench_job"
HITS, MISSES = (f"/jax/compilation_cache/cache_{event}" for event in ("hits", "misses"))
CONTESTANTS = ("XLA", "conv3d", "conv3d, second start")


def work(contestant: str, folds: list[int], workdir: Path) -> dict[str, Any]:
    """Runs the job in this process; returns seconds, programs compiled and found, and the MSE."""
    events: Counter[str] = Counter()
    jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
    enable_compilation_cache()
    if contestant == "XLA":
        fcn = NETWORKS["fcn"]
        NETWORKS["fcn"] = lambda m, config, _=None: fcn(m, config, lax.conv_general_dilated)
    config = get_config("quick")
    root = open_phantom(config.data.phantom)
    started = time.perf_counter()
    summary = run(config, workdir, root, folds=folds)
    return {
        "seconds": time.perf_counter() - started,
        "compiled": events[MISSES],
        "found": events[HITS],
        "mse": summary["methods"]["fcn"]["mse"]["mean"],
    }


def main() -> None:
    """Runs the contestants one after another, prints a table and writes it with the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, help="where to write it all")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        contestant, workdir = options.work
        print(json.dumps(work(contestant, options.folds, Path(workdir))))
        return
    record = describe_run(MODULE)
    open_phantom(get_config("quick").data.phantom)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, contestant in enumerate(CONTESTANTS):
            cache = Path(folder, "xla" if contestant == "XLA" else "ours")
            command = [sys.executable, "-m", MODULE, "--folds", *map(str, options.folds)]
            command += ["--work", contestant, str(Path(folder, f"run-{number}"))]
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
            done = subprocess.run(
                command, env=environment, check=True, text=True, stdout=subprocess.PIPE
            )
            found[contestant] = json.loads(done.stdout.splitlines()[-1])
            own, first = found[contestant], found[CONTESTANTS[0]]
            print(
                f"{contestant:22} {own['seconds']:7.1f} s  "
                f"{first['seconds'] / own['seconds']:5.2f} times as fast as XLA's  "
                f"{own['compiled']:3d} programs compiled, {own['found']:3d} found  "
                f"MSE {own['mse']:.1f}",
                flush=True,
            )
    if options.json:
        write_json(options.json, {"machine": record, "folds": options.folds, "job": found})


if __name__ == "__main__":
    main()
