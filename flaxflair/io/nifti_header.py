"""Parsing and checks of NIfTI-1 and NIfTI-2 headers, before any voxel is read.

A header that contradicts itself is refused, because the correct field is unknown. Reads bytes;
paths are for messages only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat

from flaxflair.core.records import Array, GeometryError, InputError

# 800 MB as float32; the largest head scans, of 0.4 mm voxels, have 180 million voxels.
MAX_VOXELS = 200_000_000
# A NIfTI-2 header, and the four bytes after it that flag extensions.
HEADER_BYTES = 544
# Limit of the bytes before the voxels. NIfTI-1 stores the offset as float32, which is not exact
# for large integers.
_MAX_OFFSET = 2**30
_KINDS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# Bytes in a NIfTI-2 header that a transfer as text would change.
_LINE_ENDS = (13, 10, 26, 10)
# Code of `xyzt_units` -> mm; 0 (unknown) is read as mm, by convention.
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
# Excess over 1 of the squared length of a quaternion's vector part, by rounding.
_QUATERNION_SLACK = 1e-4


@dataclass(frozen=True)
class Forms:
    """Orientation fields of a header (qform, sform and pixdim), and their consistency.

    Attributes:
      qform: qform_code; 0 if undefined.
      sform: sform_code; 0 if undefined. `read_volume` uses the sform if defined.
      gap: mm, maximum distance between qform and sform in the field of view; 0 unless both are
        defined, NaN if the qform cannot be read.
      stretch: largest ratio (at least 1) of the voxel edges by `pixdim` and by the affine used.
      dtype: type of the stored voxels (`int16`).
    """

    qform: int
    sform: int
    gap: float
    stretch: float
    dtype: str


@dataclass(frozen=True)
class Header:
    """Fields needed to read the voxels of one 3-D volume.

    Attributes:
      shape: voxels along x, y, z.
      dtype: type of the stored voxels, in the file's byte order.
      offset: bytes before the first voxel, in the file with the voxels.
      slope: factor of stored values.
      intercept: added after multiplication.
      affine: float64[4, 4], voxel indices to mm (RAS+).
      separate: whether the voxels are in a separate file (`.img`).
      forms: orientation fields.
      description: free text (`descrip`); bytes other than ASCII are replaced.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: Array
    separate: bool
    forms: Forms
    description: str

    @property
    def content_bytes(self) -> int:
        """Bytes of the voxels."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def parse_header(path: Path, start: bytes) -> Header:
    """Parses the header of one real-valued 3-D volume with known orientation.

    Args:
      path: path of the file, for messages.
      start: the first `HEADER_BYTES` bytes of the file, or all of a shorter file.

    Raises:
      InputError: it is not a NIfTI header, not of such a volume, or contradicts itself.
      GeometryError: affine singular or not finite, or both form codes zero.
    """
    fields = _identify(path, start)
    shape = _shape(path, fields)
    dtype = _dtype(path, fields)
    separate = fields["magic"].tobytes().startswith(b"ni")
    slope, intercept = _scaling(path, fields)
    affine, forms = _orientation(path, fields, shape)
    offset = _offset(path, fields, 0 if separate else int(fields["sizeof_hdr"]) + 4)
    text = fields["descrip"].tobytes().split(b"\0")[0].decode("ascii", errors="replace")
    return Header(shape, dtype, offset, slope, intercept, affine, separate, forms, text)


def _identify(path: Path, start: bytes) -> Any:
    """Returns the fields of a header; its first number gives version and byte order."""
    kinds = itertools.product(_KINDS, "<>")
    found = next(((n, order) for n, order in kinds if start[:4] == pack(f"{order}i", n)), None)
    if found is None:
        raise InputError(f"{path}: is not a NIfTI image; convert it to one")
    size, order = found
    if len(start) < size:
        raise InputError(f"{path}: is cut short within its header; copy it again")
    fields = _KINDS[size](start[:size], endianness=order, check=False)
    magic = bytes(fields["magic"].tobytes())
    if size == 348 and not magic.strip(b"\0"):
        raise InputError(
            f"{path}: is an ANALYZE 7.5 image, which does not define left and right; convert the "
            "DICOM files to NIfTI"
        )
    version = b"1" if size == 348 else b"2"
    if magic.rstrip(b"\0") not in (b"n+" + version, b"ni" + version):
        raise InputError(f"{path}: is not a NIfTI image; convert it to one")
    if size == 540 and tuple(fields["eol_check"]) not in (_LINE_ENDS, (0, 0, 0, 0)):
        raise InputError(f"{path}: was transferred as text; copy it again, as binary")
    return fields


def _shape(path: Path, fields: Any) -> tuple[int, int, int]:
    dimensions = [int(n) for n in fields["dim"]]
    axes = dimensions[0]
    if not 1 <= axes <= 7:
        raise InputError(f"{path}: claims {axes} dimensions; correct its header")
    shape = dimensions[1 : axes + 1]
    shown = "×".join(map(str, shape))
    volumes = [n for n in shape[3:] if n > 1]
    if len(shape) < 3:
        raise InputError(f"{path}: has shape {shown}; one 3-D volume is needed, so give one")
    if any(n < 1 for n in shape) or int(np.prod(shape[:3], dtype=object)) > MAX_VOXELS:
        raise InputError(f"{path}: claims {shown} voxels; correct its header")
    if volumes:
        count = int(np.prod(volumes, dtype=object))
        which = "that of the sequence"
        if count == 2:
            which += " (of two echoes, the longer EchoTime is the T2, the shorter the PD)"
        raise InputError(
            f"{path}: has shape {shown}, {count} volumes in one file; one 3-D volume is needed, so "
            f"split it (fslsplit, or nibabel's four_to_three) and give {which}"
        )
    return shape[0], shape[1], shape[2]


def _dtype(path: Path, fields: Any) -> np.dtype[Any]:
    code = int(fields["datatype"])
    try:
        dtype = fields.get_data_dtype()
    except Exception:  # nibabel raises several kinds
        raise InputError(f"{path}: has the unknown datatype {code}; correct its header") from None
    if dtype.fields is not None or dtype.kind == "c":
        what = "RGB" if dtype.fields is not None else "complex"
        raise InputError(f"{path}: holds {what} values; a real-valued image is needed")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: has the datatype {code}; a real-valued image is needed")
    bits = int(fields["bitpix"])
    if bits != 8 * dtype.itemsize:
        raise InputError(
            f"{path}: claims voxels of {bits} bits (bitpix), and {dtype.name} (datatype); "
            "correct its header"
        )
    return dtype


def _scaling(path: Path, fields: Any) -> tuple[float, float]:
    """Returns slope and intercept; a slope of 0, or NaN (written by nibabel), means no scaling."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or (np.isnan(slope) and (np.isnan(intercept) or intercept == 0)):
        return 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise InputError(
            f"{path}: scales its values by {slope:g} and {intercept:g} (scl_slope, scl_inter); "
            "correct its header"
        )
    return slope, intercept


def _offset(path: Path, fields: Any, least: int) -> int:
    # nibabel accepts an offset of 0, and reads the header as voxels.
    offset = float(fields["vox_offset"])
    if not least <= offset <= _MAX_OFFSET or offset != int(offset):
        raise InputError(
            f"{path}: claims that its voxels start at byte {offset:g}; correct its header"
        )
    return int(offset)


def _orientation(path: Path, fields: Any, shape: tuple[int, int, int]) -> tuple[Array, Forms]:
    """Returns the voxel-to-mm affine and the orientation fields."""
    qform, sform = int(fields["qform_code"]), int(fields["sform_code"])
    if qform == 0 and sform == 0:
        raise GeometryError(
            f"{path}: both qform_code and sform_code are 0, so its orientation is unknown; "
            "set one from the scanner's DICOM"
        )
    unit = _MILLIMETRES.get(int(fields["xyzt_units"]) & 7, 1.0)
    scale = np.diag([unit, unit, unit, 1.0])
    other = scale @ _qform(fields) if qform else None
    affine = scale @ np.asarray(fields.get_sform(), np.float64) if sform else other
    assert affine is not None
    _check_affine(path, affine)
    gap = 0.0
    if sform and other is not None:
        turns = [matrix[:3, :3] for matrix in (other, affine)]
        if np.isfinite(other).all() and np.prod([np.linalg.det(turn) for turn in turns]) < 0:
            raise GeometryError(
                f"{path}: its qform and sform are mirror images of each other, so left and right "
                "are unknown; write its header anew, from DICOM"
            )
        far = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
        far[:, :3] *= shape
        gap = float(np.abs(far @ (other - affine).T).max())
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    pixdim = unit * np.abs(np.asarray(fields["pixdim"][1:4], np.float64))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        stretch = float(np.max([pixdim / edges, edges / pixdim]))
    return affine, Forms(qform, sform, gap, stretch, fields.get_data_dtype().name)


def _qform(fields: Any) -> Array:
    """Returns the affine of the quaternion; NaN if it is invalid. `pixdim` is not checked."""
    affine = np.full((4, 4), np.nan)
    affine[3] = 0, 0, 0, 1
    vector = np.array([fields[f"quatern_{n}"] for n in "bcd"], np.float64)
    factor, *edges = np.asarray(fields["pixdim"][:4], np.float64)
    # A factor of 0 means 1 by the standard.
    known = factor in (-1, 0, 1) and np.all(np.array(edges) > 0)
    if not known or not vector @ vector <= 1 + _QUATERNION_SLACK:
        return affine
    edges[2] *= -1 if factor < 0 else 1
    real = np.sqrt(max(0.0, 1 - vector @ vector))
    affine[:3, :3] = quat2mat([real, *vector]) * edges
    affine[:3, 3] = [fields[f"qoffset_{n}"] for n in "xyz"]
    return affine


def _check_affine(path: Path, affine: Array) -> None:
    if not np.isfinite(affine).all():
        raise GeometryError(
            f"{path}: its affine is not finite, or its quaternion is not a rotation; correct "
            "its header"
        )
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if (columns == 0).any() or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3:
        raise GeometryError(f"{path}: its affine is singular; correct its header")
