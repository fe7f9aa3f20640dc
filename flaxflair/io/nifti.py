"""Reading and writing of NIfTI volumes, with checks of the whole stream and of the geometry.

Independent of BIDS, sequences and subjects.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import isal_zlib

from flaxflair.core.atomic_files import expect_output, write_parts
from flaxflair.core.records import Array, Geometry, InputError, Volume
from flaxflair.io.gzip_stream import Stream, open_stream
from flaxflair.io.nifti_header import HEADER_BYTES, Forms, Header, parse_header

IMAGE_SUFFIXES = (".nii", ".nii.gz")
_CHUNK = 2**20  # voxels converted at once
_MAX_DESCRIPTION = 79  # bytes of `descrip`, before its terminating zero
_GZIP = 16 + isal_zlib.MAX_WBITS


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Reads one 3-D NIfTI volume as float32 and checks its whole stream.

    A `.nii.gz` is decompressed to its end, so that any flipped bit or wrong CRC is an error;
    nibabel reads such files without an error. Scaling (`scl_slope`) is applied, and lengths in
    metres or micrometres (`xyzt_units`) are converted to mm. Header extensions are skipped. Memory
    beyond the array is a few MiB, independent of the expansion of the stream.

    Args:
      path: `.nii` or `.nii.gz`, NIfTI-1 or NIfTI-2; or either file of a pair, `.hdr` and `.img`.

    Returns:
      The volume, float32[x, y, z], and its geometry in mm (RAS+).

    Raises:
      InputError: missing, empty, truncated or corrupt file; a pointer or a web page in its place;
        a header that contradicts itself or the length of the file; more than one volume; complex
        or RGB; NaN or infinity.
      GeometryError: affine singular or not finite, both form codes zero, or qform and sform that
        are mirror images.
    """
    first = _header_file(Path(path))
    with open_stream(first) as stream:
        header = parse_header(first, stream.read(HEADER_BYTES))
    path = _voxel_file(first) if header.separate else first
    with open_stream(path) as stream:
        array = _read_voxels(stream, header)
    return Volume(array, Geometry(header.shape, header.affine))


def read_forms(path: str | os.PathLike[str]) -> Forms:
    """Reads the orientation fields of the header of a file that `read_volume` accepts."""
    return _read_header(path).forms


def read_description(path: str | os.PathLike[str]) -> str:
    """Reads the free text (`descrip`) of the header of a file that `read_volume` accepts."""
    return _read_header(path).description


def _read_header(path: str | os.PathLike[str]) -> Header:
    first = _header_file(Path(path))
    with open_stream(first) as stream:
        return parse_header(first, stream.read(HEADER_BYTES))


def _header_file(path: Path) -> Path:
    """Returns the file with the header of an image."""
    return _partner(path, ".img", ".hdr") if _extension(path) == ".img" else path


def _voxel_file(path: Path) -> Path:
    """Returns the file with the voxels of a header in a separate file."""
    if _extension(path) != ".hdr":
        raise InputError(
            f"{path}: its header states that the voxels are in another file, but it is not a .hdr; "
            "convert it again"
        )
    return _partner(path, ".hdr", ".img")


def _extension(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _partner(path: Path, extension: str, other: str) -> Path:
    """Returns the other file of a pair; each may be compressed."""
    stem = path.name.removesuffix(".gz").removesuffix(extension)
    candidates = [path.with_name(stem + other), path.with_name(f"{stem}{other}.gz")]
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is None:
        raise InputError(
            f"{path}: is one file of a pair, and {candidates[0].name} is missing; add it"
        )
    return found


def _read_voxels(stream: Stream, header: Header) -> Array:
    """Reads all voxels, float32[x, y, z], and checks the stream to its end."""
    path, needed = stream.path, header.offset + header.content_bytes
    if stream.max_bytes < needed:  # before memory is allocated
        available = f"at most {stream.max_bytes}" if stream.zipped else stream.max_bytes
        raise InputError(f"{path}: is cut short, {available} of {needed} bytes; copy it again")
    available = stream.skip(header.offset)
    array, broken = np.empty(int(np.prod(header.shape)), np.float32), 0
    done = 0
    for values in _convert(stream, header):
        array[done : done + values.size] = values
        done += values.size
        broken += values.size - int(np.isfinite(values).sum())
    if done < array.size:
        available += done * header.dtype.itemsize
        raise InputError(f"{path}: is cut short, {available} of {needed} bytes; copy it again")
    _check_end(stream, header)
    if broken:
        raise InputError(f"{path}: {broken} voxels are NaN or infinite; replace or mask them")
    return array.reshape(header.shape, order="F")


def _convert(stream: Stream, header: Header) -> Iterator[Array]:
    """Yields the voxels in chunks, float32; too few if the stream ends early."""
    missing, size = header.content_bytes, header.dtype.itemsize
    while missing and (part := stream.read(min(missing, _CHUNK * size))):
        missing -= len(part)
        values = np.frombuffer(part, header.dtype, count=len(part) // size)
        # Values beyond float32 become infinite, and are refused.
        with np.errstate(over="ignore", invalid="ignore"):
            if (header.slope, header.intercept) != (1.0, 0.0):
                values = values.astype(np.float64) * header.slope + header.intercept
            yield values.astype(np.float32)


def _check_end(stream: Stream, header: Header) -> None:
    """Refuses content after the last voxel: the header states too few or too narrow voxels.

    Less than a slice of zeros is accepted, because some tools pad the last block.
    """
    slice_bytes = header.shape[0] * header.shape[1] * header.dtype.itemsize
    rest = stream.read(max(slice_bytes, 1))
    if len(rest) >= max(slice_bytes, 1) or any(rest):
        raise InputError(
            f"{stream.path}: continues after the last of its {'×'.join(map(str, header.shape))} "
            f"voxels of {header.dtype.name}; correct its header"
        )


def expect_image_output(out: Path, inputs: Iterable[Path | None]) -> None:
    """Checks the path of an output image before any computation.

    Raises:
      WriteError: see `expect_output`.
    """
    expect_output(out, inputs, IMAGE_SUFFIXES, "the image")


def pack_volume(array: Array, affine: Array, low: float, high: float) -> bytes:
    """Returns a `.nii.gz` for display: 8 bits per voxel, from `low` to `high`, with its scaling.

    Args:
      array: [x, y, z].
      affine: float64[4, 4], voxel indices to mm (RAS+).
      low: intensity of level 0; lower values are clipped.
      high: intensity of level 255; higher values are clipped.
    """
    step = (high - low) / 255 or 1.0
    levels = np.clip(np.rint((array - low) / step), 0, 255).astype(np.uint8)
    return b"".join(_zip(_parts(levels, affine, np.uint8, (step, low)), 2))


def write_volume(
    path: str | os.PathLike[str], array: Array, affine: Array, description: str = ""
) -> None:
    """Writes one volume atomically.

    The header is new, with both forms set: an inherited integer header would rescale silently.
    Boolean and unsigned 8-bit arrays (masks, labels) are written as uint8, all others as float32.

    Args:
      path: `.nii` or `.nii.gz`; the folder must exist.
      array: [x, y, z].
      affine: float64[4, 4], voxel indices to mm (RAS+).
      description: text of the header (`descrip`), at most 79 ASCII characters.

    Raises:
      WriteError: the disk is full or the folder read-only; no partial file remains.
    """
    path = Path(path)
    kind = np.uint8 if array.dtype in (np.bool_, np.uint8) else np.float32
    parts = _parts(array, affine, kind, description=description)
    write_parts(path, _zip(parts, 1) if path.name.endswith(".gz") else parts)


def _parts(
    array: Array,
    affine: Array,
    kind: type[np.uint8 | np.float32],
    scaling: tuple[float, float] = (1.0, 0.0),
    description: str = "",
) -> Iterator[bytes]:
    """Yields the bytes of a NIfTI-1 file: the header, then the voxels, a few MiB at a time.

    Args:
      array: [x, y, z]; converted to `kind`.
      affine: float64[4, 4], voxel indices to mm (RAS+).
      kind: type of the voxels.
      scaling: slope and intercept from voxels to intensities.
      description: text of the header, at most 79 ASCII characters.
    """
    header = nib.Nifti1Header()
    text = description.encode("ascii")
    if len(text) > _MAX_DESCRIPTION:
        raise ValueError(f"a description of {len(text)} bytes; a header has {_MAX_DESCRIPTION}")
    header["descrip"] = text
    header.set_data_dtype(kind)
    header.set_data_shape(array.shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_slope_inter(*scaling)
    content = io.BytesIO()
    header.write_to(content)
    yield content.getvalue()
    slices = max(1, 4 * _CHUNK // (array.shape[0] * array.shape[1]))
    for start in range(0, array.shape[2], slices):
        yield np.asarray(array[..., start : start + slices], kind).tobytes(order="F")


def _zip(parts: Iterable[bytes], level: int) -> Iterator[bytes]:
    """Yields the gzip stream of a file's parts; equal parts give equal bytes."""
    stream = isal_zlib.compressobj(level, wbits=_GZIP)
    for part in parts:
        yield stream.compress(part)
    yield stream.flush()
