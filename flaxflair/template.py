"""Template: the ICBM152 brain that nilearn ships, at 1 mm.

Source: Fonov et al., NeuroImage 54:313 (2011), the non-linear 2009a template.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from flaxflair.nifti import read_volume
from flaxflair.volume import InputError, Volume


def read_template(name: Literal["t1", "gm", "wm"]) -> Volume:
    """Returns one map of the template: its T1, the brain alone, or a tissue's probability.

    Raises:
      InputError: nilearn is not installed.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError("nilearn, which holds the template, is missing; pip install nilearn")
    data = Path(spec.origin).parent / "datasets" / "data"
    return read_volume(data / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
