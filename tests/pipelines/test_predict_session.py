"""One raw session through `predict`: however it is stored it gives one FLAIR, or is refused."""

from __future__ import annotations

import gzip
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import Geometry, Volume
from flaxflair.io.nifti import read_volume
from flaxflair.models.model import Model
from flaxflair.pipelines.predict import predict_session
from flaxflair.preprocessing.options import Preparation
from tests.disks import no_room_beyond, unprivileged
from tests.samples import load_fold, reorder, tilt

NAMES = ("T1", "T2")
RIGID = Preparation(dof=6)
# Scaling to whole numbers, as scanners' files have it.
SLOPE, OFFSET = 0.37, -5 * 0.37


@pytest.fixture(scope="module")
def model(raw_model: Path) -> Model:
    return load_fold(raw_model)


@pytest.fixture(scope="module")
def session(raw_scans: dict[str, Volume], raw_phantom: Path) -> dict[str, Volume]:
    """The scans, and on the T2's grid roughly where the brain is: finding it is another matter."""
    path = "derivatives/truth/sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz"
    scans = {name: raw_scans[name] for name in NAMES}
    # What int16 with scaling can hold, so that every way of storing it holds the same.
    scans = {
        name: Volume(np.rint(scan.array / np.float32(SLOPE)) * np.float32(SLOPE), scan.geometry)
        for name, scan in scans.items()
    }
    brain = read_volume(raw_phantom / path)
    assert brain.geometry.shape == scans["T2"].geometry.shape
    return scans | {"brain": Volume(brain.array, scans["T2"].geometry)}


def keep(volume: Volume) -> Volume:
    return volume


def store(path: Path, volume: Volume, dtype: type = np.float32) -> Path:
    """Writes a volume by nibabel, whole numbers with scaling."""
    array = np.asarray(volume.array)
    if dtype is np.int16:
        array = np.rint((array - OFFSET) / SLOPE)
    image = nib.Nifti1Image(array.astype(dtype), volume.geometry.affine)
    if dtype is np.int16:
        image.header.set_slope_inter(SLOPE, OFFSET)
    image.set_qform(volume.geometry.affine, 1)
    image.set_sform(volume.geometry.affine, 1)
    nib.save(image, path)
    return path


def write(
    folder: Path,
    session: Mapping[str, Volume],
    change: Callable[[Volume], Volume] = keep,
    *,
    dtype: type = np.float32,
    extension: str = ".nii.gz",
) -> dict[str, Path]:
    """Writes a session, and returns sequence -> file."""
    folder.mkdir(exist_ok=True)
    return {
        name: store(
            folder / f"{name}{extension}", change(volume), np.uint8 if name == "brain" else dtype
        )
        for name, volume in session.items()
    }


def predict(model: Model, files: Mapping[str, Path], out: Path) -> Volume:
    inputs = {name: files[name] for name in NAMES}
    predict_session(model, inputs, out, RIGID, brain=files["brain"])
    return read_volume(out)


@pytest.fixture(scope="module")
def usual(
    model: Model, session: dict[str, Volume], tmp_path_factory: pytest.TempPathFactory
) -> Volume:
    folder = tmp_path_factory.mktemp("usual")
    return predict(model, write(folder, session), folder / "flair.nii.gz")


@pytest.mark.parametrize(
    ("change", "dtype", "extension"),
    [
        (reorder("LPS"), np.float32, ".nii.gz"),
        (reorder("RAS"), np.float64, ".nii"),
        (reorder("SLA"), np.int16, ".nii.gz"),
        (tilt, np.float32, ".nii"),
    ],
    ids=["LPS", "RAS float64 nii", "axes permuted, int16 scaled", "oblique"],
)
def test_the_flair_is_independent_of_the_storage_of_the_session(
    change: Callable[[Volume], Volume],
    dtype: type,
    extension: str,
    model: Model,
    session: dict[str, Volume],
    usual: Volume,
    tmp_path: Path,
):
    files = write(tmp_path, session, change, dtype=dtype, extension=extension)
    flair = predict(model, files, tmp_path / f"flair{extension}")
    expected = change(usual)
    assert flair.geometry.matches(expected.geometry)
    brain = change(session["brain"]).array > 0.5
    difference = np.abs(flair.array - expected.array).max()
    assert difference < 1e-3 * usual.array[session["brain"].array > 0.5].std()
    assert flair.array[brain].std() > 0
    assert not flair.array[~brain].any()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def enlarge_header(path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 30_000))
    header["sform_code"] = 1
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4), mtime=0))


def remove_forms(path: Path) -> None:
    image = nib.Nifti1Image(read_volume(path).array, None)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, path)


def displace(path: Path) -> None:
    volume = read_volume(path)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += 900
    store(path, Volume(volume.array, Geometry(volume.geometry.shape, affine)))


def slice_out(path: Path) -> None:
    volume = read_volume(path)
    middle = volume.array.shape[2] // 2
    array = volume.array[:, :, middle : middle + 1]
    store(path, Volume(array, Geometry((*array.shape[:2], 1), volume.geometry.affine)))


def strip(path: Path) -> None:
    """Zeroes a scan beyond 65 mm from its centre, roughly outside the brain."""
    volume = read_volume(path)
    places = np.indices(volume.array.shape).reshape(3, -1)
    middle = (np.array(volume.array.shape) - 1) / 2
    away = (places - middle[:, None]) * np.array(volume.geometry.voxel_size)[:, None]
    inside = (np.linalg.norm(away, axis=0) < 65).reshape(volume.array.shape)
    store(path, Volume(volume.array * inside, volume.geometry))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, "the gzip stream is corrupt"),
        (enlarge_header, "claims 30000×30000×30000 voxels"),
        (remove_forms, "both qform_code and sform_code are 0"),
        (displace, "overlap"),
        (slice_out, "slice"),
        (strip, "shows a brain where the T1 shows a head"),
    ],
)
def test_check_and_predict_refuse_with_the_same_message(
    spoil: Callable[[Path], None],
    message: str,
    raw_model: Path,
    session: dict[str, Volume],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    files = write(tmp_path / "in", session)
    spoil(files["T2"])
    given = ["--t1w", str(files["T1"]), "--t2w", str(files["T2"])]
    assert main(["check", *given]) == 1
    assert message in capsys.readouterr().out
    out = tmp_path / "out"
    out.mkdir()
    model = ["--model", str(raw_model)]
    assert main(["predict", *model, *given, "--out", str(out / "flair.nii.gz")]) == 1
    refusal = capsys.readouterr().err
    assert message in refusal
    assert refusal.count("\n") == 1
    assert str(tmp_path) in refusal
    assert not list(out.iterdir())


def test_check_and_predict_warn_of_contradictory_forms(
    raw_model: Path,
    session: dict[str, Volume],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    files = write(tmp_path / "in", session)
    scan = session["T1"]
    image = nib.Nifti1Image(scan.array, scan.geometry.affine)
    elsewhere = scan.geometry.affine.copy()
    elsewhere[1, 3] += 7
    image.set_sform(scan.geometry.affine, 1)
    image.set_qform(elsewhere, 1)
    nib.save(image, files["T1"])
    given = ["--t1w", str(files["T1"]), "--t2w", str(files["T2"])]
    assert main(["check", *given]) == 0
    message = "its qform and sform put it 7.0 mm apart; the sform is used"
    assert message in capsys.readouterr().out
    out = tmp_path / "flair.nii.gz"
    command = ["predict", "--model", str(raw_model), *given, "--brain", str(files["brain"])]
    assert main([*command, "--dof", "6", "--no-page", "--out", str(out)]) == 0
    assert message in capsys.readouterr().err
    assert out.is_file()


def test_an_input_is_never_overwritten(model: Model, session: dict[str, Volume], tmp_path: Path):
    files = write(tmp_path, session)
    before = {name: path.read_bytes() for name, path in files.items()}
    (tmp_path / "link.nii.gz").symlink_to(files["T2"])
    for out in (files["T1"], files["brain"], tmp_path / "link.nii.gz"):
        with pytest.raises(OSError, match="is one of the inputs; name another file to write"):
            predict(model, files, out)
    sidecar = tmp_path / "T1.json"
    sidecar.write_text("{}")
    with pytest.raises(OSError, match=r"T1\.nii: its sidecar would replace that of .*T1\.nii\.gz"):
        predict(model, files, tmp_path / "T1.nii")
    assert sidecar.read_text() == "{}"
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_a_read_only_folder_is_refused_before_any_computation(
    raw_model: Path, session: dict[str, Volume], capsys: pytest.CaptureFixture[str]
):
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        files = write(Path(top, "in"), session)
        out = Path(top, "out")
        out.mkdir(mode=0o555)
        given = ["--t1w", str(files["T1"]), "--t2w", str(files["T2"])]
        command = ["predict", "--model", str(raw_model), *given, "--out", str(out / "flair.nii.gz")]
        model = load_fold(raw_model)
        with unprivileged(), pytest.raises(WriteError, match="is read-only; name a folder that"):
            predict(model, files, out / "flair.nii.gz")
        assert not list(out.iterdir())
        missing = [*command[:-1], str(out / "none/flair.nii.gz")]
        assert main(missing) == 1
        assert "out/none: no such folder; create it" in capsys.readouterr().err


def test_a_full_disk_leaves_no_partial_file(
    model: Model, raw_model: Path, session: dict[str, Volume], tmp_path: Path
):
    files = write(tmp_path / "in", session)
    out = tmp_path / "small"
    out.mkdir()
    with no_room_beyond(4096), pytest.raises(WriteError, match="free space there or name another"):
        predict(model, files, out / "flair.nii.gz")
    assert not list(out.iterdir())
    # And a file system of 16 KiB, in a separate mount namespace.
    given = ["--t1w", files["T1"], "--t2w", files["T2"], "--brain", files["brain"]]
    command = [sys.executable, "-m", "flaxflair.cli", "predict", "--model", raw_model, *given]
    command = shlex.join(map(str, [*command, "--dof", "6", "--out", out / "flair.nii.gz"]))
    mount = shlex.join(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(out)])
    script = f"{mount} || exit 77; {command}; echo status $?; ls -A {shlex.quote(str(out))}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "status" not in done.stdout:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert done.stdout.splitlines()[-1] == "status 1"
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"flaxflair: {out}/flair.nii.gz: cannot be written (No space left")
