"""Relaxation of tissues at 3 T, and the signal equations of the pulse sequences.

Pure functions of T1, T2 and proton density. Independent of anatomy, grids and noise. Signals are
signed, so that tissues may cancel within a voxel as in a scanner; the magnitude is taken after
averaging.

Sources: Haacke et al., *Magnetic Resonance Imaging* (2014), chapters 8 and 15, for the equations;
Stanisz et al., Magn. Reson. Med. 54:507 (2005), and Wansapura et al., J. Magn. Reson. Imaging 9:531
(1999), for relaxation times at 3 T; Redpath and Smith, Br. J. Radiol. 67:1258 (1994), for DIR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flaxflair.core.records import Array


@dataclass(frozen=True)
class Tissue:
    """Relaxation of one tissue at 3 T.

    Attributes:
      t1: longitudinal relaxation time in ms.
      t2: transverse relaxation time in ms.
      pd: proton density, water = 1.
    """

    t1: float
    t2: float
    pd: float


TISSUES: Mapping[str, Tissue] = {
    "white": Tissue(850, 70, 0.70),
    "grey": Tissue(1400, 90, 0.82),
    "csf": Tissue(4200, 1800, 1.00),
    "lesion": Tissue(1300, 112, 0.84),
    "fat": Tissue(370, 75, 0.90),
    "muscle": Tissue(1300, 38, 0.72),
    "skin": Tissue(900, 45, 0.60),
    "bone": Tissue(500, 15, 0.06),
}


@dataclass(frozen=True)
class Protocol:
    """Timing of one pulse sequence.

    Attributes:
      repetition: TR in ms.
      echo: TE in ms.
      inversions: ms from each inversion pulse to the excitation, first pulse first; may be empty.
      fat_saturated: whether fat is suppressed before the excitation.
    """

    repetition: float
    echo: float
    inversions: tuple[float, ...] = ()
    fat_saturated: bool = False


PROTOCOLS: Mapping[str, Protocol] = {
    "T1": Protocol(2300, 3, (900,)),
    "T1SE": Protocol(600, 12),
    "T2": Protocol(5000, 95),
    "PD": Protocol(5000, 14),
    "DIR": Protocol(8000, 30, (3345, 555), fat_saturated=True),
    "FLAIR": Protocol(9000, 125, (2450,), fat_saturated=True),
}


def longitudinal(t1: Array | float, protocol: Protocol, efficiency: Array | float = 1.0) -> Array:
    """Returns the longitudinal magnetisation at the excitation, as a fraction of equilibrium.

    In the steady state the magnetisation starts from zero after every excitation, recovers, and is
    turned to `-efficiency` times itself by every inversion pulse. One perfect inversion gives
    `1 - 2 exp(-TI/T1) + exp(-TR/T1)`, two give
    `1 - 2 exp(-TI2/T1) + 2 exp(-TI1/T1) - exp(-TR/T1)`, none gives `1 - exp(-TR/T1)`.

    Args:
      t1: T1 in ms.
      protocol: TR and the inversions.
      efficiency: 1 for a perfect inversion, -1 for none.

    Returns:
      The signed fraction, of the broadcast shape of `t1` and `efficiency`.
    """
    bounds = (protocol.repetition, *protocol.inversions, 0.0)
    fraction = 1 - np.exp(-(bounds[0] - bounds[1]) / t1)
    for start, stop in pairwise(bounds[1:]):
        fraction = 1 - (1 + efficiency * fraction) * np.exp(-(start - stop) / t1)
    return np.asarray(fraction)


def signal(
    t1: Array | float,
    t2: Array | float,
    pd: Array | float,
    protocol: Protocol,
    efficiency: Array | float = 1.0,
) -> Array:
    """Returns the signed spin-echo signal `PD · Mz · exp(-TE/T2)`, in units of water's M0.

    Args:
      t1: T1 in ms.
      t2: T2 in ms.
      pd: proton density.
      protocol: the sequence's timing.
      efficiency: of its inversion pulses.
    """
    return pd * longitudinal(t1, protocol, efficiency) * np.exp(-protocol.echo / np.asarray(t2))
