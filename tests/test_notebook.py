"""The notebooks run from top to bottom on a finished run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def test_the_saliency_notebook_runs_and_draws(finished: Path, tmp_path: Path) -> None:
    # The client sometimes overlooks the reply of a cell until the timeout (s), then reads it; often
    # in a process that had run other tests.
    done = tmp_path / "done.ipynb"
    command = [Path(sys.executable).with_name("jupyter-execute"), NOTEBOOKS / "saliency.ipynb"]
    subprocess.run(
        [*command, f"--output={done}", "--kernel_name=python3", "--timeout=100"],
        env={**os.environ, "FLAXFLAIR_RUN": str(finished)},
        cwd=NOTEBOOKS,
        check=True,
        timeout=400,
    )
    notebook = nbformat.read(done, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    drawn = [o for w in widgets.values() for o in w["state"].get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in drawn)
    assert not any(output["output_type"] == "error" for output in drawn)
