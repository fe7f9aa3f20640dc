"""Ways in which the scans of a session are spoilt, or changed mildly, for `bench_verdict`.

A way takes and returns sequence -> scan. All randomness is seeded by the name of the case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.resampling import resample
from flaxflair.simulation.scanner import add_rician_noise

Scans = Mapping[str, Volume]


class Session(NamedTuple):
    """A session before it is changed.

    Attributes:
      scans: sequence -> scan that is given to the model.
      flair: its true FLAIR.
      other: scans of another patient.
    """

    scans: Scans
    flair: Volume
    other: Scans


Way = Callable[[Session, np.random.Generator], dict[str, Volume]]


def _head(array: Array) -> Array:
    return array > 0.15 * np.percentile(array, 99)


def _white(volume: Volume) -> float:
    """Returns the level of tissue: the median of the head."""
    return float(np.median(volume.array[_head(volume.array)]))


def _each(change: Callable[[Volume, np.random.Generator], Volume], *names: str) -> Way:
    """Returns a way that changes some scans, or all, alike."""

    def way(session: Session, rng: np.random.Generator) -> dict[str, Volume]:
        return {
            name: change(volume, rng) if not names or name in names else volume
            for name, volume in session.scans.items()
        }

    return way


def _with_affine(volume: Volume, affine: Array) -> Volume:
    return Volume(volume.array, Geometry(volume.geometry.shape, affine))


def _with_array(volume: Volume, array: Array) -> Volume:
    x, y, z = array.shape
    geometry = Geometry((x, y, z), volume.geometry.affine)
    return Volume(np.ascontiguousarray(array, np.float32), geometry)


def _turn(volume: Volume, degrees: tuple[float, float, float]) -> Array:
    """Returns a rotation about the centre of a scan, float64[4, 4], mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = volume.geometry.centre - matrix[:3, :3] @ volume.geometry.centre
    return matrix


def _through_plane(volume: Volume) -> int:
    return int(np.argmax(volume.geometry.voxel_size))


def rotate_header(volume: Volume, rng: np.random.Generator) -> Volume:
    """Rotates the header by 40 degrees of pitch and 30 of yaw."""
    return _with_affine(volume, _turn(volume, (40, 0, 30)) @ volume.geometry.affine)


def exchange_axes(volume: Volume, rng: np.random.Generator) -> Volume:
    """Calls superior anterior, and posterior superior, in the header."""
    axes = np.eye(4)
    axes[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    return _with_affine(volume, axes @ volume.geometry.affine)


def scale_slices(volume: Volume, rng: np.random.Generator) -> Volume:
    """Halves the distance of slices in the header."""
    factors = np.ones(4)
    factors[_through_plane(volume)] = 0.5
    return _with_affine(volume, volume.geometry.affine @ np.diag(factors))


def scale_plane(volume: Volume, rng: np.random.Generator) -> Volume:
    """Multiplies the voxel size of the header by 1.3."""
    return _with_affine(volume, np.diag([1.3, 1.3, 1.3, 1.0]) @ volume.geometry.affine)


def add_noise(share: float) -> Callable[[Volume, np.random.Generator], Volume]:
    """Returns a change that adds Rician noise, relative to the level of tissue."""

    def change(volume: Volume, rng: np.random.Generator) -> Volume:
        noisy = add_rician_noise(rng, volume.array, share * _white(volume))
        return _with_array(volume, np.where(volume.array == 0, 0, noisy))  # masked air stays so

    return change


def multiply_field(strength: float) -> Callable[[Volume, np.random.Generator], Volume]:
    """Returns a change that multiplies by a smooth field; strength: SD of its logarithm."""

    def change(volume: Volume, rng: np.random.Generator) -> Volume:
        knots = rng.standard_normal((4, 4, 4))
        factors = [n / 4 for n in volume.geometry.shape]
        field = np.asarray(ndimage.zoom(knots, factors, order=3))
        field *= strength / field[_head(volume.array)].std()
        return _with_array(volume, volume.array * np.exp(field - field.mean()))

    return change


def ghost(volume: Volume, rng: np.random.Generator) -> Volume:
    """Moves the head by up to 5 mm, periodically, while the lines of k-space are read."""
    size = volume.geometry.shape[1]
    lines = np.fft.fft(volume.array, axis=1)
    number = np.fft.fftfreq(size)  # cycles a voxel
    order = np.arange(size)
    moved = 5.0 / volume.geometry.voxel_size[1] * np.sin(2 * np.pi * order / 7.3)
    phase = np.exp(-2j * np.pi * number * np.fft.fftshift(moved))
    return _with_array(volume, np.abs(np.fft.ifft(lines * phase[None, :, None], axis=1)))


def clip(volume: Volume, rng: np.random.Generator) -> Volume:
    """Clips at the median of the head."""
    return _with_array(volume, np.minimum(volume.array, _white(volume)))


def invert(volume: Volume, rng: np.random.Generator) -> Volume:
    """Subtracts the image from its maximum in the head."""
    head = _head(volume.array)
    top = np.percentile(volume.array[head], 99)
    return _with_array(volume, np.where(head, np.maximum(top - volume.array, 0), volume.array))


def blur(volume: Volume, rng: np.random.Generator) -> Volume:
    """Smooths by a Gaussian of 7 mm full width at half maximum."""
    sigma = [3.0 / edge for edge in volume.geometry.voxel_size]
    smooth = ndimage.gaussian_filter(volume.array, sigma)
    return _with_array(volume, np.where(volume.array == 0, 0, smooth))


def zero_slices(volume: Volume, rng: np.random.Generator) -> Volume:
    """Sets three slices in the middle to zero."""
    array = np.moveaxis(volume.array.copy(), _through_plane(volume), -1)
    middle = array.shape[-1] // 2
    array[..., middle : middle + 6 : 2] = 0
    return _with_array(volume, np.moveaxis(array, -1, _through_plane(volume)))


def drop_slices(volume: Volume, rng: np.random.Generator) -> Volume:
    """Leaves out six slices in the middle."""
    axis = _through_plane(volume)
    middle = volume.array.shape[axis] // 2
    return _with_array(volume, np.delete(volume.array, np.arange(middle - 3, middle + 3), axis))


def flip(volume: Volume, rng: np.random.Generator) -> Volume:
    """Mirrors the voxels left to right, the header unchanged."""
    axis = int(np.argmax(np.abs(volume.geometry.affine[0, :3])))
    return _with_array(volume, np.flip(volume.array, axis))


def cut_left(volume: Volume, rng: np.random.Generator) -> Volume:
    """Cuts off half of the head, at the middle of the field of view."""
    axis = int(np.argmax(np.abs(volume.geometry.affine[0, :3])))
    part = [slice(None)] * 3
    part[axis] = slice(0, volume.array.shape[axis] // 2)
    return _with_array(volume, volume.array[tuple(part)])


def cut_top(volume: Volume, rng: np.random.Generator) -> Volume:
    """Cuts off the upper half of the head."""
    return _keep_slices(volume, 0.0, 0.5)


def cut_neck(volume: Volume, rng: np.random.Generator) -> Volume:
    """Cuts off the lowest 6 % of the field of view."""
    return _keep_slices(volume, 0.06, 1.0)


def _keep_slices(volume: Volume, low: float, high: float) -> Volume:
    axis = int(np.argmax(np.abs(volume.geometry.affine[2, :3])))
    count = volume.array.shape[axis]
    first, last = round(low * count), round(high * count)
    if volume.geometry.affine[2, axis] < 0:
        first, last = count - last, count - first
    part = [slice(None)] * 3
    part[axis] = slice(first, last)
    at = (part[0], part[1], part[2])
    return Volume(np.ascontiguousarray(volume.array[at]), volume.geometry.part(at))


def tilt(volume: Volume, rng: np.random.Generator) -> Volume:
    """Turns the head by 5 degrees about each axis."""
    turn = _turn(volume, (5, 5, 5))
    array = resample(volume.array, volume.geometry.affine, volume.geometry, turn, beyond="zero")
    return _with_array(volume, array)


def thicken(volume: Volume, rng: np.random.Generator) -> Volume:
    """Averages to slices of about 10 mm."""
    axis = _through_plane(volume)
    steps = [1, 1, 1]
    steps[axis] = max(1, round(10.0 / volume.geometry.voxel_size[axis]))
    small = [n // s for n, s in zip(volume.array.shape, steps, strict=True)]
    target = volume.geometry.affine @ np.diag([*steps, 1.0])
    return Volume(
        resample(
            volume.array,
            volume.geometry.affine,
            Geometry((small[0], small[1], small[2]), target),
            np.eye(4),
        ),
        Geometry((small[0], small[1], small[2]), target),
    )


def enhance(volume: Volume, rng: np.random.Generator) -> Volume:
    """Brightens vessels, meninges and lesions, as gadolinium does on a T1."""
    edges = np.array(volume.geometry.voxel_size)
    head = _head(volume.array)
    closed = ndimage.binary_closing(np.pad(head, 5), iterations=4)
    filled = np.pad(np.asarray(ndimage.binary_fill_holes(closed))[5:-5, 5:-5, 5:-5], 1)
    depth = np.asarray(ndimage.distance_transform_edt(filled, sampling=edges))[1:-1, 1:-1, 1:-1]
    pattern = ndimage.gaussian_filter(rng.standard_normal(head.shape), 1.5 / edges)
    inner = depth > 18
    white = np.percentile(volume.array[inner], 85)
    vessels = inner & (pattern > np.percentile(pattern[inner], 99.2))
    meninges = (depth > 12) & (depth < 16) & (pattern > np.percentile(pattern[inner], 70))
    spots = ndimage.gaussian_filter(rng.standard_normal(head.shape), 5.0 / edges)
    deep = depth > 0.5 * depth.max()
    lesions = deep & (spots > np.percentile(spots[deep], 98.5))
    array = volume.array.copy()
    array[vessels] = np.maximum(array[vessels], 2.2 * white)
    array[meninges] = np.maximum(array[meninges], 1.6 * white)
    array[lesions] = np.maximum(array[lesions], 1.5 * white)
    return _with_array(volume, ndimage.gaussian_filter(array, 0.4))


def shift_header(volume: Volume, rng: np.random.Generator) -> Volume:
    """Moves the header by 120 mm to the left and up."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += (-85.0, 0.0, 85.0)
    return _with_affine(volume, affine)


def move(volume: Volume, rng: np.random.Generator) -> Volume:
    """Moves the content by 8 mm forwards on the same grid."""
    matrix = np.eye(4)
    matrix[1, 3] = 8.0
    affine = volume.geometry.affine
    return _with_array(
        volume, resample(volume.array, affine, volume.geometry, matrix, beyond="zero")
    )


def _replace(**sources: Callable[[Session], Volume]) -> Way:
    def way(session: Session, rng: np.random.Generator) -> dict[str, Volume]:
        return {**session.scans, **{name: take(session) for name, take in sources.items()}}

    return way


def _alone(name: str, take: Callable[[Session], Volume]) -> Way:
    return lambda session, rng: {name: take(session)}


# Way -> change and the sequences that a session needs for it.
SPOILT: Mapping[str, tuple[Way, tuple[str, ...]]] = {
    "header of one scan rotated": (_each(rotate_header, "T1"), ("T1", "T2")),
    "header of one scan moved": (_each(shift_header, "T1"), ("T1", "T2")),
    "superior called anterior": (_each(exchange_axes), ()),
    "sequences exchanged": (
        _replace(T1=lambda s: s.scans["T2"], T2=lambda s: s.scans["T1"]),
        ("T1", "T2"),
    ),
    "gadolinium": (_each(enhance, "T1"), ("T1",)),
    "motion ghosts": (_each(ghost), ()),
    "left half missing": (_each(cut_left), ()),
    "upper half missing": (_each(cut_top), ()),
    "T2 of another patient": (_replace(T2=lambda s: s.other["T2"]), ("T1", "T2")),
    "strong noise": (_each(add_noise(0.2)), ()),
    "clipped": (_each(clip, "T1", "T2"), ()),
    "inverted": (_each(invert), ()),
    "strong bias": (_each(multiply_field(0.5)), ()),
    "slices too close by the header": (_each(scale_slices), ()),
    "voxels too large by the header": (_each(scale_plane), ()),
    "blurred": (_each(blur), ()),
    "slices of zeros": (_each(zero_slices, "T2"), ("T2",)),
    "slices left out": (_each(drop_slices, "T1"), ("T1", "T2")),
    "FLAIR given as T2": (_replace(T2=lambda s: s.flair), ("T2",)),
    "FLAIR given as T1": (_replace(T1=lambda s: s.flair), ("T1",)),
    "T1 given twice": (_replace(T2=lambda s: s.scans["T1"]), ("T1", "T2")),
    "T1 given as T2, alone": (_alone("T2", lambda s: s.scans["T1"]), ("T1",)),
    "one scan mirrored": (_each(flip, "T1"), ("T1", "T2")),
    "slices of 10 mm": (_each(thicken), ()),
}
# For sessions on one grid, which are not registered.
SPOILT_PREPARED: Mapping[str, tuple[Way, tuple[str, ...]]] = {
    name: SPOILT[name]
    for name in (
        "sequences exchanged",
        "gadolinium",
        "motion ghosts",
        "T2 of another patient",
        "strong noise",
        "clipped",
        "inverted",
        "strong bias",
        "blurred",
        "slices of zeros",
        "FLAIR given as T2",
        "FLAIR given as T1",
        "T1 given twice",
        "one scan mirrored",
        "superior called anterior",
        "voxels too large by the header",
    )
} | {"one scan moved": (_each(move, "T1"), ("T1", "T2"))}
MILD: Mapping[str, Way] = {
    "unchanged": lambda session, rng: dict(session.scans),
    "mild noise": _each(add_noise(0.03)),
    "head tilted": _each(tilt),
    "neck cut off": _each(cut_neck),
}
