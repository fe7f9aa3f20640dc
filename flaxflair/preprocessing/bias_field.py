"""Bias fields of the scans of one session, estimated from all of them together.

N4 attributes every smooth variation of a scan to bias, although white matter itself varies
smoothly. All scans of a session are received by one coil: components common to all scans are
treated as bias, and a component of one scan only may be anatomy. Independent of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

from flaxflair.core.records import Array, Volume
from flaxflair.preprocessing.registration import fit_bias

_MIN_VOXELS = 1000  # of a tissue, for it to be used
_MAX_SPREAD = 2.0  # relative interquartile range of a tissue, relative to that of the other
# Error of N4's field in white matter, coefficient of variation: mostly anatomy, which N4 also finds
# without bias (`tests/benchmarks/bench_prepare.py --bias-by scan --control`).
ERROR: Mapping[str, float] = {
    "T1": 0.018,
    "T1SE": 0.010,
    "T2": 0.018,
    "PD": 0.010,
    "DIR": 0.037,
    "FLAIR": 0.024,
}
# Log-normal prior of the bias specific to one scan: median, as a coefficient of variation, and
# spread, as a factor. In T1 and T2 of four clinical sessions it was 0.012; the fields of their
# FLAIRs differed from both.
_SPECIFIC, _SPECIFIC_FACTOR = 0.012, 1.5
# Degrees of freedom of a smooth field: the polynomials of degree 1 to 3 in three variables.
_MODES = 19
# Unit of the variances, and limits of their logarithms in the optimisation.
_UNIT, _RANGE = 1e-4, (-6.0, 6.0)


def fit_scan(scan: Volume, brain: Array, tissues: Sequence[Array]) -> Volume:
    """Estimates the logarithm of a scan's bias within tissues of normalised brightness.

    Grey and white matter, where known, are each divided by their median first, so that the
    remaining variation is bias. A tissue near its null, as white matter on a DIR, is excluded.

    On a phantom, N4 left 0.30, 0.22, 0.22 and 0.57 of the simulated coil's bias in the white matter
    of T1, T1SE, T2 and DIR this way, and 0.49, 0.30, 0.33 and 0.58 if fitted to the whole brain.
    The contrast of a DIR depends so steeply on T1 that its anatomical variation is mistaken for
    bias: a least-squares fit of the simulated polynomials themselves left 0.91.

    Args:
      scan: not negative.
      brain: bool[x, y, z].
      tissues: bool[x, y, z] each, voxels of one pure tissue; may be empty.

    Returns:
      See `registration.fit_bias`.
    """
    usable = [tissue for tissue in tissues if tissue.sum() > _MIN_VOXELS]
    quartiles = [np.percentile(scan.array[tissue], (25, 50, 75)) for tissue in usable]
    spreads = [(high - low) / max(middle, 1e-30) for low, middle, high in quartiles]
    flat, where = np.zeros_like(scan.array), np.zeros(scan.array.shape, bool)
    for tissue, (_, middle, _), spread in zip(usable, quartiles, spreads, strict=True):
        if spread <= _MAX_SPREAD * min(spreads):
            flat[tissue] = scan.array[tissue] / middle
            where |= tissue
    if not where.any():
        return fit_bias(scan, brain, iterations=(50,))
    return fit_bias(Volume(flat, scan.geometry), where)


def bias_weights(fields: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Returns the weights of all fields of a session in the estimated bias of each scan.

    The logarithm of N4's field is modelled as the sum of three Gaussian fields: the coil's, common
    to all scans; the bias specific to the scan; and N4's error, of the standard deviation `ERROR`.
    The variances of the first two are estimated by maximum a posteriori, and the bias of each scan
    is its expectation given all fields (best linear unbiased prediction of a random effect;
    Robinson, Stat. Sci. 6:15, 1991). Fields that agree are averaged, those with the smallest error
    weighted most; a field unlike the others keeps its weight.

    Args:
      fields: sequence -> float[n], logarithm of the field at the same n voxels of the brain.

    Returns:
      Sequence -> sequence -> weight of the latter's field, less its mean, in the bias of the
      former.
    """
    names = list(fields)
    stacked = np.stack([field - field.mean() for field in fields.values()]).astype(np.float64)
    # Not by a product of matrices, whose rounding depends on threads.
    covariance = np.einsum("in,jn->ij", stacked, stacked) / stacked.shape[1] / _UNIT
    error = np.diag([ERROR[name] ** 2 / _UNIT for name in names])
    # Of the logarithms of variances: twice the logarithm of the factor.
    prior_mean, prior_sd = np.log(_SPECIFIC**2 / _UNIT), 2 * np.log(_SPECIFIC_FACTOR)

    def bias_covariance(logs: Array) -> Array:
        return np.exp(logs[0]) + np.diag(np.exp(logs[1:]))

    def negative_log_posterior(logs: Array) -> float:
        total = bias_covariance(logs) + error
        fit = np.linalg.slogdet(total)[1] + np.trace(np.linalg.solve(total, covariance))
        return float(0.5 * _MODES * fit + 0.5 * np.sum(((logs[1:] - prior_mean) / prior_sd) ** 2))

    start = np.clip([np.log(covariance.mean() + 1), *(prior_mean for _ in names)], *_RANGE)
    bounds = [_RANGE] * len(start)
    best = minimize(negative_log_posterior, start, method="L-BFGS-B", bounds=bounds).x
    weights = bias_covariance(best) @ np.linalg.inv(bias_covariance(best) + error)
    return {
        name: {other: float(weight) for other, weight in zip(names, row, strict=True)}
        for name, row in zip(names, weights, strict=True)
    }
