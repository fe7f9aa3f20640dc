"""Metrics between a synthetic and a true FLAIR, in NumPy. Knows nothing of files or networks.

What is undefined is NaN, decided here alone: a lesion ratio without lesions or over a mean of zero,
an error in an empty region, a similarity to a constant image, an overlap of two empty masks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.metrics import structural_similarity

from flaxflair.volume import Array

SURROUND_VOXELS = 5


def mse(prediction: Array, truth: Array, region: Array | None = None) -> float:
    """Mean squared error in the image's own units, over the volume or a region bool[x, y, z]."""
    error = np.square(prediction.astype(np.float64) - truth)
    return _mean(error, np.ones(error.shape, bool) if region is None else region)


def nmse(prediction: Array, truth: Array, region: Array) -> float:
    """Squared error relative to the truth's variance in a region; 1 is what its mean would give."""
    if not region.any():
        return float("nan")
    variance = float(np.var(truth[region], dtype=np.float64))
    return mse(prediction, truth, region) / variance if variance > 0 else float("nan")


def data_range(truth: Array) -> float:
    """The true FLAIR's maximum less its minimum, over the volume: the range of PSNR and SSIM."""
    return float(np.max(truth) - np.min(truth))


def psnr(prediction: Array, truth: Array) -> float:
    """Peak signal-to-noise ratio in dB over the volume, the peak being `data_range(truth)`."""
    error, peak = mse(prediction, truth), data_range(truth)
    if peak == 0:
        return float("nan")
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(prediction: Array, truth: Array) -> float:
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


def lesion_ratios(flair: Array, lesion: Array, nawm: Array) -> tuple[float, float]:
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
    """How well lesions were found.

    Attributes:
      dice: overlap of the masks, in [0, 1].
      recall: share of the true lesions of which any voxel was found.
      false_positives: how many segmented lesions touch no true one.
      volume_bias: segmented volume less the true one, relative to the true one.
    """

    dice: float
    recall: float
    false_positives: int
    volume_bias: float


def dice(a: Array, b: Array) -> float:
    """Overlap of two masks, bool[x, y, z] (Dice 1945): 1 if equal, 0 if disjoint, NaN if empty."""
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else float("nan")


def lesion_scores(segmented: Array, truth: Array) -> LesionScores:
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


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")


def _mean(values: Array, region: Array) -> float:
    return float(np.mean(values[region], dtype=np.float64)) if region.any() else float("nan")
