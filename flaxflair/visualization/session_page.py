"""Pages for visual inspection of synthetic FLAIRs, of one session or of the sessions of a run.

Reads subjects, runs and derivatives; the layout of a page is in `niivue`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from scipy import ndimage
from skimage.feature import canny

from flaxflair.core.atomic_files import write_text
from flaxflair.core.json_objects import read_object
from flaxflair.core.notice import NOTICE
from flaxflair.core.records import Array, Geometry, InputError, Subject, Verdict, strides
from flaxflair.core.sequences import SEQUENCES, TARGET, parse_patterns
from flaxflair.evaluation.lesion_evidence import DETECTION
from flaxflair.evaluation.scoring import score, score_truth
from flaxflair.imaging.resampling import bounding_box
from flaxflair.io import bids, derivatives
from flaxflair.io.datasets import extract_brain, load_session
from flaxflair.io.fingerprints import fingerprint
from flaxflair.io.session_files import find_sessions
from flaxflair.models.model import Run, load_run
from flaxflair.visualization.lesion_list import LesionList, read_lesions, tabulate
from flaxflair.visualization.niivue import Layer, Scene, make_page
from flaxflair.visualization.panels import grey_range

_MARGIN = 12.0  # displayed margin around the brain, mm
_MOST_VOXELS = 24_000_000  # displayed
_SYNTHETIC, _TRUE = "synthetic FLAIR", "true FLAIR"
_SHOWN = 3  # default number of sessions of a run


def write_page(
    path: Path,
    subject: Subject,
    flair: Array,
    facts: Mapping[str, str],
    title: str = "",
    lesions: LesionList | None = None,
    overlays: Mapping[str, Array] | None = None,
    *,
    verdict: Verdict | None = None,
) -> None:
    """Writes the page of one session atomically.

    Args:
      path: HTML to write.
      subject: subject of the FLAIR.
      flair: [x, y, z], synthetic.
      facts: additional rows of the table below the images.
      title: title of the page; by default the session's name.
      lesions: lesions to list; None for none.
      overlays: title -> [x, y, z], further maps to show; None for none.
      verdict: verdict on the session; None if it was not judged.
    """
    scene = make_scene(subject, flair, facts=facts, lesions=lesions, overlays=overlays)
    if verdict is not None:
        scene = replace(scene, grade=verdict.grade, reasons=verdict.reasons)
    page = make_page(title or f"Synthetic FLAIR of {subject.name}", f"{NOTICE}.", [scene])
    write_text(path, page)


def make_scene(
    subject: Subject,
    flair: Array,
    *,
    maps: Array | None = None,
    facts: Mapping[str, str] | None = None,
    lesions: LesionList | None = None,
    overlays: Mapping[str, Array] | None = None,
) -> Scene:
    """Returns the scene of one session.

    Args:
      subject: subject; its true FLAIR and lesions are shown if present.
      flair: [x, y, z], synthetic.
      maps: [x, y, z, m], saliency of each input; None for none.
      facts: names and values.
      lesions: predicted lesions; None for none.
      overlays: title -> [x, y, z], further maps; None for none.
    """
    brain = subject.masks.brain
    geometry, at = _displayed(subject.geometry, brain)
    scale = grey_range(flair if subject.flair is None else subject.flair, brain)
    inputs = [
        Layer(
            SEQUENCES[name].title,
            subject.images[(*at, channel)],
            grey_range(subject.images[..., channel], brain),
        )
        for channel, name in enumerate(subject.sequences)
    ]
    first = subject.sequences.index(_reference_input(subject))
    images = [inputs.pop(first), Layer(_SYNTHETIC, flair[at], scale)]
    if subject.flair is not None:
        error = np.abs(flair - subject.flair)[at]
        top = float(np.percentile(error[brain[at]], 99.5))
        images += [
            Layer(_TRUE, subject.flair[at], scale),
            Layer("absolute error", error, (0.0, top), colours="inferno"),
        ]
    saliency = {} if maps is None else _name_maps(subject, maps)
    shown = _overlays(subject, images[0].array, at, lesions, {**saliency, **(overlays or {})})
    return Scene(
        subject.name,
        geometry,
        (*images, *inputs, *shown),
        tuple({**_describe(subject, flair), **_describe_steps(at), **(facts or {})}.items()),
        subject.warnings,
        table=None if lesions is None else tabulate(lesions),
    )


def _overlays(
    subject: Subject,
    image: Array,
    at: tuple[slice, slice, slice],
    lesions: LesionList | None,
    maps: Mapping[str, Array],
) -> list[Layer]:
    """Returns the overlays of the displayed part `at`, in which `image` is the reference.

    `maps` are by title, on the whole grid.
    """
    brain = subject.masks.brain
    overlays = [_outline("outline of the brain", brain[at], "red")]
    reference = SEQUENCES[_reference_input(subject)].title
    edges = _edges(image, brain[at])
    overlays.append(Layer(f"edges of the {reference}", edges, (0.5, 1.0), "overlay", "green"))
    if subject.masks.lesion is not None and subject.masks.lesion.any():
        overlays.append(_outline("outline of the lesions", subject.masks.lesion[at], "blue"))
    if lesions is not None:
        probability = lesions.probability[at]
        found = probability >= DETECTION.threshold
        overlays += [
            Layer("lesion probability", probability, (0.1, 1.0), "overlay", "hot"),
            _outline("outline of the lesions listed", found, "green"),
        ]
    for title, values in maps.items():
        top = float(np.percentile(values[brain], 99.5))
        overlays.append(Layer(title, values[at], (0.1 * top, top), "overlay", "hot"))
    return overlays


def _name_maps(subject: Subject, maps: Array) -> dict[str, Array]:
    """Returns title -> saliency map, from [x, y, z, m]."""
    return {
        f"saliency of {SEQUENCES[name].title}": maps[..., m]
        for m, name in enumerate(subject.sequences)
    }


def _displayed(geometry: Geometry, brain: Array) -> tuple[Geometry, tuple[slice, slice, slice]]:
    """Returns the displayed part of a grid, around the brain, and its slices.

    Of a part with more than `_MOST_VOXELS`, which a browser shows slowly, every n-th voxel along
    axes with voxels of at most 0.5 mm.
    """
    box, at = bounding_box(geometry, brain, _MARGIN)
    if np.prod(box.shape) <= _MOST_VOXELS:
        return box, at
    steps = strides(box.voxel_size, 1.0)
    x, y, z = (slice(a.start, a.stop, step) for a, step in zip(at, steps, strict=True))
    return geometry.part((x, y, z)), (x, y, z)


def _reference_input(subject: Subject) -> str:
    """Returns the input whose grid is the reference, or else the one most similar to a FLAIR."""
    references = [name for name in subject.sequences if SEQUENCES[name].suffix == subject.space]
    return next(
        iter([*references, *(n for n in ("T2", "PD") if n in subject.sequences)]),
        subject.sequences[0],
    )


def _outline(title: str, mask: Array, colours: str) -> Layer:
    """Returns the outermost voxels of a mask in every axial slice."""
    inner = np.asarray(ndimage.binary_erosion(mask, np.ones((3, 3, 1))), bool)
    return Layer(title, (mask & ~inner).astype(np.float32), (0.5, 1.0), "overlay", colours)


def _edges(image: Array, brain: Array) -> Array:
    """Returns the edges in every axial slice of an image, float32, 0 or 1."""
    low, high = np.percentile(image[brain], (1, 99))
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    slices = [canny(scaled[..., z], sigma=1.5, mask=brain[..., z]) for z in range(image.shape[2])]
    return np.stack(slices, axis=-1).astype(np.float32)


def _describe_steps(at: tuple[slice, slice, slice]) -> dict[str, str]:
    steps = [part.step or 1 for part in at]
    if max(steps) == 1:
        return {}
    return {"displayed": f"1 of {'×'.join(map(str, steps))} voxels; the file has all of them"}


def _describe(subject: Subject, flair: Array) -> dict[str, str]:
    size = subject.geometry.voxel_size
    millilitres = subject.masks.brain.sum() * np.prod(size) / 1000
    facts = {
        "predicted from": ", ".join(subject.sources[: len(subject.sequences)])
        or ", ".join(subject.sequences),
        "grid": f"{'×'.join(map(str, subject.geometry.shape))} voxels of "
        f"{'×'.join(f'{edge:.3g}' for edge in size)} mm",
        "brain": f"{millilitres:.0f} mL",
    }
    if subject.flair is not None:
        scores, truth = score(subject, flair), score_truth(subject)
        facts["error"] = (
            f"MSE {scores['mse']:.4g}, of the variance in the brain {scores['nmse_brain']:.3f}; "
            f"PSNR {scores['psnr']:.1f} dB; SSIM {scores['ssim']:.3f}"
        )
        if np.isfinite(truth["ratio1"]):
            facts["lesion contrast"] = (
                f"Ratio 1 {scores['ratio1']:.2f} (true {truth['ratio1']:.2f}), "
                f"Ratio 2 {scores['ratio2']:.2f} (true {truth['ratio2']:.2f})"
            )
    return facts


def write_run_page(folder: Path, path: Path, participants: Collection[str] | None = None) -> None:
    """Writes the page of a finished run: its held-out subjects, with their true FLAIRs and P3S.

    Args:
      folder: folder of the run (`--workdir`).
      path: HTML to write.
      participants: labels, with or without `sub-`; None for those of minimum, median and maximum
        error.

    Raises:
      InputError: the folder is not a run, a participant was not predicted, or the data set is
        missing or has changed since the run.
    """
    run = load_run(folder)
    path_of_config = folder / "config.json"
    config = _read(path_of_config, "config")
    with _expecting(path_of_config):
        method, inputs = config["method"], tuple(config["data"]["inputs"])
        patterns = parse_patterns(config["data"]["patterns"])
        region = config["data"]["region"]
    root = folder / "derivative"
    scores = _scores(run)
    wanted = participants or _choose_participants(scores)
    scenes = []
    for files in find_sessions(run.source, inputs, participants=wanted, patterns=patterns):
        run.expect_unchanged(files.name, fingerprint(files, (*inputs, TARGET)))
        subject = load_session(files)
        subject = extract_brain(subject) if region == "brain" else subject
        image = derivatives.flair_path(root, subject)
        if not image.is_file():
            raise InputError(f"{image}: no such file; the run has not predicted {subject.name} yet")
        facts = {"held out in fold": str(run.fold_of(subject.participant))}
        flair = derivatives.read_flair(root, subject)
        maps = derivatives.read_saliency(root, subject)
        scenes.append(make_scene(subject, flair, maps=maps, facts=facts))
    title = f"{folder.resolve().name}: {method} from {', '.join(inputs)}"
    write_text(path, make_page(title, f"{NOTICE}.", scenes))


def _scores(run: Run) -> dict[str, float]:
    """Returns participant -> mean squared error of the run's method."""
    found: dict[str, float] = {}
    for fold in range(len(run.heldout)):
        path = run.folder / f"fold-{fold}" / "scores.json"
        if path.is_file():
            stored = read_object(path, _WAY_OUT)
            with _expecting(path):
                rows = next(iter(stored["methods"].values()))
                found |= {
                    name.split("_")[0]: float(row["mse"])
                    for name, row in zip(stored["heldout"], rows, strict=True)
                }
    if not found:
        raise InputError(f"{run.folder}: it has no finished fold; train it first")
    return found


def _choose_participants(scores: Mapping[str, float]) -> list[str]:
    order = sorted(scores, key=scores.__getitem__)
    picked = np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)
    return [order[number] for number in picked]


def write_session_page(folder: Path, path: Path) -> None:
    """Writes the page of a session that `predict` wrote.

    Args:
      folder: `OUT/sub-01` or `OUT/sub-01/ses-1`.
      path: HTML to write.

    Raises:
      InputError: the folder is not one, or its source data set is missing.
    """
    root = next((p for p in folder.resolve().parents if (p / _DESCRIPTION).is_file()), None)
    if root is None:
        raise InputError(
            f"{folder}: is not in a data set, and neither a run (it has no folds.json) nor a "
            f"predicted data set (no {_DESCRIPTION}); give one of them, or OUT/sub-01"
        )
    parts = folder.resolve().relative_to(root).parts
    images = bids.find_images(root)
    synthetic = [
        image
        for image in images
        if image.entities.get("desc") == "synth" and image.path.is_relative_to(folder.resolve())
    ]
    if not synthetic:
        raise InputError(f"{folder}: holds no synthetic FLAIR; run `flaxflair predict` first")
    beside = bids.sidecar(synthetic[0].path)
    model = _read(beside, "Model")
    with _expecting(beside):
        known = tuple(map(str, model["Sequences"]))
    prepared = any(image.sequence in known for image in images)
    source = root if prepared else find_source(root)
    found = find_sessions(
        source,
        (),
        flair="welcome",
        participants=[parts[0]],
        sessions=None if synthetic[0].session is None else [synthetic[0].session],
    )
    # A universal model uses any subset of its sequences.
    inputs = tuple(name for name in known if name in found[0].sequences)
    subject = load_session(replace(found[0], inputs=inputs))
    facts = {"model": ", ".join(f"{k} {v}" for k, v in model.items())}
    flair = derivatives.read_image(synthetic[0].path, subject)
    lesions = read_lesions(synthetic[0].path, subject)
    write_page(path, subject, flair, facts, lesions=lesions, verdict=_read_verdict(beside))


def _read_verdict(beside: Path) -> Verdict | None:
    """Returns the verdict in a sidecar of `predict`; None in those of earlier versions."""
    found = read_object(beside, _WAY_OUT).get("Verdict")
    if found is None:
        return None
    with _expecting(beside):
        return Verdict(found["Grade"], tuple(map(str, found["Reasons"])))


_DESCRIPTION = "dataset_description.json"
_WAY_OUT = "restore the folder, or create it again"


def _read(path: Path, field: str) -> dict[str, Any]:
    """Returns an object of a JSON file."""
    found = read_object(path, _WAY_OUT).get(field)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no object {field!r}; {_WAY_OUT}")
    return found


@contextmanager
def _expecting(path: Path) -> Iterator[None]:
    """Raises InputError for a missing or invalid field of a JSON file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise InputError(f"{path}: has a missing or invalid field ({error}); {_WAY_OUT}") from None


def find_source(root: Path) -> Path:
    """Returns the source data set of a derivative written by this package.

    Raises:
      InputError: it is missing.
    """
    links = read_object(root / _DESCRIPTION, _WAY_OUT).get("DatasetLinks")
    link = links.get("source", "") if isinstance(links, dict) else ""
    source = Path(os.fsdecode(unquote_to_bytes(str(link).removeprefix("file://"))))
    if not str(link).startswith("file://") or not source.is_dir():
        raise InputError(
            f"{root}: its source data set ({link or 'none'}) is missing; restore it at that path"
        )
    return source
