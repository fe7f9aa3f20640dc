"""ICBM152 template at 1 mm, from the package nilearn.

Source: Fonov et al., NeuroImage 54:313 (2011), the non-linear 2009a template.
"""

from __future__ import annotations

from typing import Literal

from flaxflair.core.records import Volume
from flaxflair.io.nifti import read_volume
from flaxflair.io.resources import nilearn_file


def read_template(name: Literal["t1", "gm", "wm"]) -> Volume:
    """Returns one map of the template: its T1 (brain only), or the probability of a tissue.

    Raises:
      InputError: nilearn is not installed, or does not contain the map.
    """
    return read_volume(
        nilearn_file(f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    )
