"""Tissue classes of the generator: FreeSurfer labels and relaxation.

A new tissue is a line in `CLASSES`. Independent of images.

Sources: Stanisz et al., Magn. Reson. Med. 54:507 (2005), Wansapura et al., J. Magn. Reson. Imaging
9:531 (1999), and de Bazelaire et al., Radiology 230:652 (2004), for relaxation at 3 T; Billot et
al., Med. Image Anal. 86:102789 (2023), for label maps in FreeSurfer's numbering, whose labels of
the head outside the brain (500 and above) are those of Puonti et al., Neuroimage 219:117044 (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flaxflair.core.records import Array

Group = Literal["air", "white", "grey", "fluid", "head"]


@dataclass(frozen=True)
class TissueClass:
    """One class of tissue.

    Attributes:
      name: name of the class.
      group: tissue group; `white` and `grey` have texture, and `white` can be lesion.
      labels: FreeSurfer labels, left and right.
      t1: ms at 3 T.
      t2: ms at 3 T.
      pd: proton density, water = 1.
    """

    name: str
    group: Group
    labels: tuple[int, ...]
    t1: float
    t2: float
    pd: float


CLASSES: tuple[TissueClass, ...] = (
    TissueClass("air", "air", (0,), 1000, 50, 0.004),
    TissueClass("cerebral white matter", "white", (2, 41, 85), 850, 70, 0.70),
    TissueClass("cerebral cortex", "grey", (3, 42), 1400, 92, 0.82),
    TissueClass("ventricles", "fluid", (4, 5, 14, 15, 43, 44, 72), 4200, 1600, 1.0),
    TissueClass("cerebrospinal fluid", "fluid", (24,), 4200, 1400, 1.0),
    TissueClass("cerebellar white matter", "white", (7, 46), 880, 70, 0.71),
    TissueClass("cerebellar cortex", "grey", (8, 47), 1350, 90, 0.82),
    TissueClass("thalamus", "grey", (10, 49), 1120, 77, 0.77),
    TissueClass("caudate", "grey", (11, 50, 26, 58), 1290, 78, 0.81),
    TissueClass("putamen", "grey", (12, 51), 1210, 74, 0.80),
    TissueClass("pallidum", "grey", (13, 52), 960, 60, 0.74),
    TissueClass("brainstem", "white", (16, 28, 60), 980, 75, 0.73),
    TissueClass("hippocampus and amygdala", "grey", (17, 18, 53, 54), 1430, 97, 0.83),
    TissueClass("choroid plexus", "grey", (136, 137, 163, 164, 31, 63), 1900, 160, 0.90),
    TissueClass("vessels", "head", (30, 62, 502, 514), 1700, 70, 0.30),
    TissueClass("eyes", "head", (506,), 4000, 700, 1.0),
    TissueClass("fat and soft tissue", "head", (507,), 550, 65, 0.80),
    TissueClass("muscle", "head", (508,), 1300, 38, 0.72),
    TissueClass("mucosa", "head", (509,), 1600, 80, 0.85),
    TissueClass("skin", "head", (511,), 650, 50, 0.75),
    TissueClass("spinal cord", "white", (512,), 950, 75, 0.72),
    TissueClass("cortical bone", "head", (515,), 500, 12, 0.06),
    TissueClass("marrow", "head", (516,), 400, 60, 0.60),
    TissueClass("optic nerve", "head", (530,), 900, 70, 0.72),
    # Lesions of the label maps' subjects; simulated as lesions in some samples only.
    TissueClass("white matter lesions", "white", (25, 57), 850, 70, 0.70),
)

AIR, FLUID = 0, 4
WHITE, CORTEX, VENTRICLES = 1, 2, 3
LESIONS = len(CLASSES) - 1


def class_table() -> Array:
    """Returns uint8[1024], FreeSurfer label -> index in `CLASSES`; unknown labels are air."""
    table = np.zeros(1024, np.uint8)
    for index, tissue in enumerate(CLASSES):
        table[list(tissue.labels)] = index
    return table


def members(*groups: Group) -> Array:
    """Returns the classes in any of the groups, bool[len(CLASSES)]."""
    return np.array([tissue.group in groups for tissue in CLASSES])
