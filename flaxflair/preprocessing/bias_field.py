"""Bias: by which fields the scans of one session were multiplied, told from all of them together.

N4 takes whatever is smooth in a scan for bias, and white matter itself varies as smoothly. But one
coil received every scan of a session: what their fields have in common is bias, and what one has
alone may be anatomy. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

from flaxflair.core.records import Array, Volume
from flaxflair.preprocessing.registration import fit_bias

# A tissue is known if it has so many voxels, and is trusted if its spread is at most so many times
# the other's.
_FEWEST_VOXELS = 1000
_MOST_SPREAD = 2.0
# How far N4's field is off in white matter, coefficient of variation: by anatomy, mostly, which it
# finds where there is no bias too (`tests/benchmarks/bench_prepare.py --bias-by scan --control`).
ERROR: Mapping[str, float] = {
    "T1": 0.018,
    "T1SE": 0.010,
    "T2": 0.018,
    "PD": 0.010,
    "DIR": 0.037,
    "FLAIR": 0.024,
}
# What a scan's bias has of its own, the same measure, and by which factor that is usually missed.
# In T1 and T2 of four clinical sessions it was 0.012; the fields of their FLAIR were unlike both.
_OWN, _OWN_FACTOR = 0.012, 1.5
# A field smooth over a brain has about as many modes as there are polynomials of three degrees.
_MODES = 19
# The optimiser moves logarithms of variances, in units of 1e-4, between these.
_UNIT, _RANGE = 1e-4, (-6.0, 6.0)


def fit_scan(scan: Volume, brain: Array, tissues: Sequence[Array]) -> Volume:
    """Returns the logarithm of a scan's bias, fitted where tissue was brought to one brightness.

    Where grey and white matter are known, each is divided by its median first, so that what is left
    of their contrast is bias; a tissue near its null, as white matter on a DIR, has no say.

    On a phantom N4 so left 0.30, 0.22, 0.22 and 0.57 of the bias that the coil had planted in the
    white matter of T1, T1SE, T2 and DIR, and N4 in the brain as it is 0.49, 0.30, 0.33 and 0.58.
    A DIR's contrast follows T1 so steeply that its own variation passes for bias: a least-squares
    fit of the very polynomials that had been planted left 0.91.

    Args:
      scan: not negative.
      brain: bool[x, y, z].
      tissues: bool[x, y, z] each, where the scan is sure to show one tissue; may be empty.

    Returns:
      See `registration.fit_bias`.
    """
    known = [tissue for tissue in tissues if tissue.sum() > _FEWEST_VOXELS]
    quartiles = [np.percentile(scan.array[tissue], (25, 50, 75)) for tissue in known]
    spreads = [(high - low) / max(middle, 1e-30) for low, middle, high in quartiles]
    flat, where = np.zeros_like(scan.array), np.zeros(scan.array.shape, bool)
    for tissue, (_, middle, _), spread in zip(known, quartiles, spreads, strict=True):
        if spread <= _MOST_SPREAD * min(spreads):
            flat[tissue] = scan.array[tissue] / middle
            where |= tissue
    if not where.any():
        return fit_bias(scan, brain, iterations=(50,))
    return fit_bias(Volume(flat, scan.geometry), where)


def share(fields: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Returns how the fields of a session's scans are best mixed, to be the bias of each.

    The logarithm of what N4 finds in a scan is taken to be the sum of three Gaussian fields: the
    coil's, the same in every scan; what the bias of this scan has of its own; and N4's error, as
    strong as `ERROR` says. The most likely strengths of the first two are found, and with them
    the expected bias of each scan given all fields (the best linear unbiased prediction of a random
    effect; Robinson, Stat. Sci. 6:15, 1991). Where scans agree, their fields are averaged, those
    that err least counting most; a field that is unlike the others is left as it is.

    Args:
      fields: sequence -> float[n], the logarithm of the field at the same n places in the brain.

    Returns:
      Sequence -> sequence -> weight, by which the latter's field, less its mean, enters the bias of
      the former.
    """
    names = list(fields)
    found = np.stack([field - field.mean() for field in fields.values()]).astype(np.float64)
    covariance = found @ found.T / found.shape[1] / _UNIT
    error = np.diag([ERROR[name] ** 2 / _UNIT for name in names])
    usual, spread = np.log(_OWN**2 / _UNIT), 2 * np.log(_OWN_FACTOR)

    def bias(logs: Array) -> Array:
        return np.exp(logs[0]) + np.diag(np.exp(logs[1:]))

    def unlikeliness(logs: Array) -> float:
        total = bias(logs) + error
        fit = np.linalg.slogdet(total)[1] + np.trace(np.linalg.solve(total, covariance))
        return float(0.5 * _MODES * fit + 0.5 * np.sum(((logs[1:] - usual) / spread) ** 2))

    start = np.clip([np.log(covariance.mean() + 1), *(usual for _ in names)], *_RANGE)
    best = minimize(unlikeliness, start, method="L-BFGS-B", bounds=[_RANGE] * len(start)).x
    weights = bias(best) @ np.linalg.inv(bias(best) + error)
    return {
        name: {other: float(weight) for other, weight in zip(names, row, strict=True)}
        for name, row in zip(names, weights, strict=True)
    }
