"""flaxflair: the FLAIR that was not scanned.

The public functions, imported when first used so that `import flaxflair` costs nothing:

    load_run        what a run says of itself: its data set, its folds, its summary
    load_model      a trained fold of a finished run, or a model in one file
    export_model    a model to one file
    load_cohort     the subjects of a prepared BIDS data set
    predict_array   intensities [x, y, z, m] -> synthetic FLAIR [x, y, z]
    predict         subject -> synthetic FLAIR, a volume on the subject's grid
    predict_session NIfTI files, raw or prepared -> synthetic FLAIR NIfTI, on the grid of one
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
`Preparation`, `Prepared`, `Extras`; what cannot be used raises `InputError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxflair.core.records import Geometry, InputError, Masks, Subject, Volume
    from flaxflair.evaluation.scoring import score
    from flaxflair.io.datasets import load_cohort
    from flaxflair.io.nifti import read_volume, write_volume
    from flaxflair.models.model import (
        Model,
        Run,
        load_run,
        predict,
        predict_array,
        saliency_maps,
    )
    from flaxflair.models.saliency import p3s
    from flaxflair.models.saving import export_model, load_model
    from flaxflair.pipelines.extras import Extras
    from flaxflair.pipelines.predict import predict_cohort, predict_session
    from flaxflair.preprocessing.dataset import prepare_dataset
    from flaxflair.preprocessing.inspection import inspect_files
    from flaxflair.preprocessing.options import Preparation
    from flaxflair.preprocessing.session import Prepared, prepare_session

__all__ = [
    "Extras",
    "Geometry",
    "InputError",
    "Masks",
    "Model",
    "Preparation",
    "Prepared",
    "Run",
    "Subject",
    "Volume",
    "export_model",
    "inspect_files",
    "load_cohort",
    "load_model",
    "load_run",
    "p3s",
    "predict",
    "predict_array",
    "predict_cohort",
    "predict_session",
    "prepare_dataset",
    "prepare_session",
    "read_volume",
    "saliency_maps",
    "score",
    "write_volume",
]

_HOME = {
    "Extras": "pipelines.extras",
    "load_cohort": "io.datasets",
    "score": "evaluation.scoring",
    "inspect_files": "preprocessing.inspection",
    "prepare_dataset": "preprocessing.dataset",
    "Model": "models.model",
    "Run": "models.model",
    "export_model": "models.saving",
    "load_model": "models.saving",
    "load_run": "models.model",
    "predict_array": "models.model",
    "predict": "models.model",
    "saliency_maps": "models.model",
    "read_volume": "io.nifti",
    "write_volume": "io.nifti",
    "predict_cohort": "pipelines.predict",
    "predict_session": "pipelines.predict",
    "Preparation": "preprocessing.session",
    "Prepared": "preprocessing.session",
    "prepare_session": "preprocessing.session",
    "p3s": "models.saliency",
    "Geometry": "core.records",
    "InputError": "core.records",
    "Masks": "core.records",
    "Subject": "core.records",
    "Volume": "core.records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flaxflair' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flaxflair.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
