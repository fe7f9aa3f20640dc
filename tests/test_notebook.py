"""The notebooks run from top to bottom on a finished run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


# The kernel is another process; its own libraries' warnings are not ours to turn into errors.
@pytest.mark.filterwarnings("default")
def test_the_saliency_notebook_runs_and_draws(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAXFLAIR_RUN", str(finished))
    notebook = nbformat.read(NOTEBOOKS / "saliency.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    drawn = [o for w in widgets.values() for o in w["state"].get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in drawn)
    assert not any(output["output_type"] == "error" for output in drawn)
