"""Fuzz: image files whose headers and streams are damaged at random, and what is right of each.

A file may be refused, or read as an independent reading of its bytes says; nothing else is right.
Used in a small form by `io/test_fuzz`, in full by `benchmarks/bench_fuzz`.
"""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

Rng = Any  # np.random.Generator, whose stubs make every draw an integer of NumPy's

SHAPE = (40, 44, 36)
_AFFINE = np.array([[-4.4, 0.2, 0, 80], [0.2, 4.3, 0.3, -90], [0, -0.3, 5, -80], [0, 0, 0, 1.0]])
_TYPES = ("u1", "i2", "u2", "i4", "f4", "f8")
_CLASSES: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
# Numbers that readers of headers have stumbled over; a field takes of them what it can hold.
_NASTY = (0, 1, -1, 2, 3, 7, 8, 255, 348, 352, 540, 2**15 - 1, 2**16, 2**31 - 1, -(2**31), 2**62)
_NASTY_FLOATS = (*_NASTY, 0.5, -0.0, 1e-40, 1e30, 3e38, -3e38, np.inf, -np.inf, np.nan)
# What lies beyond this is not compared: a reader must have refused it, or the stream is a bomb.
_MOST = 2**28


@dataclass(frozen=True)
class Case:
    """One damaged image.

    Attributes:
      name: what was done to it, and its number.
      files: file name -> content; the first is the one to give to a reader.
    """

    name: str
    files: dict[str, bytes] = field(repr=False)


def make_cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Yields so many cases, every kind in its turn; the same for the same seed."""
    kinds = list(_KINDS.items())
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name, make = kinds[number % len(kinds)]
        yield Case(f"{number}: {name}", make(rng))


def _image(rng: Rng, kind: Any = None, shape: tuple[int, ...] = SHAPE) -> tuple[bytes, Any, str]:
    """Returns the bytes of a whole image, its class and its byte order."""
    kind = kind or _CLASSES[rng.integers(2)]
    order = "<>"[rng.integers(2)]
    array = rng.integers(1, 250, shape).astype(_TYPES[rng.integers(len(_TYPES))])
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    image = kind(array, _AFFINE, header)
    image.set_qform(_AFFINE, 1)
    image.set_sform(_AFFINE, 1)
    return image.to_bytes(), kind, order


def _damage_fields(rng: Rng) -> dict[str, bytes]:
    content, kind, order = _image(rng)
    size = kind.header_class.sizeof_hdr
    kinds: Any = kind.header_class.template_dtype.newbyteorder(order)
    fields: Any = np.frombuffer(bytearray(content[:size]), kinds)
    for name in rng.choice(kinds.names, rng.integers(1, 4), replace=False):
        own = fields[str(name)].reshape(-1)
        at = rng.integers(own.size)
        if own.dtype.kind == "S":
            own[at] = rng.bytes(own.dtype.itemsize)
        elif own.dtype.kind == "f":
            own[at] = rng.choice(_NASTY_FLOATS)
        else:
            value = int(rng.choice(np.array(_NASTY, object)))
            own[at] = np.array(value % 2**63).astype(own.dtype)
    return {"a.nii": fields.tobytes() + content[size:]}


def _flip_bits(rng: Rng) -> dict[str, bytes]:
    content = bytearray(_image(rng)[0])
    for bit in rng.integers(352 * 8, size=rng.integers(1, 6)):
        content[bit // 8] ^= 1 << (bit % 8)
    return {"a.nii": bytes(content)}


def _change_length(rng: Rng) -> dict[str, bytes]:
    content = _image(rng)[0]
    if rng.integers(2):
        return {"a.nii": content[: rng.integers(len(content))]}
    more = bytes(rng.integers(1, 20_000)) if rng.integers(2) else rng.bytes(rng.integers(1, 20_000))
    return {"a.nii": content + more}


def _extend(rng: Rng) -> dict[str, bytes]:
    content, kind, order = _image(rng)
    size = kind.header_class.sizeof_hdr
    blocks = b"".join(
        np.array([rng.choice([0, 8, 16, 17, -16, 2**20, 2**31 - 1]), 6], f"{order}i4").tobytes()
        + rng.bytes(rng.integers(0, 2**18))
        for _ in range(rng.integers(1, 4))
    )
    blocks += bytes(-len(blocks) % 16)
    header = kind.header_class(content[:size], order, check=False)
    claimed = size + 4 + len(blocks) + int(rng.choice([0, 0, 0, 16, -16, 2**20, -(2**20)]))
    header["vox_offset"] = claimed
    return {"a.nii": header.binaryblock + b"\1\0\0\0" + blocks + content[size + 4 :]}


def _pair(rng: Rng) -> dict[str, bytes]:
    content, kind, _ = _image(rng)
    size = kind.header_class.sizeof_hdr
    header = bytearray(content[:size].replace(b"n+", b"ni", 1))
    for bit in rng.integers(size * 8, size=rng.integers(0, 4)):
        header[bit // 8] ^= 1 << (bit % 8)
    voxels = content[size + 4 :]
    cut = voxels[: rng.integers(len(voxels))] if rng.integers(3) == 0 else voxels
    files = {"a.hdr": bytes(header), "a.img": cut}
    return dict(list(files.items())[: 1 + (rng.integers(8) > 0)])


def _damage_gzip(rng: Rng) -> dict[str, bytes]:
    stream = bytearray(gzip.compress(_image(rng)[0], 1, mtime=0))
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(len(stream))
        match rng.integers(5):
            case 0:
                stream[at] ^= 1 << rng.integers(8)
            case 1:
                del stream[at:]
            case 2:
                stream[at:at] = rng.bytes(rng.integers(1, 64))
            case 3:
                del stream[at : at + rng.integers(1, 64)]
            case _:
                stream[3] ^= 1 << rng.integers(5)  # flags: name, comment, checksum, extra field
        if len(stream) < 4:
            break
    return {"a.nii.gz": bytes(stream)}


def _join_gzip(rng: Rng) -> dict[str, bytes]:
    content = _image(rng)[0]
    cuts = sorted(rng.integers(len(content), size=rng.integers(1, 5)))
    parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    members = [gzip.compress(part, int(rng.integers(0, 4)), mtime=0) for part in parts]
    empty = gzip.compress(b"", mtime=0) * int(rng.choice([0, 1, 10_000]))
    ends = (b"", bytes(600), rng.bytes(9), members[0], members[0][:-3])
    end = ends[rng.integers(len(ends))]
    if rng.integers(4) == 0:
        members.reverse()
    return {"a.nii.gz": empty + b"".join(members) + end}


def _expand(rng: Rng) -> dict[str, bytes]:
    """An image that goes on, for up to 8 GiB, with zeros, or whose header claims gigabytes."""
    content, kind, order = _image(rng)
    size = kind.header_class.sizeof_hdr
    header = kind.header_class(content[:size], order, check=False)
    claims = ((40, 44, 36), (600, 600, 500), (900, 900, 900), (2**15 - 1,) * 3)
    header["dim"][1:4] = claims[rng.integers(len(claims))]
    body = header.binaryblock + content[size:]
    if rng.integers(2):
        return {"a.nii.gz": gzip.compress(body, 1) + _zeros() * int(rng.choice([1, 16, 128]))}
    return {"a.nii.gz": gzip.compress(body + bytes(2**26), 1)}


@functools.cache
def _zeros() -> bytes:
    """Returns a gzip member of 64 MiB of zeros."""
    return gzip.compress(bytes(2**26), 9, mtime=0)


def _claim(rng: Rng) -> dict[str, bytes]:
    """Another datatype, width, number of dimensions or offset than the voxels have."""
    content, kind, order = _image(rng)
    size = kind.header_class.sizeof_hdr
    header = kind.header_class(content[:size], order, check=False)
    match rng.integers(5):
        case 0:
            header["datatype"] = rng.choice(
                [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536]
            )
        case 1:
            header["bitpix"] = rng.choice([0, 1, 8, 16, 24, 32, 64, 128])
        case 2:
            header["datatype"], header["bitpix"] = ((4, 16), (8, 32), (64, 64))[rng.integers(3)]
        case 3:
            header["dim"][0] = rng.integers(-1, 9)
            header["dim"][1 + rng.integers(7)] = rng.choice([0, 1, 2, 40])
        case _:
            header["vox_offset"] = rng.choice([0, 1, 348, 351, 353, 544, 560, 4096])
    content = header.binaryblock + content[size:]
    return {"a.nii.gz": gzip.compress(content, 1)} if rng.integers(2) else {"a.nii": content}


def _junk(rng: Rng) -> dict[str, bytes]:
    starts = (b"", b"\x1f\x8b", b"\x1f\x8b\x08\0", b"\x5c\1\0\0", b"\x1c\2\0\0", b"\0\0\1\x5c")
    content = starts[rng.integers(len(starts))] + rng.bytes(rng.integers(0, 3000))
    return {("a.nii", "a.nii.gz", "a.hdr")[rng.integers(3)]: content}


_KINDS: dict[str, Callable[[Rng], dict[str, bytes]]] = {
    "header fields": _damage_fields,
    "header bits": _flip_bits,
    "length": _change_length,
    "extensions": _extend,
    "pair": _pair,
    "gzip": _damage_gzip,
    "gzip members": _join_gzip,
    "claims": _claim,
    "expansion": _expand,
    "junk": _junk,
}


def expect_values(case: Case) -> np.ndarray | None:
    """Returns what an independent reading finds in a case, float64[x, y, z], or None for nothing.

    By nibabel from the bytes, where these are as many as the header says, and the header says it
    once: a width that is its datatype's, a scaling that is finite.
    """
    (_, first), *others = case.files.items()
    content = _unzip(first)
    for kind in _CLASSES:
        size = kind.header_class.sizeof_hdr
        try:
            header = kind.header_class(content[:size], check=False)
            dtype = header.get_data_dtype()
            shape = tuple(int(n) for n in header["dim"][1:4])
            offset = float(header["vox_offset"])
        except Exception:
            continue
        if int(header["sizeof_hdr"]) != size or int(header["bitpix"]) != 8 * dtype.itemsize:
            continue
        voxels = content if not others else _unzip(others[0][1])
        if not 0 <= offset < _MOST or min(shape) < 1:
            continue
        end = int(offset) + int(np.prod(shape, dtype=object)) * dtype.itemsize
        rest = voxels[end:]
        if len(voxels) < end or any(rest) or len(rest) >= max(end, 1):
            continue
        slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
        scaled = slope != 0 and not np.isnan(slope)
        values = np.frombuffer(voxels, dtype, count=int(np.prod(shape)), offset=int(offset))
        with np.errstate(all="ignore"):
            values = values.astype(np.float64) * (slope if scaled else 1)
            return (values + (inter if scaled else 0)).reshape(shape, order="F")
    return None


def _unzip(content: bytes) -> bytes:
    """Returns at most `_MOST` bytes of what a stream holds, by zlib; what is damaged ends it."""
    if content[:2] != b"\x1f\x8b":
        return content
    out = b""
    while content[:2] == b"\x1f\x8b" and len(out) < _MOST:
        unzip = zlib.decompressobj(wbits=31)
        try:
            out += unzip.decompress(content, _MOST - len(out))
        except zlib.error:
            return b""
        if not unzip.eof:
            return out
        content = unzip.unused_data.lstrip(b"\0")
    return out if not content else b""


def write_case(case: Case, folder: Path) -> Path:
    """Writes the files of a case and returns the one to read."""
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(case.files))
