"""flaxflair: the FLAIR that was not scanned.

The public functions, imported when first used so that `import flaxflair` costs nothing:

    load_run        what a run says of itself: its data set, its folds, its summary
    load_model      a trained fold of a finished run
    load_cohort     the subjects of a prepared BIDS data set
    predict_array   intensities [x, y, z, m] -> synthetic FLAIR [x, y, z]
    predict_files   prepared NIfTI files -> synthetic FLAIR NIfTI, on their grid
    predict_session raw NIfTI files -> synthetic FLAIR NIfTI, on the grid of one of them
    predict_cohort  a BIDS data set, raw or prepared -> synthetic FLAIRs, as a BIDS derivative
    prepare_session raw volumes -> images on one grid, brain mask, transforms
    prepare_dataset a raw BIDS data set -> a prepared one
    inspect_files   what would stop a session, or make its FLAIR worthless
    saliency_maps   P3S maps [x, y, z, m] of one subject
    p3s             P3S of any network: `p3s(forward, params, images, target)`
    score           metrics of a synthetic FLAIR against the true one
    read_volume     one checked NIfTI volume
    write_volume    one NIfTI volume, whole or not at all

and the records that they take and give: `Run`, `Model`, `Subject`, `Masks`, `Volume`, `Geometry`,
`Preparation`, `Prepared`; what cannot be used raises `InputError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxflair.cohort import load_cohort
    from flaxflair.evaluate import score
    from flaxflair.inspection import inspect_files
    from flaxflair.intake import prepare_dataset
    from flaxflair.model import (
        Model,
        Run,
        load_model,
        load_run,
        predict_array,
        predict_files,
        saliency_maps,
    )
    from flaxflair.nifti import read_volume, write_volume
    from flaxflair.pipeline import predict_cohort, predict_session
    from flaxflair.prepare import Preparation, Prepared, prepare_session
    from flaxflair.saliency import p3s
    from flaxflair.volume import Geometry, InputError, Masks, Subject, Volume

__all__ = [
    "Geometry",
    "InputError",
    "Masks",
    "Model",
    "Preparation",
    "Prepared",
    "Run",
    "Subject",
    "Volume",
    "inspect_files",
    "load_cohort",
    "load_model",
    "load_run",
    "p3s",
    "predict_array",
    "predict_cohort",
    "predict_files",
    "predict_session",
    "prepare_dataset",
    "prepare_session",
    "read_volume",
    "saliency_maps",
    "score",
    "write_volume",
]

_HOME = {
    "load_cohort": "cohort",
    "score": "evaluate",
    "inspect_files": "inspection",
    "prepare_dataset": "intake",
    "Model": "model",
    "Run": "model",
    "load_model": "model",
    "load_run": "model",
    "predict_array": "model",
    "predict_files": "model",
    "saliency_maps": "model",
    "read_volume": "nifti",
    "write_volume": "nifti",
    "predict_cohort": "pipeline",
    "predict_session": "pipeline",
    "Preparation": "prepare",
    "Prepared": "prepare",
    "prepare_session": "prepare",
    "p3s": "saliency",
    "Geometry": "volume",
    "InputError": "volume",
    "Masks": "volume",
    "Subject": "volume",
    "Volume": "volume",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flaxflair' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flaxflair.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
