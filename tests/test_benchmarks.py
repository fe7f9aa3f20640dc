"""The benchmark for accelerators: that it runs, and says what it should, at a size for a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flaxflair.networks.conv import conv3d
from tests.benchmarks import bench_gpu
from tests.benchmarks.bench_gpu import Entry, Row

pytestmark = pytest.mark.usefixtures("quick_compile")

TINY = ["--grid", "8", "8", "8", "--filters", "4", "--repeats", "1", "--steps", "2", "--size", "8"]


@pytest.fixture
def run_tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A function that runs the benchmark and returns its exit code and what it wrote."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "gpu.json"
        monkeypatch.setattr(sys, "argv", ["bench_gpu", *TINY, *arguments, "--json", str(path)])
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # undone afterwards
        code = bench_gpu.main()
        return code, json.loads(path.read_text())

    return run


def test_every_part_of_ours_runs_without_an_accelerator(run_tiny, tmp_path: Path):
    code, told = run_tiny("--torch", str(tmp_path / "no-python"))
    assert code == 0
    assert told["failed"] == told["met"] == told["missed"] == []
    assert {"device", "versions", "commit", "command", "backend"} <= set(told["machine"])
    assert told["grid"] == [8, 8, 8]
    assert told["targets_in_ms_apply"] is False
    ran = {(row["part"], row["name"], row["dtype"]) for row in told["rows"] if row["figure"]}
    assert ran == {
        (part, name, dtype)
        for part, names in {
            "matrices": ["8×8"],
            "prediction": ["ours"],
            "training step": ["ours", "ours, from the host"],
            "P3S": ["ours"],
            "thin layers": ["as it is", "padded", "padded / as it is"],
        }.items()
        for name in names
        for dtype in ("bfloat16", "tensorfloat32", "float32")
    }
    for row in told["rows"]:
        if row["part"] in ("prediction", "training step", "P3S") and row["figure"]:
            assert row["floor"] > 0
    # No PyTorch there: its rows say so, and nothing of ours is to blame.
    silent = [row for row in told["rows"] if not row["figure"]]
    assert all(row["error"] and not row["ours"] for row in silent)
    assert any("no-python" in row["error"] for row in silent)


def test_cross_validation_compares_bfloat16_with_float32(monkeypatch: pytest.MonkeyPatch):
    def run(config, workdir, source):
        mse = {"bfloat16": 101.5, "float32": 100.0}[config.network.dtype]
        return {"methods": {"fcn": {"mse": {"mean": mse, "sd": 1.0}}}, "folds": [0, 1, 2, 3, 4]}

    monkeypatch.setattr(bench_gpu, "open_phantom", lambda config: Path("phantom"))
    monkeypatch.setattr(bench_gpu.cross_validation, "run", run)
    setting = bench_gpu.Setting((8, 8, 8), 4, ["bfloat16"], 1, 1, 8, [])
    *rows, away = bench_gpu.measure_crossval(setting, epochs=1, subjects=6)
    assert [row.dtype for row in rows] == ["bfloat16", "float32"]
    assert all(row.figure is not None for row in rows)
    assert away.figure == pytest.approx(1.5)
    assert away.met is False


def test_who_fails_says_why_and_stops_no_one():
    def fail() -> float:
        raise MemoryError("out of memory:\n  16 GiB wanted")

    entries = [Entry("a", "float32", lambda: fail), Entry("b", "float32", lambda: lambda: 2.0)]
    failed, other = bench_gpu.take_turns("prediction", entries, 3)
    assert failed.error == "MemoryError: out of memory: 16 GiB wanted"
    assert other.seconds == [2.0] * 3
    bench_gpu.count_time([failed, other], 4)
    assert (failed.figure, other.figure) == (None, 500)


def test_a_part_of_ours_that_fails_makes_the_exit_code(
    run_tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*arguments: Any, **options: Any):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    for name in ("predict_volumes", "p3s", "make_train_epoch", "make_train_step"):
        monkeypatch.setattr(bench_gpu, name, fail)
    code, told = run_tiny("--dtypes", "float32")
    assert code == 1
    assert {row["part"] for row in told["failed"]} == {
        "prediction",
        "training step",
        "P3S",
        "thin layers",
    }
    assert "RuntimeError: RESOURCE_EXHAUSTED" in capsys.readouterr().out


def test_a_target_is_the_most_that_a_figure_may_be():
    assert Row("prediction", "ours", "bfloat16", figure=3.0, target=4.0).met
    assert Row("prediction", "ours", "bfloat16", figure=5.0, target=4.0).met is False
    assert Row("prediction", "ours", "bfloat16", error="failed", target=4.0).met is False
    assert Row("prediction", "ours", "float32", figure=5.0).met is None


def test_a_forward_pass_at_the_papers_size_is_987_gflop():
    assert bench_gpu.count_operations(*bench_gpu.PAPER) / 1e12 == pytest.approx(0.987, abs=5e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 8), (8, 1), (5, 1), (8, 8)])
def test_padded_channels_change_nothing(inputs: int, outputs: int):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 4, 5, 6, inputs)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((3, 3, 3, inputs, outputs)), jnp.float32)
    dims = ("NDHWC", "DHWIO", "NDHWC")
    a, b = (
        conv(x, w, (1, 1, 1), "SAME", dimension_numbers=dims) for conv in (conv3d, bench_gpu.padded)
    )
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.std(a)) * 10)
