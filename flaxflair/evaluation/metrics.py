"""Metrics between a synthetic and a true FLAIR, in NumPy. Independent of files and networks.

Undefined values are NaN: a lesion ratio without lesions or over a mean of zero, an error in an
empty region, a similarity to a constant image, an overlap of two empty masks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Real
from scipy import ndimage
from skimage.measure import label
from skimage.metrics import structural_similarity

from flaxflair.core.records import Array

SURROUND_VOXELS = 5


def mse(
    prediction: Real[Array, "*grid"],
    truth: Real[Array, "*grid"],
    region: Bool[Array, "*grid"] | None = None,
) -> float:
    """Mean squared error in the image's own units, over the volume or a region bool[x, y, z]."""
    error = np.square(prediction.astype(np.float64) - truth)
    return _mean(error, np.ones(error.shape, bool) if region is None else region)


def nmse(
    prediction: Real[Array, "x y z"], truth: Real[Array, "x y z"], region: Bool[Array, "x y z"]
) -> float:
    """Mean squared error over the truth's variance in a region; 1 for a prediction of its mean."""
    if not region.any():
        return float("nan")
    variance = float(np.var(truth[region], dtype=np.float64))
    return mse(prediction, truth, region) / variance if variance > 0 else float("nan")


def data_range(truth: Real[Array, ...]) -> float:
    """The true FLAIR's maximum less its minimum, over the volume: the range of PSNR and SSIM."""
    return float(np.max(truth) - np.min(truth))


def psnr(prediction: Real[Array, "x y z"], truth: Real[Array, "x y z"]) -> float:
    """Peak signal-to-noise ratio in dB over the volume, the peak being `data_range(truth)`."""
    error, peak = mse(prediction, truth), data_range(truth)
    if peak == 0:
        return float("nan")
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(prediction: Real[Array, "x y z"], truth: Real[Array, "x y z"]) -> float:
    """Mean structural similarity over the volume (Wang et al. 2004, 7-voxel window, scikit-image).

    The window shrinks to the largest odd size that fits a volume thinner than seven voxels; thinner
    than three, there is none.
    """
    window = min(7, min(truth.shape) - 1 + min(truth.shape) % 2)
    peak = data_range(truth)
    if peak == 0 or window < 3:
        return float("nan")
    truth, prediction = truth.astype(np.float64), prediction.astype(np.float64)
    similarity: Any = structural_similarity(truth, prediction, data_range=peak, win_size=window)
    return float(similarity)


def fit_intensity(
    prediction: Real[Array, "x y z"], truth: Real[Array, "x y z"], region: Bool[Array, "x y z"]
) -> Float[Array, "x y z"]:
    """Returns the prediction with the least-squares gain and offset to the truth in a region.

    The intensity scale of a FLAIR is arbitrary and differs between scanners; errors after this fit
    are comparable across hospitals. float64, of the shape of the prediction. Unchanged if the
    region is empty, and the truth's mean for a constant prediction.

    Args:
      prediction: [x, y, z].
      truth: [x, y, z], in its own units.
      region: bool[x, y, z].
    """
    p, t = prediction[region].astype(np.float64), truth[region].astype(np.float64)
    if p.size == 0:
        return prediction.astype(np.float64)
    variance = p.var()
    gain = float(np.mean((p - p.mean()) * (t - t.mean())) / variance) if variance > 0 else 0.0
    return gain * (prediction - p.mean()) + t.mean()


def nmse_fit(
    prediction: Real[Array, "x y z"], truth: Real[Array, "x y z"], region: Bool[Array, "x y z"]
) -> float:
    """`nmse` in a region after `fit_intensity` there: 1 less the squared correlation."""
    return nmse(fit_intensity(prediction, truth, region), truth, region)


def ssim_fit(
    prediction: Real[Array, "x y z"], truth: Real[Array, "x y z"], region: Bool[Array, "x y z"]
) -> float:
    """Mean structural similarity of a region's voxels after `fit_intensity` there.

    Both images are zero outside the region, and the range is the truth's in it; see `ssim`.
    """
    if not region.any():
        return float("nan")
    fitted = np.where(region, fit_intensity(prediction, truth, region), 0.0)
    inside = np.where(region, truth, 0.0).astype(np.float64)
    window = min(7, min(truth.shape) - 1 + min(truth.shape) % 2)
    peak = data_range(truth[region])
    if peak == 0 or window < 3:
        return float("nan")
    _, similarity = cast(
        tuple[float, Array],
        structural_similarity(inside, fitted, data_range=peak, win_size=window, full=True),
    )
    return _mean(similarity, region)


def lesion_rest(
    flair: Real[Array, "x y z"], lesion: Bool[Array, "x y z"], brain: Bool[Array, "x y z"]
) -> float:
    """Lesion contrast: mean of the lesions over the mean of the rest of the brain.

    Needs no white matter, and so no T1. NaN without lesions.

    Args:
      flair: [x, y, z].
      lesion: bool[x, y, z].
      brain: bool[x, y, z].
    """
    return _ratio(_mean(flair, lesion), _mean(flair, brain & ~lesion))


def lesion_ratios(
    flair: Real[Array, "x y z"], lesion: Bool[Array, "x y z"], nawm: Bool[Array, "x y z"]
) -> tuple[float, float]:
    """Lesion contrast: Ratio 1 and Ratio 2 of Wei et al. 2019, eq. 4.

    Args:
      flair: [x, y, z], in its own units.
      lesion: bool[x, y, z].
      nawm: bool[x, y, z], normal-appearing white matter.

    Returns:
      Mean of the lesions over the mean of the normal-appearing white matter, and over the mean of
      that part of it which lies within a dilation of 5 voxels around the lesions. NaN without
      lesions or without such white matter.
    """
    if not lesion.any():
        return float("nan"), float("nan")
    around = ndimage.binary_dilation(lesion, iterations=SURROUND_VOXELS) & nawm & ~lesion
    bright = _mean(flair, lesion)
    return _ratio(bright, _mean(flair, nawm & ~lesion)), _ratio(bright, _mean(flair, around))


class LesionScores(NamedTuple):
    """Scores of a lesion segmentation.

    Attributes:
      dice: overlap of the masks, in [0, 1].
      recall: share of the true lesions with at least one segmented voxel.
      false_positives: number of segmented lesions that overlap no true one.
      volume_bias: segmented volume less the true one, relative to the true one.
    """

    dice: float
    recall: float
    false_positives: int
    volume_bias: float


def dice(a: Bool[Array, "x y z"], b: Bool[Array, "x y z"]) -> float:
    """Overlap of two masks, bool[x, y, z] (Dice 1945): 1 if equal, 0 if disjoint, NaN if empty."""
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else float("nan")


def lesion_scores(segmented: Bool[Array, "x y z"], truth: Bool[Array, "x y z"]) -> LesionScores:
    """Scores a lesion mask, bool[x, y, z], by the true one, voxel by voxel and lesion by lesion.

    A lesion is a piece whose voxels touch by face, edge or corner. Of a healthy subject, recall and
    volume bias are NaN, and Dice is unless lesions were segmented, when it is 0.
    """
    true, found = (np.asarray(label(mask, connectivity=3)) for mask in (truth, segmented))
    lesions, pieces = int(true.max(initial=0)), int(found.max(initial=0))
    touched = np.unique(true[segmented & truth]).size
    touching = np.unique(found[segmented & truth]).size
    volume = int(truth.sum())
    return LesionScores(
        dice=dice(segmented, truth),
        recall=_ratio(touched, lesions),
        false_positives=pieces - touching,
        volume_bias=_ratio(int(segmented.sum()) - volume, volume),
    )


def _ratio(above: float | int, below: float | int) -> float:
    return above / below if below else float("nan")


def _mean(values: Array, region: Array) -> float:
    return float(np.mean(values[region], dtype=np.float64)) if region.any() else float("nan")
