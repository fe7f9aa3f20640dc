"""NIfTI in and out: whole-stream checks, one volume a file, geometry that can be trusted.

Knows nothing of BIDS, sequences or subjects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from flaxflair.core.atomic_files import WriteError, expect_output, write_bytes
from flaxflair.core.records import Array, Geometry, InputError, Volume
from flaxflair.io.gzip_stream import Stream, open_stream
from flaxflair.io.nifti_header import HEADER_BYTES, Forms, Header, parse_header

IMAGE_SUFFIXES = (".nii", ".nii.gz")
_CHUNK = 2**20  # voxels that are converted at a time


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Reads one 3-D NIfTI volume as float32, its whole stream checked.

    A `.nii.gz` is decompressed to its end, so that a flipped bit anywhere, or a CRC that is wrong,
    is an error; nibabel alone reads such a file without a word. Scaling (`scl_slope`) is applied,
    and lengths in metres or micrometres (`xyzt_units`) become mm. Header extensions are passed
    over. Memory beyond the array is a few MiB, whatever a stream expands to.

    Args:
      path: `.nii` or `.nii.gz`, NIfTI-1 or NIfTI-2; or either file of a pair, `.hdr` and `.img`.

    Returns:
      The volume, float32[x, y, z], and its geometry in mm (RAS+).

    Raises:
      InputError: missing, empty, truncated or corrupt file; a pointer or a web page in its place;
        a header that contradicts itself, or the length of the file; more than one volume; complex
        or RGB; NaN or infinity.
      GeometryError: affine singular or not finite, or both form codes zero.
    """
    first = _header_file(Path(path))
    with open_stream(first) as stream:
        header = parse_header(first, stream.read(HEADER_BYTES))
    path = _voxel_file(first) if header.separate else first
    with open_stream(path) as stream:
        array = _read_voxels(stream, header)
    return Volume(array, Geometry(header.shape, header.affine))


def read_forms(path: str | os.PathLike[str]) -> Forms:
    """Reads what a header says of the place in space, of a file that `read_volume` accepts."""
    first = _header_file(Path(path))
    with open_stream(first) as stream:
        return parse_header(first, stream.read(HEADER_BYTES)).forms


def _header_file(path: Path) -> Path:
    """Returns the file that holds an image's header."""
    return _partner(path, ".img", ".hdr") if _extension(path) == ".img" else path


def _voxel_file(path: Path) -> Path:
    """Returns the file that holds the voxels of a header that says they are in another."""
    if _extension(path) != ".hdr":
        raise InputError(
            f"{path}: says that its voxels are in another file, and is no .hdr; convert it again"
        )
    return _partner(path, ".hdr", ".img")


def _extension(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _partner(path: Path, own: str, other: str) -> Path:
    """Returns the other file of a pair, either of which may be compressed."""
    stem = path.name.removesuffix(".gz").removesuffix(own)
    places = [path.with_name(stem + other), path.with_name(f"{stem}{other}.gz")]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise InputError(f"{path}: is one file of a pair, and {places[0].name} is not beside it")
    return found


def _read_voxels(stream: Stream, header: Header) -> Array:
    """Reads all voxels, float32[x, y, z], and the stream to its end."""
    path, needed = stream.path, header.offset + header.content_bytes
    if stream.most < needed:  # known before memory is taken
        most = f"at most {stream.most}" if stream.zipped else stream.most
        raise InputError(f"{path}: is cut short, {most} of {needed} bytes; copy it again")
    there = stream.skip(header.offset)
    array, broken = np.empty(int(np.prod(header.shape)), np.float32), 0
    done = 0
    for values in _convert(stream, header):
        array[done : done + values.size] = values
        done += values.size
        broken += values.size - int(np.isfinite(values).sum())
    if done < array.size:
        there += done * header.dtype.itemsize
        raise InputError(f"{path}: is cut short, {there} of {needed} bytes; copy it again")
    _check_end(stream, header)
    if broken:
        raise InputError(f"{path}: {broken} voxels are NaN or infinite; replace or mask them")
    return array.reshape(header.shape, order="F")


def _convert(stream: Stream, header: Header) -> Iterator[Array]:
    """Yields the voxels in order, float32, some at a time; too few if the stream ends early."""
    missing, size = header.content_bytes, header.dtype.itemsize
    while missing and (part := stream.read(min(missing, _CHUNK * size))):
        missing -= len(part)
        values = np.frombuffer(part, header.dtype, count=len(part) // size)
        # What float32 cannot hold becomes infinite, and is refused.
        with np.errstate(over="ignore", invalid="ignore"):
            if (header.slope, header.intercept) != (1.0, 0.0):
                values = values.astype(np.float64) * header.slope + header.intercept
            yield values.astype(np.float32)


def _check_end(stream: Stream, header: Header) -> None:
    """Refuses what goes on after the last voxel: its header claims too few, or too narrow ones.

    Less than a slice of zeros is what some tools fill their last block with.
    """
    slice_bytes = header.shape[0] * header.shape[1] * header.dtype.itemsize
    rest = stream.read(max(slice_bytes, 1))
    if len(rest) >= max(slice_bytes, 1) or any(rest):
        raise InputError(
            f"{stream.path}: goes on after the last of its {'×'.join(map(str, header.shape))} "
            f"voxels of {header.dtype.name}; write its header anew"
        )


def expect_image_output(out: Path, inputs: Iterable[Path]) -> None:
    """Refuses a name for an image to be written, before hours are spent on it.

    Raises:
      WriteError: it is neither .nii nor .nii.gz, or a folder; or see `expect_output`.
    """
    if not out.name.endswith(IMAGE_SUFFIXES) or out.name in IMAGE_SUFFIXES:
        raise WriteError(f"{out}: images are written as .nii or .nii.gz; name such a file")
    if out.is_dir():
        raise WriteError(f"{out}: is a folder; name a file")
    expect_output(out, inputs)


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
