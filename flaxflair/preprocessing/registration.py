"""Bias and motion: inhomogeneity correction and registration, by SimpleITK.

The only module that imports SimpleITK, which is handed arrays and never a file: it reads a damaged
one without a word. Transforms here are matrices in world mm (RAS+), as affines are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import SimpleITK as sitk
from skimage.measure import block_reduce

from flaxflair.core.records import Array, Geometry, Volume, strides
from flaxflair.preprocessing.similarity import Comparison, Look
from flaxflair.preprocessing.starts import find_starts

Freedom = Literal[6, 12]

_LOOK = Look(5.0, 3.0, 4.0)  # to choose a start

# ITK's world is left, posterior, superior.
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEED = 1
_BINS = 48
_SAMPLES = 50_000
# Of a level's voxel: the first step of the descent, and the last.
_STEP, _LEAST_STEP = 0.25, 0.002
# An affine map has to tell so much more than a rigid one. On phantoms it told up to 2.3 % more
# where the truth was rigid, and lay up to 0.7 mm further off; where a scan was stretched by one or
# two per cent, it mostly told 5 to 19 % more.
_LEAST_GAIN = 0.03
# Blocks to which N4 is fitted: mm, and how full of the mask they have to be.
_BIAS_VOXEL, _FILLED = 6.0, 0.2


class _Level(NamedTuple):
    """One resolution: voxels of the fixed image, and smoothing of both, in mm."""

    voxel: float
    smoothing: float


_LEVELS = (_Level(4.0, 3.0), _Level(2.0, 1.5), _Level(1.0, 0.0))


def _image(array: Array, geometry: Geometry) -> sitk.Image:
    """Returns an ITK image of an array [x, y, z]."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = _FLIP @ geometry.affine
    size = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(size.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / size).ravel().tolist())
    return image


def fit_bias(volume: Volume, mask: Array, *, iterations: Sequence[int] = (50, 30)) -> Volume:
    """Returns the logarithm of the smooth field by which an image was multiplied.

    N4 (Tustison et al., IEEE Trans. Med. Imaging 29:1310, 2010) on blocks of voxels of about
    `_BIAS_VOXEL` mm, each the mean of what the mask has of it: the field is smooth over many.

    Args:
      volume: not negative.
      mask: bool[x, y, z], where the field is fitted.
      iterations: at most, for splines over the whole field of view, over halves of it, and so on.

    Returns:
      float32[x', y', z'], a voxel a block, zero on average where the mask fills enough of it.
    """
    steps: Any = strides(volume.geometry.voxel_size, _BIAS_VOXEL)
    filled, total = (
        block_reduce(array, steps, np.sum)
        for array in (mask.astype(np.float64), np.where(mask, volume.array, 0.0))
    )
    # In a small scan, or a thin mask, any block will do.
    inside = filled >= _FILLED * np.prod(steps)
    inside = inside if inside.any() else filled > 0
    small = np.where(inside, total / np.maximum(filled, 1), 0).astype(np.float32)
    corner = np.diag([*steps, 1.0])
    corner[:3, 3] = (np.array(steps) - 1) / 2
    x, y, z = small.shape
    geometry = Geometry((x, y, z), volume.geometry.affine @ corner)
    image = _image(small, geometry)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(list(iterations))
    n4.SetConvergenceThreshold(1e-4)
    n4.SetNumberOfWorkUnits(1)  # or sums are added in another order every time
    n4.Execute(image, _image(inside.astype(np.uint8), geometry))
    log = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).transpose(2, 1, 0)
    return Volume((log - log[inside].mean()).astype(np.float32), geometry)


def register(
    moving: Volume,
    fixed: Volume,
    mask: Array,
    freedom: Freedom = 12,
    *,
    start: Array | None = None,
    finest: float = 1.0,
) -> Array:
    """Returns the matrix that takes world mm of the fixed image to world mm of the moving one.

    Mattes' mutual information, coarse to fine, rigid first; the same result every time. The descent
    starts where the images tell the most of each other: see `starts`. An affine map is kept
    only where they tell clearly more by it.

    Args:
      moving: the image to be moved.
      fixed: the image it is moved onto.
      mask: bool[x, y, z] on the fixed image, where they are compared.
      freedom: 6 for rotation and shift, 12 for an affine map.
      start: float64[4, 4], an affine map that is nearly right; None to look for starts.
      finest: mm; no voxels finer than this are looked at.

    Returns:
      float64[4, 4].
    """
    still, move = (
        sitk.Cast(_image(v.array, v.geometry), sitk.sitkFloat32) for v in (fixed, moving)
    )
    where = _image(mask.astype(np.uint8), fixed.geometry)
    levels = [
        _shrink(still, move, where, level) for level in _LEVELS if level.voxel >= finest - 1e-6
    ]
    if start is not None:
        return _matrix(_optimise(levels, _affine(start, fixed.geometry.centre), _STEP)[0])
    comparison = Comparison(moving, fixed, mask, _LOOK)
    coarse = [
        _optimise(levels[:1], _rigid(shift, fixed.geometry.centre), _STEP)[0]
        for shift in find_starts(moving, fixed, comparison)
    ]
    best = max(coarse, key=lambda found: comparison.information(_matrix(found)))
    found, cost = _optimise(levels[1:] or levels, best, _STEP)
    if freedom == 12:
        affine = _affine(_matrix(found), fixed.geometry.centre)
        # Judged where the images are sharp: smooth ones once preferred a map that was 1 mm off.
        wider, cost_of_wider = _optimise(levels[1:] or levels, affine, 0.2 * _STEP)
        found = wider if cost_of_wider < (1 + _LEAST_GAIN) * cost else found
    return _matrix(found)


def _rigid(shift: Array, centre: Array) -> sitk.Euler3DTransform:
    """Returns a shift, mm (RAS+), as ITK's rigid transform, which turns about `centre`."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter((_FLIP[:3, :3] @ centre).tolist())
    transform.SetTranslation((_FLIP[:3, :3] @ shift).tolist())
    return transform


def _affine(matrix: Array, centre: Array) -> sitk.AffineTransform:
    """Returns a matrix in world mm (RAS+) as ITK's transform, which turns about `centre`."""
    own, centre = _FLIP @ matrix @ _FLIP, _FLIP[:3, :3] @ centre
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(own[:3, :3].ravel().tolist())
    transform.SetTranslation((own[:3, 3] + own[:3, :3] @ centre - centre).tolist())
    return transform


class _Pair(NamedTuple):
    """Two images and a mask at one resolution."""

    voxel: float
    fixed: sitk.Image
    moving: sitk.Image
    mask: sitk.Image


def _shrink(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, level: _Level) -> _Pair:
    if level.smoothing > 0:
        fixed, moving = (
            sitk.SmoothingRecursiveGaussian(image, [level.smoothing] * 3)
            for image in (fixed, moving)
        )
        # Read between its voxels, and so finer than the fixed image; no finer than it is smooth.
        moving = sitk.Shrink(moving, strides(moving.GetSpacing(), 0.5 * level.voxel))
    # Axis for axis: slices that are thick already are kept.
    coarse = strides(fixed.GetSpacing(), level.voxel)
    return _Pair(level.voxel, sitk.Shrink(fixed, coarse), moving, sitk.Shrink(mask, coarse))


def _optimise(
    levels: Sequence[_Pair], start: sitk.Transform, step: float
) -> tuple[sitk.Transform, float]:
    """Finds the transform near a first guess at which two images tell the most of each other.

    Args:
      levels: coarse to fine.
      start: the first guess.
      step: the first, of a level's voxel.

    Returns:
      The transform, and its negative mutual information at the last level.
    """
    found, cost = start, np.inf
    for pair in levels:
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfWorkUnits(1)  # or sums are added in another order every time
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        voxels = pair.fixed.GetNumberOfPixels()
        method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / voxels), _SEED)
        method.SetMetricFixedMask(pair.mask)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            step * pair.voxel, _LEAST_STEP * pair.voxel, 100, relaxationFactor=0.5
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(found, inPlace=False)
        result = method.Execute(pair.fixed, pair.moving)
        inner = isinstance(result, sitk.CompositeTransform)
        found = result.GetNthTransform(0) if inner else result
        cost = method.GetMetricValue()
    return found, cost


def transform_text(matrix: Array) -> str:
    """Returns a matrix of `register` as ITK's text file, which ITK, ANTs and Slicer apply as it is.

    Args:
      matrix: float64[4, 4], world mm of the fixed image to world mm of the moving one (RAS+).
    """
    own = _FLIP @ matrix @ _FLIP
    parameters = " ".join(repr(float(v)) for v in [*own[:3, :3].ravel(), *own[:3, 3]])
    return (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {parameters}\nFixedParameters: 0 0 0\n"
    )


def _matrix(transform: sitk.Transform) -> Array:
    """Returns the matrix of an affine ITK transform in world mm (RAS+)."""
    columns = [transform.TransformPoint(point) for point in np.eye(4)[:, :3].tolist()]
    out = np.eye(4)
    out[:3, 3] = columns[3]
    out[:3, :3] = np.array(columns[:3]).T - out[:3, 3:]
    return _FLIP @ out @ _FLIP
