"""NIfTI in and out: whole-stream checks, one volume a file, geometry that can be trusted.

Knows nothing of BIDS, sequences or subjects.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError

from flaxflair.files import write_bytes
from flaxflair.volume import Array, Geometry, GeometryError, InputError, Volume

# int16 header fields end at 32,767 an axis; this is far above any scan, and is checked from the
# header alone, before memory is taken.
MAX_VOXELS = 2**31
HEADER_BYTES = 352
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's number for a stream with gzip's header
_ENOUGH = 65_536  # stored bytes: a header is among them, however it was compressed


def _read(path: Path, count: int = -1) -> bytes:
    """Returns the first bytes of a file as it is stored, or all of them."""
    try:
        with open(path, "rb") as stream:
            return stream.read(count)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a NIfTI image") from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); give a file you may read") from None


def _is_zipped(path: Path, raw: bytes) -> bool:
    """Tells whether a file that begins so is gzip, and refuses what is no image at all."""
    if not raw:
        raise InputError(f"{path}: the file is empty; copy it again")
    if raw[:2] != _GZIP:
        head = raw[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if head.startswith((b"<!", b"<html", b"<head", b"<?xml")):
            raise InputError(f"{path}: holds a web page, not an image; download the file again")
        if head.startswith((b"version https://git-lfs", b"../", b".git/annex", b"/annex")):
            raise InputError(f"{path}: holds a pointer, not an image; fetch its content first")
        if path.name.endswith(".gz"):
            raise InputError(f"{path}: is named .gz and is not gzip; rename or copy it again")
        return False
    return True


def _decompress(path: Path, *, start: bool = False) -> bytes:
    """Returns the NIfTI bytes of a file, every gzip member read to its CRC; or its header alone."""
    raw = _read(path, _ENOUGH if start else -1)
    if not _is_zipped(path, raw):
        return raw[:HEADER_BYTES] if start else raw
    try:
        if start:
            return isal_zlib.decompressobj(wbits=_GZIP_WINDOW).decompress(raw, HEADER_BYTES)
        return igzip.decompress(raw)
    # isal's stub calls its exception an instance.
    except (EOFError, zlib.error, IsalError, igzip.BadGzipFile) as error:  # pyright: ignore
        raise InputError(
            f"{path}: the gzip stream is corrupt or cut short ({error}); copy it again"
        ) from None


def _read_header(path: Path) -> nib.Nifti1Header:
    """Reads and checks a header, whatever the file goes on to claim or to hold."""
    start = _decompress(path, start=True)
    if len(start) < HEADER_BYTES:
        start = _decompress(path)  # a stream that is cut short says so
    try:
        header = nib.Nifti1Image.header_class.from_fileobj(_Head(start))
    except Exception as error:  # nibabel raises many kinds, all of them "not a NIfTI header"
        raise InputError(f"{path}: is not a NIfTI-1 image ({error}); convert it to one") from None
    _check_header(path, header)
    return header


def _check_header(path: Path, header: nib.Nifti1Header) -> None:
    """Refuses what is not one real, finite, placed 3-D volume, from the header alone."""
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 3 or any(n > 1 for n in shape[3:]):
        raise InputError(
            f"{path}: has shape {'×'.join(map(str, shape))}; one 3-D volume is needed, "
            "so extract the volume to use"
        )
    if any(n < 1 for n in shape) or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(
            f"{path}: claims {'×'.join(map(str, shape))} voxels; write its header anew"
        )
    kind = header.get_data_dtype()
    if kind.fields is not None or kind.kind == "c":
        what = "RGB" if kind.fields is not None else "complex"
        raise InputError(f"{path}: holds {what} values; a real-valued image is needed")
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        raise GeometryError(
            f"{path}: both qform_code and sform_code are 0, so its place in space is unknown; "
            "set one from the scanner's DICOM"
        )
    # nibabel takes an offset of 0 literally, and reads the header as voxels.
    offset = float(header["vox_offset"])
    if not HEADER_BYTES <= offset < np.inf:
        raise InputError(
            f"{path}: claims that its voxels start at byte {offset:g}; write its header anew"
        )


def _affine(path: Path, header: nib.Nifti1Header) -> Array:
    """Returns the voxel-to-mm affine, refusing one that is singular or not finite."""
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise GeometryError(
            f"{path}: its affine cannot be read ({error}); write its header anew"
        ) from None
    if not np.isfinite(affine).all():
        raise GeometryError(f"{path}: its affine is not finite; write its header anew")
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if (columns == 0).any() or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3:
        raise GeometryError(f"{path}: its affine is singular; write its header anew")
    return affine


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Reads one 3-D NIfTI volume as float32, its whole stream checked.

    A `.nii.gz` is decompressed whole, so that a flipped bit anywhere, or a CRC that is wrong, is an
    error; nibabel alone reads such a file without a word. Scaling (`scl_slope`) is applied.

    Args:
      path: `.nii` or `.nii.gz`.

    Returns:
      The volume, float32[x, y, z], and its geometry in mm (RAS+).

    Raises:
      InputError: missing, empty, truncated or corrupt file; a pointer or a web page in its place;
        more than one volume; complex or RGB; NaN or infinity.
      GeometryError: affine singular or not finite, or both form codes zero.
    """
    path = Path(path)
    header = _read_header(path)
    content = _decompress(path)
    affine = _affine(path, header)
    shape = tuple(int(n) for n in header.get_data_shape())
    needed = int(header["vox_offset"]) + int(np.prod(shape)) * header.get_data_dtype().itemsize
    if len(content) < needed:
        raise InputError(f"{path}: is cut short, {len(content)} of {needed} bytes; copy it again")
    try:
        image = nib.Nifti1Image.from_bytes(content)
    except Exception as error:
        raise InputError(f"{path}: is not a NIfTI-1 image ({error}); convert it to one") from None
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape[:3])
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise InputError(f"{path}: {count} voxels are NaN or infinite; replace or mask them")
    x, y, z = array.shape
    return Volume(array, Geometry((x, y, z), affine))


@dataclass(frozen=True)
class Forms:
    """What a header says of an image's place in space, twice.

    Attributes:
      qform: its code, 0 if there is none.
      sform: its code, 0 if there is none; `read_volume` goes by this one if there is.
      gap: mm, by which the two differ at most in the field of view; 0 unless there are both.
      dtype: of the stored voxels (`int16`).
    """

    qform: int
    sform: int
    gap: float
    dtype: str


def read_forms(path: str | os.PathLike[str]) -> Forms:
    """Reads a header alone; the file is one that `read_volume` accepts."""
    path = Path(path)
    header = _read_header(path)
    qform, sform, gap = int(header["qform_code"]), int(header["sform_code"]), 0.0
    if qform and sform:
        far = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
        far[:, :3] *= header.get_data_shape()[:3]
        apart = cast(Array, header.get_qform()) - cast(Array, header.get_sform())
        gap = float(np.abs(far @ apart.T).max())
    return Forms(qform, sform, gap, str(header.get_data_dtype()))


class _Head:
    """A file-like view of the first bytes, all that nibabel's header reader asks for."""

    def __init__(self, content: bytes):
        self._content = content
        self._at = 0

    def read(self, count: int) -> bytes:
        chunk = self._content[self._at : self._at + count]
        self._at += len(chunk)
        return chunk


def pack_volume(array: Array, affine: Array, low: float, high: float) -> bytes:
    """Returns a `.nii.gz` for a screen: 8 bits a voxel, from `low` to `high`, with its scaling.

    Args:
      array: [x, y, z].
      affine: float64[4, 4], voxel indices to mm (RAS+).
      low: what is shown as 0; less is cut off.
      high: what is shown as 255; more is cut off.
    """
    step = (high - low) / 255 or 1.0
    levels = np.clip(np.rint((array - low) / step), 0, 255).astype(np.uint8)
    image = nib.Nifti1Image(np.ascontiguousarray(levels), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    content = bytearray(image.to_bytes())
    # nibabel sets the scaling aside on writing; it lies at bytes 112 and 116 of the header.
    content[112:120] = np.array([step, low], "<f4").tobytes()
    return igzip.compress(bytes(content), compresslevel=2, mtime=0)


def write_volume(path: str | os.PathLike[str], array: Array, affine: Array) -> None:
    """Writes one volume, whole or not at all.

    A fresh header with both forms set: an inherited integer header would rescale silently. Boolean
    and unsigned 8-bit arrays (masks, labels) are written as uint8, everything else as float32.

    Args:
      path: `.nii` or `.nii.gz`; the folder must exist.
      array: [x, y, z].
      affine: float64[4, 4], voxel indices to mm (RAS+).

    Raises:
      OSError: the disk is full or the folder read-only; nothing is left behind.
    """
    path = Path(path)
    kind = np.uint8 if array.dtype in (np.bool_, np.uint8) else np.float32
    image = nib.Nifti1Image(np.ascontiguousarray(array, dtype=kind), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = igzip.compress(content, compresslevel=1, mtime=0)
    write_bytes(path, content)
