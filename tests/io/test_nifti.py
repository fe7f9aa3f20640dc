"""NIfTI: reading inverts writing, and files with any inconsistency are refused."""

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

from flaxflair.core.atomic_files import WriteError
from flaxflair.core.records import Array, GeometryError, InputError
from flaxflair.io import nifti
from flaxflair.io.nifti import expect_image_output, pack_volume, read_volume, write_volume
from tests.disks import no_room_beyond, unprivileged
from tests.samples import AFFINE, image_of

ARRAY = image_of("nifti", (5, 6, 4))
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def encode(
    array: Any,
    affine: Any = AFFINE,
    *,
    kind: Any = nib.Nifti1Image,
    order: str = "<",
    **fields: Any,
) -> bytes:
    """Returns the bytes of a NIfTI, header fields overwritten unchecked."""
    start = kind.header_class(endianness=order)
    start.set_data_dtype(array.dtype)
    content = kind(array, affine, start).to_bytes()
    size = kind.header_class.sizeof_hdr
    header = kind.header_class(content[:size], order, check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[size:]


def extend(*blocks: tuple[int, bytes], offset: int = 0) -> bytes:
    """Returns NIfTI bytes with header extensions, given as stated size and content."""
    extensions = b"".join(
        np.array([size, 6], "<i4").tobytes() + content for size, content in blocks
    )
    header, voxels = PLAIN[:348], PLAIN[352:]
    start = nib.Nifti1Header(header, check=False)
    start["vox_offset"] = offset or 352 + len(extensions)
    return start.binaryblock + bytes([1, 0, 0, 0]) + extensions + voxels


def by_qform(array: Any, **fields: Any) -> bytes:
    """Returns NIfTI bytes with a qform only: no rotation, voxels of 1 mm."""
    place = {"sform_code": 0, "qform_code": 1, "pixdim": [1] * 8, "quatern_b": 0}
    return encode(array, np.eye(4), **{**place, **fields})


PLAIN = encode(ARRAY)
ZIPPED = gzip.compress(PLAIN, mtime=0)
WITH_NAN, WITH_INFINITY = ARRAY.copy(), ARRAY.copy()
WITH_NAN[1, 2, 3] = np.nan
WITH_INFINITY[1, 2, 3] = np.inf

# case: (file name, content, part of the message)
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.nii.gz", b"", "is empty"),
    "truncated": ("a.nii", PLAIN[:-1], f"cut short, {len(PLAIN) - 1} of {len(PLAIN)} bytes"),
    "truncated within its header": ("a.nii", PLAIN[:200], "is cut short within its header"),
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
    "text": ("a.nii", b"subject,age\n01,40\n" * 40, "is not a NIfTI image"),
    "ANALYZE": ("a.nii", encode(ARRAY, magic=b""), "is an ANALYZE 7.5 image"),
    "no magic that is known": ("a.nii", encode(ARRAY, magic=b"n+7"), "is not a NIfTI image"),
    "voxels in another file": ("a.nii", encode(ARRAY, magic=b"ni1"), "are in another file"),
    "NIfTI-2 sent as text": (
        "a.nii",
        encode(ARRAY, kind=nib.Nifti2Image, eol_check=[10, 26, 10, 0]),
        "was transferred as text",
    ),
    "two volumes": ("a.nii", encode(np.stack([ARRAY, ARRAY], -1)), "the shorter the PD"),
    "one slice": ("a.nii", encode(ARRAY[..., 0]), "has shape 5×6"),
    "complex": ("a.nii", encode(ARRAY.astype(np.complex64)), "holds complex values"),
    "RGB": ("a.nii", encode(np.zeros((5, 6, 4), RGB)), "holds RGB values"),
    "NaN": ("a.nii", encode(WITH_NAN), "1 voxels are NaN or infinite"),
    "infinity": ("a.nii", encode(WITH_INFINITY), "1 voxels are NaN or infinite"),
    "beyond float32": ("a.nii", encode(np.full((3, 3, 3), 1e300)), "27 voxels are NaN or infinite"),
    "vast": ("a.nii", encode(ARRAY, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "30000×30000×30000"),
    "large": ("a.nii", encode(ARRAY, dim=[3, 500, 500, 500, 1, 1, 1, 1]), "is cut short"),
    "bytes after the last voxel": ("a.nii", PLAIN + b"\0\1", "continues after the last of its"),
    "a slice after the last voxel": (
        "a.nii",
        PLAIN + bytes(120),
        "continues after the last of its",
    ),
    "fewer voxels than there are": (
        "a.nii",
        encode(ARRAY, dim=[3, 5, 6, 3, 1, 1, 1, 1]),
        "continues after the last of its 5×6×3 voxels",
    ),
    "a narrower datatype": (
        "a.nii",
        encode(ARRAY, datatype=4, bitpix=16),
        "continues after the last of its 5×6×4 voxels of int16",
    ),
    "bitpix against datatype": ("a.nii", encode(ARRAY, bitpix=16), "16 bits (bitpix), and float32"),
    "datatype unknown": ("a.nii", encode(ARRAY, datatype=17), "unknown datatype 17"),
    "bits": ("a.nii", encode(ARRAY, datatype=1, bitpix=1), "has the datatype 1;"),
    "dimensions": ("a.nii", encode(ARRAY, dim=[9] * 8), "claims 9 dimensions"),
    "infinite slope": ("a.nii", encode(ARRAY, scl_slope=np.inf, scl_inter=0), "by inf and 0"),
    "infinite intercept": ("a.nii", encode(ARRAY, scl_slope=1, scl_inter=-np.inf), "1 and -inf"),
    "no slope, an intercept": ("a.nii", encode(ARRAY, scl_slope=np.nan, scl_inter=3), "nan and 3"),
    "slope beyond float32": ("a.nii", encode(ARRAY, scl_slope=3e38, scl_inter=0), "are NaN or inf"),
    "part of a byte": ("a.nii", encode(ARRAY, vox_offset=352.5), "start at byte 352.5"),
    "an extension of a gigabyte": ("a.nii", encode(ARRAY, vox_offset=2e9), "start at byte 2e+09"),
    "an extension cut short": ("a.nii", extend((16, bytes(8)), offset=2000), "is cut short"),
    "axis without voxels": ("a.nii", encode(ARRAY, dim=[3, 5, -6, 4, 1, 1, 1, 1]), "5×-6×4 voxels"),
    "voxels within the header": ("a.nii", encode(ARRAY, vox_offset=0), "start at byte 0"),
    "voxels nowhere": ("a.nii", encode(ARRAY, vox_offset=np.nan), "start at byte nan"),
}
MISPLACED: dict[str, tuple[bytes, str]] = {
    "singular": (encode(ARRAY, srow_x=[0, 0, 0, 1]), "affine is singular"),
    "flat": (encode(ARRAY, srow_x=AFFINE[1], srow_y=AFFINE[1]), "affine is singular"),
    "not finite": (encode(ARRAY, srow_x=[np.nan, 0, 0, 0]), "affine is not finite"),
    "no rotation": (by_qform(ARRAY, quatern_b=9), "its quaternion is not a rotation"),
    "no number": (by_qform(ARRAY, quatern_c=np.nan), "its quaternion is not a rotation"),
    "voxels of no size": (by_qform(ARRAY, pixdim=[1, 0, 1, 1] + [1] * 4), "is not finite"),
    "handedness unknown": (by_qform(ARRAY, pixdim=[3] + [1] * 7), "is not finite"),
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
def test_a_bad_file_is_refused_with_its_name_the_problem_and_the_remedy(put, case: str):
    name, content, found = REFUSED[case]
    path = put(name, content)
    with pytest.raises(InputError) as refusal:
        read_volume(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert found in message
    assert message.count("; ") == 1


@pytest.mark.parametrize("case", MISPLACED)
def test_an_unknown_orientation_is_a_geometry_error(put, case: str):
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


def test_a_flipped_bit_in_a_plain_header_raises_no_other_error(put):
    for bit in np.random.default_rng(0).integers(348 * 8, size=500):
        flipped = bytearray(PLAIN)
        flipped[bit // 8] ^= 1 << (bit % 8)
        try:
            read_volume(put("a.nii", flipped))
        except InputError:
            continue


@pytest.mark.parametrize("case", ["vast", "large"])
def test_a_header_of_too_many_voxels_is_refused_before_allocation(put, case: str):
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
        ("a.nii", encode(ARRAY, order=">")),
        ("a.nii", encode(ARRAY, kind=nib.Nifti2Image)),
        ("a.nii", encode(ARRAY, kind=nib.Nifti2Image, order=">")),
        ("a.nii", PLAIN + bytes(100)),
        ("a.nii", encode(ARRAY, scl_slope=np.nan, scl_inter=np.nan)),
        ("a.nii", encode(ARRAY, scl_slope=0, scl_inter=7)),
        (
            "a.nii",
            encode(ARRAY, from_matvec(AFFINE[:3, :3] / 1e3, AFFINE[:3, 3] / 1e3), xyzt_units=9),
        ),
        (
            "a.nii",
            encode(ARRAY, from_matvec(AFFINE[:3, :3] * 1e3, AFFINE[:3, 3] * 1e3), xyzt_units=3),
        ),
        ("a.nii", extend((32, bytes(24)), (48, b"a history".ljust(40)))),
        ("a.nii.gz", gzip.compress(extend((2**22, np.random.default_rng(0).bytes(2**22 - 8))))),
        ("a.nii", extend((0, bytes(24)))),
        ("a.nii", extend((-16, bytes(24)))),
        ("a.nii", extend((2**31 - 1, bytes(24)))),
        ("a.nii", extend((17, bytes(9)))),
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
        "NIfTI-2",
        "NIfTI-2, big-endian",
        "padded with zeros",
        "no scaling, as written by nibabel",
        "no scaling, by the standard",
        "in metres",
        "in micrometres",
        "two extensions",
        "an extension of megabytes",
        "an extension of no size",
        "an extension of a negative size",
        "an extension larger than the file",
        "an extension of an odd size",
    ],
)
def test_all_encodings_of_one_image_give_the_same_volume(put, name: str, content: bytes):
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


def test_a_qform_without_sform_gives_the_affine(put):
    image = nib.Nifti1Image(ARRAY, None)
    affine = from_matvec(np.diag([-0.9, 0.8, 3.0]), [10, -20, 30])
    image.set_qform(affine, code=1)
    volume = read_volume(put("a.nii", image.to_bytes()))
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-5)


@pytest.mark.parametrize("given", ["a.hdr", "a.img"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_of_files_is_read_by_the_name_of_either(
    tmp_path: Path, kind: Any, suffix: str, given: str
):
    nib.save(kind(ARRAY, AFFINE), tmp_path / f"a.img{suffix}")
    assert not list(tmp_path.glob("*.nii*"))
    volume = read_volume(tmp_path / (given + suffix))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("lost", ["a.hdr", "a.img"])
def test_an_incomplete_pair_is_refused_with_the_missing_name(tmp_path: Path, lost: str):
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.img")
    (tmp_path / lost).unlink()
    (present,) = tmp_path.iterdir()
    with pytest.raises(InputError, match=rf"{present}: .* of a pair, and {lost} is missing; add"):
        read_volume(present)


def test_a_broken_link_is_refused_with_its_remedy(tmp_path: Path):
    annexed, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    annexed.symlink_to("../.git/annex/objects/x1/MD5E-s9--0.nii.gz")
    other.symlink_to("nowhere.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz: .* 'datalad get'"):
        read_volume(annexed)
    with pytest.raises(InputError, match=r"b\.nii\.gz: is a link to nowhere\.nii\.gz, which does"):
        read_volume(other)


@pytest.mark.parametrize("name", ["a.mgz", "a.NII", "a", "a.nii.zip", "a.hdr", ".nii.gz", "a.gz"])
def test_an_output_name_of_another_format_is_refused(tmp_path: Path, name: str):
    with pytest.raises(WriteError, match=r": is written as \.nii or \.nii\.gz; name such"):
        expect_image_output(tmp_path / name, [])


def test_an_output_that_is_a_folder_or_an_input_is_refused(tmp_path: Path):
    expect_image_output(tmp_path / "a.nii", [])
    (tmp_path / "b.nii").mkdir()
    with pytest.raises(WriteError, match=r"b\.nii: is a folder"):
        expect_image_output(tmp_path / "b.nii", [])
    with pytest.raises(WriteError, match=r"a\.nii\.gz: is one of the inputs"):
        expect_image_output(tmp_path / "a.nii.gz", [tmp_path / "a.nii.gz"])


def test_a_pipe_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: is not a regular file; "):
        read_volume(tmp_path / "a.nii")


def test_a_quaternion_that_is_too_long_by_rounding_is_read(put):
    half = np.sqrt(0.5) * (1 + 1e-6)
    content = by_qform(ARRAY, quatern_b=half, quatern_c=half)
    affine = read_volume(put("a.nii", content)).geometry.affine
    np.testing.assert_allclose(affine[:3, :3], [[0, 1, 0], [1, 0, 0], [0, 0, -1]], atol=1e-5)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_longer_stream_is_not_read_beyond_its_voxels(put, suffix: str):
    path = put(f"a.nii{suffix}", gzip.compress(PLAIN + bytes(2**28)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="continues after the last of its"):
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_reading_inverts_writing(tmp_path: Path, name: str):
    write_volume(tmp_path / name, ARRAY.transpose(2, 0, 1), AFFINE)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY.transpose(2, 0, 1))
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(volume.geometry.voxel_size, np.linalg.norm(AFFINE[:3, :3], axis=0))


def test_masks_are_written_as_uint8_and_other_arrays_as_float32_without_scaling(tmp_path: Path):
    for array, kind in ((ARRAY > 99, np.uint8), (ARRAY.astype(np.int16), np.float32)):
        write_volume(tmp_path / "a.nii", array, AFFINE)
        header: Any = nib.Nifti1Image.from_bytes((tmp_path / "a.nii").read_bytes()).header
        assert header.get_data_dtype() == kind
        assert header.get_slope_inter() in ((None, None), (1.0, 0.0))
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, array)


def test_qform_and_sform_of_a_written_header_are_equal(tmp_path: Path):
    rotation = np.linalg.qr(AFFINE[:3, :3])[0]
    affine = from_matvec(rotation @ np.diag([1, 1, 3]), AFFINE[:3, 3])
    write_volume(tmp_path / "a.nii", ARRAY, affine)
    header: Any = nib.Nifti1Image.from_bytes((tmp_path / "a.nii").read_bytes()).header
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)
    assert header["qform_code"] == header["sform_code"] == 1
    assert header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY), ARRAY[::-1].astype(np.float64)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_parts_of_a_file_join_to_the_file_of_nibabel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, array: Array
):
    monkeypatch.setattr(nifti, "_CHUNK", 10)  # a slice of 30 voxels a part
    write_volume(tmp_path / name, array, AFFINE)
    content = (tmp_path / name).read_bytes()
    image = nib.Nifti1Image(array.astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_qform(AFFINE, code="scanner")
    image.set_sform(AFFINE, code="scanner")
    assert (gzip.decompress(content) if name.endswith(".gz") else content) == image.to_bytes()


def test_image_for_display_has_8_bits_and_its_scaling():
    packed = gzip.decompress(pack_volume(ARRAY, AFFINE, 10.0, float(ARRAY.max())))
    image = nib.Nifti1Image.from_bytes(packed)
    assert image.get_data_dtype() == np.uint8
    step = (ARRAY.max() - 10.0) / 255
    expected = np.maximum(ARRAY, 10.0)
    np.testing.assert_allclose(np.asarray(image.dataobj), expected, atol=0.51 * step)


def test_writing_the_same_image_twice_gives_the_same_bytes(tmp_path: Path):
    write_volume(tmp_path / "a.nii.gz", ARRAY, AFFINE)
    write_volume(tmp_path / "b.nii.gz", ARRAY, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_failed_write_keeps_the_existing_file_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "a.nii"
    write_volume(path, ARRAY, AFFINE)
    with no_room_beyond(4096), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        write_volume(path, np.ones((40, 40, 40)), AFFINE)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)


def test_a_write_to_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_volume(tmp_path / "a.nii.gz", ARRAY, AFFINE)
    assert not list(tmp_path.iterdir())


def test_a_write_into_a_read_only_folder_is_refused_and_leaves_no_file():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with unprivileged(), pytest.raises(WriteError, match="Permission denied"):
            write_volume(Path(folder, "a.nii"), ARRAY, AFFINE)
        assert not os.listdir(folder)
        os.chmod(folder, 0o755)


def test_grids_match_to_a_hundredth_of_a_voxel(put):
    geometry = read_volume(put("a.nii", PLAIN)).geometry
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.005
    far[0, 0] *= 1.01
    assert geometry.matches(read_volume(put("b.nii", encode(ARRAY, near))).geometry)
    assert not geometry.matches(read_volume(put("b.nii", encode(ARRAY, far))).geometry)
    assert not geometry.matches(read_volume(put("b.nii", encode(ARRAY[1:]))).geometry)


@pytest.mark.parametrize("name", ["x" * 248, "ü" * 124], ids=["ASCII", "two bytes a letter"])
def test_a_name_of_the_maximum_length_is_written(tmp_path: Path, name: str):
    path = tmp_path / f"{name}.nii.gz"
    write_volume(path, ARRAY, AFFINE)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)
    assert list(tmp_path.iterdir()) == [path]
