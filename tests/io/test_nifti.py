"""NIfTI: what is read is what was written, and nothing else is read at all."""

from __future__ import annotations

import errno
import gzip
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from flaxflair.files import WriteError
from flaxflair.nifti import read_volume, write_volume
from flaxflair.volume import GeometryError, InputError
from tests.disks import no_room_beyond, unprivileged
from tests.samples import AFFINE, image_of

ARRAY = image_of("nifti", (5, 6, 4))
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def encode(array: Any, affine: Any = AFFINE, **fields: Any) -> bytes:
    """Returns NIfTI-1 bytes, header fields overwritten unchecked."""
    content = nib.Nifti1Image(array, affine).to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[348:]


PLAIN = encode(ARRAY)
ZIPPED = gzip.compress(PLAIN, mtime=0)
WITH_NAN, WITH_INFINITY = ARRAY.copy(), ARRAY.copy()
WITH_NAN[1, 2, 3] = np.nan
WITH_INFINITY[1, 2, 3] = np.inf

# case: (file name, content, what the message says was found)
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.nii.gz", b"", "is empty"),
    "truncated": ("a.nii", PLAIN[:-1], f"cut short, {len(PLAIN) - 1} of {len(PLAIN)} bytes"),
    "truncated within its header": ("a.nii", PLAIN[:200], "not a NIfTI-1 image"),
    "truncated gzip": ("a.nii.gz", ZIPPED[: len(ZIPPED) // 2], "corrupt or cut short"),
    "gzip without its last byte": ("a.nii.gz", ZIPPED[:-1], "corrupt or cut short"),
    "gzip header only": ("a.nii.gz", ZIPPED[:10], "corrupt or cut short"),
    "gzip of a truncated file": ("a.nii.gz", gzip.compress(PLAIN[:-1]), "is cut short"),
    "wrong CRC": (
        "a.nii.gz",
        ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 255]) + ZIPPED[-7:],
        "corrupt or cut short",
    ),
    "damaged second member": (
        "a.nii.gz",
        gzip.compress(PLAIN[:400]) + gzip.compress(PLAIN[400:])[:-3],
        "corrupt or cut short",
    ),
    "web page": ("a.nii.gz", b"\n<!DOCTYPE html><html><body>Sign in</body>", "holds a web page"),
    "web page in capitals": ("a.nii", b"<HTML><BODY>404</BODY></HTML>", "holds a web page"),
    "git-lfs pointer": (
        "a.nii.gz",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "holds a pointer",
    ),
    "git-annex pointer": ("a.nii.gz", b"/annex/objects/MD5E-s9--0.nii.gz\n", "holds a pointer"),
    "not gzip, named .gz": ("a.nii.gz", PLAIN, "named .gz and is not gzip"),
    "text": ("a.nii", b"subject,age\n01,40\n" * 40, "not a NIfTI-1 image"),
    "NIfTI-2": ("a.nii", nib.Nifti2Image(ARRAY, AFFINE).to_bytes(), "not a NIfTI-1 image"),
    "two volumes": ("a.nii", encode(np.stack([ARRAY, ARRAY], -1)), "has shape 5×6×4×2"),
    "one slice": ("a.nii", encode(ARRAY[..., 0]), "has shape 5×6"),
    "complex": ("a.nii", encode(ARRAY.astype(np.complex64)), "holds complex values"),
    "RGB": ("a.nii", encode(np.zeros((5, 6, 4), RGB)), "holds RGB values"),
    "NaN": ("a.nii", encode(WITH_NAN), "1 voxels are NaN or infinite"),
    "infinity": ("a.nii", encode(WITH_INFINITY), "1 voxels are NaN or infinite"),
    "beyond float32": ("a.nii", encode(np.full((3, 3, 3), 1e300)), "27 voxels are NaN or infinite"),
    "vast": ("a.nii", encode(ARRAY, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "30000×30000×30000"),
    "large": ("a.nii", encode(ARRAY, dim=[3, 1200, 1200, 1200, 1, 1, 1, 1]), "is cut short"),
    "axis without voxels": ("a.nii", encode(ARRAY, dim=[3, 5, -6, 4, 1, 1, 1, 1]), "5×-6×4 voxels"),
    "voxels within the header": ("a.nii", encode(ARRAY, vox_offset=0), "start at byte 0"),
    "voxels nowhere": ("a.nii", encode(ARRAY, vox_offset=np.nan), "start at byte nan"),
}
MISPLACED: dict[str, tuple[bytes, str]] = {
    "singular": (encode(ARRAY, srow_x=[0, 0, 0, 1]), "affine is singular"),
    "flat": (encode(ARRAY, srow_x=AFFINE[1], srow_y=AFFINE[1]), "affine is singular"),
    "not finite": (encode(ARRAY, srow_x=[np.nan, 0, 0, 0]), "affine is not finite"),
    "no rotation": (encode(ARRAY, sform_code=0, qform_code=1, quatern_b=9), "cannot be read"),
    "unplaced": (encode(ARRAY, sform_code=0, qform_code=0), "qform_code and sform_code are 0"),
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """A function that writes bytes to a file of that name, and returns its path."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_trusted_is_refused_by_name_with_what_was_found_and_what_to_do(
    put, case: str
):
    name, content, found = REFUSED[case]
    path = put(name, content)
    with pytest.raises(InputError) as refusal:
        read_volume(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert found in message
    assert message.count("; ") == 1


@pytest.mark.parametrize("case", MISPLACED)
def test_an_image_whose_place_in_space_is_unknown_is_a_geometry_error(put, case: str):
    content, found = MISPLACED[case]
    path = put("a.nii", content)
    with pytest.raises(GeometryError, match=found) as refusal:
        read_volume(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "; " in str(refusal.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.nii: no such file; "):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(InputError, match=rf"{tmp_path.name}: cannot be read .*; "):
        read_volume(tmp_path)


def test_a_flipped_bit_in_a_gzip_stream_is_refused_or_changes_nothing(put):
    rng = np.random.default_rng(0)
    frame = [*range(10 * 8), *range((len(ZIPPED) - 8) * 8, len(ZIPPED) * 8)]
    path = put("a.nii.gz", ZIPPED)
    refused: list[str] = []
    for bit in [*frame, *rng.integers(len(ZIPPED) * 8, size=400)]:
        flipped = bytearray(ZIPPED)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        try:
            volume = read_volume(path)
        except InputError as refusal:
            refused.append(str(refusal))
        else:
            # gzip has bits that carry no data: its time stamp, padding before a stored block.
            np.testing.assert_array_equal(volume.array, ARRAY)
    assert len(refused) > 400
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_a_flipped_bit_in_a_plain_header_never_escapes_as_another_error(put):
    for bit in np.random.default_rng(0).integers(348 * 8, size=500):
        flipped = bytearray(PLAIN)
        flipped[bit // 8] ^= 1 << (bit % 8)
        try:
            read_volume(put("a.nii", flipped))
        except InputError:
            continue


@pytest.mark.parametrize("case", ["vast", "large"])
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(put, case: str):
    path = put("a.nii.gz", gzip.compress(REFUSED[case][1]))
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii", PLAIN),
        ("a.nii.gz", ZIPPED),
        ("a.nii", ZIPPED),
        ("a.nii.gz", gzip.compress(PLAIN[:400]) + gzip.compress(PLAIN[400:])),
        ("a.nii.gz", ZIPPED + bytes(512)),
        ("a.nii", encode(ARRAY[..., None])),
        ("a.nii", encode(ARRAY.astype(np.float64))),
        ("a.nii", nib.Nifti1Image(ARRAY, AFFINE, nib.Nifti1Header(endianness=">")).to_bytes()),
    ],
    ids=[
        "plain",
        "gzip",
        "gzip named .nii",
        "two gzip members",
        "gzip padded with zeros",
        "4-D of one volume",
        "float64",
        "big-endian",
    ],
)
def test_every_spelling_of_one_image_reads_the_same(put, name: str, content: bytes):
    volume = read_volume(put(name, content))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.array.dtype == np.float32
    assert volume.array.dtype.isnative
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    assert volume.geometry.shape == ARRAY.shape


def test_the_scaling_of_an_integer_image_is_applied(put):
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = put("a.nii", encode(stored, scl_slope=0.5, scl_inter=-3))
    np.testing.assert_array_equal(read_volume(path).array, stored * np.float32(0.5) - 3)


def test_an_image_placed_by_its_qform_alone_keeps_its_place(put):
    image = nib.Nifti1Image(ARRAY, None)
    affine = from_matvec(np.diag([-0.9, 0.8, 3.0]), [10, -20, 30])
    image.set_qform(affine, code=1)
    volume = read_volume(put("a.nii", image.to_bytes()))
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_reading_undoes_writing_in_values_and_in_place(tmp_path: Path, name: str):
    write_volume(tmp_path / name, ARRAY.transpose(2, 0, 1), AFFINE)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY.transpose(2, 0, 1))
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(volume.geometry.voxel_size, np.linalg.norm(AFFINE[:3, :3], axis=0))


def test_a_mask_is_written_as_bytes_and_anything_else_as_float32_never_rescaled(tmp_path: Path):
    for array, kind in ((ARRAY > 99, np.uint8), (ARRAY.astype(np.int16), np.float32)):
        write_volume(tmp_path / "a.nii", array, AFFINE)
        header: Any = nib.Nifti1Image.from_bytes((tmp_path / "a.nii").read_bytes()).header
        assert header.get_data_dtype() == kind
        assert header.get_slope_inter() in ((None, None), (1.0, 0.0))
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, array)


def test_both_forms_of_a_written_header_say_the_same(tmp_path: Path):
    rotation = np.linalg.qr(AFFINE[:3, :3])[0]
    affine = from_matvec(rotation @ np.diag([1, 1, 3]), AFFINE[:3, 3])
    write_volume(tmp_path / "a.nii", ARRAY, affine)
    header: Any = nib.Nifti1Image.from_bytes((tmp_path / "a.nii").read_bytes()).header
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)
    assert header["qform_code"] == header["sform_code"] == 1
    assert header.get_xyzt_units()[0] == "mm"


def test_writing_the_same_image_twice_gives_the_same_bytes(tmp_path: Path):
    write_volume(tmp_path / "a.nii.gz", ARRAY, AFFINE)
    write_volume(tmp_path / "b.nii.gz", ARRAY, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_write_that_runs_out_of_room_leaves_what_was_there_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.nii"
    write_volume(path, ARRAY, AFFINE)
    with no_room_beyond(4096), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        write_volume(path, np.ones((40, 40, 40)), AFFINE)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)


def test_a_write_that_ends_on_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_volume(tmp_path / "a.nii.gz", ARRAY, AFFINE)
    assert not list(tmp_path.iterdir())


def test_a_write_into_a_read_only_folder_is_refused_and_leaves_nothing():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with unprivileged(), pytest.raises(WriteError, match="Permission denied"):
            write_volume(Path(folder, "a.nii"), ARRAY, AFFINE)
        assert not os.listdir(folder)
        os.chmod(folder, 0o755)


def test_grids_match_to_a_hundredth_of_a_voxel(put):
    own = read_volume(put("a.nii", PLAIN)).geometry
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.005
    far[0, 0] *= 1.01
    assert own.matches(read_volume(put("b.nii", encode(ARRAY, near))).geometry)
    assert not own.matches(read_volume(put("b.nii", encode(ARRAY, far))).geometry)
    assert not own.matches(read_volume(put("b.nii", encode(ARRAY[1:]))).geometry)
