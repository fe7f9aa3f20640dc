"""Library of anatomies and lesions: invalid files and incomplete folders."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import InputError
from flaxflair.io.nifti import write_volume
from flaxflair.simulation.generator.anatomies import MNI_ORIGIN, MNI_SHAPE, load_library
from flaxflair.simulation.generator.storage import open_library, save_library, write_folder

SHAPES, LABELS = "shapes/lesion_shapes.npz", "labels/seg.nii.gz"
PRIOR, MASK = "shapes/a-prior_space-MNI152.nii.gz", "masks/sub-01_label-lesion_mask.nii.gz"
MNI = np.eye(4)
MNI[:3, 3] = MNI_ORIGIN


def labels() -> np.ndarray:
    """FreeSurfer's numbers of white matter, cortex and a ventricle: a box in a box in a box."""
    array = np.zeros((60, 60, 60), np.float32)
    for edge, label in ((8, 3), (12, 2), (25, 4)):
        array[edge:-edge, edge:-edge, edge:-edge] = label
    return array


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for name in ("labels", "shapes", "masks"):
        (root / name).mkdir()
    write_volume(root / LABELS, labels(), np.eye(4))
    spot = np.zeros(MNI_SHAPE, np.float32)
    spot[90, 110, 90] = 1
    write_volume(root / PRIOR, spot, MNI)
    write_volume(root / MASK, spot, MNI)
    voxels = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], np.uint8)
    np.savez(root / SHAPES, voxels=voxels, offsets=np.array([0, 2, 3]))
    return root


def load(root: Path):
    return load_library(root / "labels", root / "shapes", root / "masks")


def damage(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[len(content) // 2 :] = content[len(content) // 2 : -7]
        content[60] ^= 255
        (root / name).write_bytes(content)

    return change


def pack(**arrays: object) -> Callable[[Path], None]:
    return lambda root: np.savez(root / SHAPES, **arrays)  # pyright: ignore[reportArgumentType]


def deflate_badly(root: Path) -> None:
    """Writes an archive whose compressed content begins with a reserved kind of block."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, voxels=VOXELS, offsets=np.array([0, 3]))
    content = bytearray(buffer.getvalue())
    name, extra = (int.from_bytes(content[at : at + 2], "little") for at in (26, 28))
    content[30 + name + extra] |= 0b110
    (root / SHAPES).write_bytes(content)


VOXELS = np.zeros((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (SHAPES, damage(SHAPES), "is damaged, or holds no lesions"),
        (SHAPES, deflate_badly, "is damaged, or holds no lesions"),
        (SHAPES, lambda root: (root / SHAPES).write_bytes(b""), "is damaged, or holds no"),
        (SHAPES, lambda root: (root / SHAPES).write_text("nothing"), "is damaged, or holds no"),
        (SHAPES, lambda root: np.save(root / "shapes/x.npy", VOXELS), None),
        (SHAPES, pack(voxels=VOXELS), "is damaged, or holds no"),
        (SHAPES, pack(voxels=VOXELS, offsets=np.array([0, 4])), "is damaged, or holds no"),
        (SHAPES, pack(voxels=VOXELS, offsets=np.array([0, 2, 1, 3])), "is damaged, or holds"),
        (SHAPES, pack(voxels=VOXELS, offsets=np.array([0])), "is damaged, or holds no"),
        (SHAPES, pack(voxels=VOXELS, offsets=np.array([object()])), "is damaged, or holds"),
        (SHAPES, pack(voxels=VOXELS[:, :2], offsets=np.array([0, 3])), "is damaged, or holds"),
        (SHAPES, lambda root: (root / SHAPES).unlink(), "holds no lesion shapes"),
        (PRIOR, lambda root: (root / PRIOR).unlink(), "holds no prior map"),
        (MASK, lambda root: (root / MASK).unlink(), "holds no lesion mask"),
        (LABELS, lambda root: shutil.rmtree(root / "labels"), "holds no label map"),
        (LABELS, damage(LABELS), "gzip stream is corrupt"),
        (LABELS, lambda r: write_volume(r / LABELS, labels() * 0, np.eye(4)), "holds no labels"),
        (LABELS, lambda r: write_volume(r / LABELS, labels() % 3, np.eye(4)), "holds no labels"),
        (LABELS, lambda r: write_volume(r / LABELS, labels(), 2 * np.eye(4)), "2×2×2 mm; label"),
        (MASK, lambda r: write_volume(r / MASK, labels(), np.eye(4)), "so resample it"),
        (MASK, lambda r: write_volume(r / MASK, np.ones(MNI_SHAPE), np.eye(4)), "so resample it"),
        (PRIOR, lambda r: write_volume(r / PRIOR, np.zeros(MNI_SHAPE), MNI), "zero everywhere"),
    ],
)
def test_invalid_source_file_is_refused_by_name(
    whole: Path, name: str, change: Callable[[Path], object], message: str | None, tmp_path: Path
):
    root = Path(shutil.copytree(whole, tmp_path / "copy"))
    change(root)
    if message is None:
        assert len(load(root).anatomies) == 1
        return
    with pytest.raises(InputError, match=message) as raised:
        load(root)
    assert str(root / Path(name).parent) in str(raised.value)


def test_damaged_library_is_refused_by_name(whole: Path, tmp_path: Path):
    folder = tmp_path / "library"
    (tmp_path / "library.part/anatomy-099").mkdir(parents=True)  # left by a kill
    save_library(folder, load(whole))
    assert len(open_library(folder).anatomies) == 1
    path = folder / "lesions/voxels.npy"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"voxels\.npy: is missing or damaged; remove "):
        open_library(folder)


def test_failed_write_leaves_no_folder(tmp_path: Path):
    def fill() -> None:
        with write_folder(tmp_path / "out") as partial:
            (partial / "half").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match="cannot be written"):
        fill()
    assert list(tmp_path.iterdir()) == []
