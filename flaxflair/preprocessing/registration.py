"""Bias field estimation (N4) and registration, by SimpleITK.

The only module that imports SimpleITK. It passes arrays and never files, because SimpleITK reads
damaged files without an error. Transforms are matrices in world mm (RAS+), as affines are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import SimpleITK as sitk
from skimage.measure import block_reduce

from flaxflair.core.records import Array, Geometry, Volume, strides
from flaxflair.preprocessing.similarity import Comparison, Sampling
from flaxflair.preprocessing.starts import find_starts

Dof = Literal[6, 12]

_SAMPLING = Sampling(5.0, 3.0, 4.0)  # for the choice of a start

# ITK's world coordinates are LPS.
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEED = 1
_BINS = 48
_SAMPLES = 50_000
# First and last step of the gradient descent, relative to the voxel of a level.
_STEP, _MIN_STEP = 0.25, 0.002
# Minimum relative gain in mutual information of an affine over a rigid transform. On phantoms with
# rigid motion the gain was up to 2.3 %, with up to 0.7 mm more error; if a scan was stretched by 1
# or 2 %, it was mostly 5 to 19 %.
_MIN_GAIN = 0.03
# Blocks to which N4 is fitted: edge in mm, and minimum fraction of the mask.
_BIAS_VOXEL, _MIN_FRACTION = 6.0, 0.2


class _Level(NamedTuple):
    """One resolution: voxel of the fixed image, and smoothing of both images, in mm."""

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
    """Estimates the logarithm of the bias field of an image.

    N4 (Tustison et al., IEEE Trans. Med. Imaging 29:1310, 2010) on blocks of about `_BIAS_VOXEL`
    mm, each the mean of its voxels within the mask; the field varies little within a block.

    Args:
      volume: not negative.
      mask: bool[x, y, z], where the field is fitted.
      iterations: maximum for each level of the spline, from one span over the whole field of view;
        the spans are halved at each level.

    Returns:
      float32[x', y', z'], one voxel for each block; its mean is zero over the blocks within the
      mask.
    """
    steps: Any = tuple(max(1, round(_BIAS_VOXEL / edge)) for edge in volume.geometry.voxel_size)
    filled, total = (
        block_reduce(array, steps, np.sum)
        for array in (mask.astype(np.float64), np.where(mask, volume.array, 0.0))
    )
    # A small scan or a thin mask may fill no block sufficiently.
    inside = filled >= _MIN_FRACTION * np.prod(steps)
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
    n4.SetNumberOfWorkUnits(1)  # sums in a fixed order
    n4.Execute(image, _image(inside.astype(np.uint8), geometry))
    log = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).transpose(2, 1, 0)
    return Volume((log - log[inside].mean()).astype(np.float32), geometry)


def register(
    moving: Volume,
    fixed: Volume,
    mask: Array,
    dof: Dof = 12,
    *,
    start: Array | None = None,
    finest: float = 1.0,
) -> Array:
    """Returns the transform from world mm of the fixed image to world mm of the moving image.

    Maximises Mattes' mutual information, coarse to fine, rigid first; deterministic. The descent
    begins at the translations of `starts`. An affine transform is returned only if its mutual
    information is larger by at least `_MIN_GAIN`.

    Args:
      moving: the image to be moved.
      fixed: the image it is moved onto.
      mask: bool[x, y, z] on the fixed image, where they are compared.
      dof: degrees of freedom: 6 for a rigid transform, 12 for an affine one.
      start: float64[4, 4], initial affine transform; None to search for starts.
      finest: mm, smallest voxel of the resolution levels used.

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
    comparison = Comparison(moving, fixed, mask, _SAMPLING)
    coarse = [
        _optimise(levels[:1], _rigid(shift, fixed.geometry.centre), _STEP)[0]
        for shift in find_starts(moving, fixed, comparison)
    ]
    best = max(coarse, key=lambda found: comparison.mutual_information(_matrix(found)))
    found, cost = _optimise(levels[1:] or levels, best, _STEP)
    if dof == 12:
        affine = _affine(_matrix(found), fixed.geometry.centre)
        # Compared at full resolution: of smoothed images a worse transform, 1 mm off, once won.
        refined, refined_cost = _optimise(levels[1:] or levels, affine, 0.2 * _STEP)
        found = refined if refined_cost < (1 + _MIN_GAIN) * cost else found
    return _matrix(found)


def _rigid(shift: Array, centre: Array) -> sitk.Euler3DTransform:
    """Returns a translation, mm (RAS+), as ITK's rigid transform with rotation about `centre`."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter((_FLIP[:3, :3] @ centre).tolist())
    transform.SetTranslation((_FLIP[:3, :3] @ shift).tolist())
    return transform


def _affine(matrix: Array, centre: Array) -> sitk.AffineTransform:
    """Returns a matrix in world mm (RAS+) as ITK's affine transform about `centre`."""
    lps, centre = _FLIP @ matrix @ _FLIP, _FLIP[:3, :3] @ centre
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation((lps[:3, 3] + lps[:3, :3] @ centre - centre).tolist())
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
        # Interpolated, and therefore finer than the fixed image, but not finer than its smoothing.
        moving = sitk.Shrink(moving, strides(moving.GetSpacing(), 0.5 * level.voxel))
    # For each axis separately: thick slices are not subsampled.
    coarse = strides(fixed.GetSpacing(), level.voxel)
    return _Pair(level.voxel, sitk.Shrink(fixed, coarse), moving, sitk.Shrink(mask, coarse))


def _optimise(
    levels: Sequence[_Pair], start: sitk.Transform, step: float
) -> tuple[sitk.Transform, float]:
    """Maximises the mutual information of two images from an initial transform.

    Args:
      levels: coarse to fine.
      start: initial transform.
      step: first step, relative to the voxel of a level.

    Returns:
      The transform, and its negative mutual information at the last level.
    """
    found, cost = start, np.inf
    for pair in levels:
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfWorkUnits(1)  # sums in a fixed order
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        voxels = pair.fixed.GetNumberOfPixels()
        method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / voxels), _SEED)
        method.SetMetricFixedMask(pair.mask)
        # Gradients at the samples, by differences of the interpolated image. Those of a smoothed
        # image, ITK's default, stop short of the optimum if slices are thick, and take longer.
        method.MetricUseMovingImageGradientFilterOff()
        method.MetricUseFixedImageGradientFilterOff()
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            step * pair.voxel, _MIN_STEP * pair.voxel, 100, relaxationFactor=0.5
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(found, inPlace=False)
        result = method.Execute(pair.fixed, pair.moving)
        inner = isinstance(result, sitk.CompositeTransform)
        found = result.GetNthTransform(0) if inner else result
        cost = method.GetMetricValue()
    return found, cost


def transform_text(matrix: Array) -> str:
    """Returns a matrix of `register` as an ITK transform file, for ITK, ANTs and Slicer.

    Args:
      matrix: float64[4, 4], world mm of the fixed image to world mm of the moving one (RAS+).
    """
    lps = _FLIP @ matrix @ _FLIP
    parameters = " ".join(repr(float(v)) for v in [*lps[:3, :3].ravel(), *lps[:3, 3]])
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
