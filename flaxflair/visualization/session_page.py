"""Pages: what a person looks at before trusting a synthetic FLAIR; one session, or those of a run.

Knows subjects, runs and derivatives; `viewer` knows how a page looks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.feature import canny

from flaxflair import bids, derivative
from flaxflair.cohort import extract_brain, find_sessions, load_session
from flaxflair.evaluate import score, score_truth
from flaxflair.files import write_bytes
from flaxflair.model import Run, load_run
from flaxflair.nifti import read_volume
from flaxflair.orientation import to_ras
from flaxflair.panels import grey_range
from flaxflair.sequences import SEQUENCES
from flaxflair.viewer import Layer, Scene, crop, make_page
from flaxflair.volume import Array, InputError, Subject

_MARGIN = 12.0  # mm around the brain that are shown
_SYNTHETIC, _TRUE = "synthetic FLAIR", "true FLAIR"
_SHOWN = 3  # sessions of a run, if none are named


def write_page(
    path: Path, subject: Subject, flair: Array, facts: Mapping[str, str], title: str = ""
) -> None:
    """Writes the page of one session, whole or not at all.

    Args:
      path: HTML to write.
      subject: whose FLAIR it is.
      flair: [x, y, z], synthetic.
      facts: what the table below the images says, beside what the subject itself tells.
      title: of the page; by default the session's name.
    """
    scene = make_scene(subject, flair, facts=facts)
    page = make_page(title or f"Synthetic FLAIR of {subject.name}", _LEAD, [scene])
    write_bytes(path, page.encode())


_LEAD = "Synthesised, not scanned: for research, never for a diagnosis."


def make_scene(
    subject: Subject,
    flair: Array,
    *,
    maps: Array | None = None,
    facts: Mapping[str, str] | None = None,
) -> Scene:
    """Returns what a page shows of one session.

    Args:
      subject: a true FLAIR and lesions are shown if it has them.
      flair: [x, y, z], synthetic.
      maps: [x, y, z, m], saliency of each input; None for none.
      facts: names and values.
    """
    brain = subject.masks.brain
    geometry, at = crop(subject.geometry, brain, _MARGIN)
    scale = grey_range(flair if subject.flair is None else subject.flair, brain)
    inputs = [
        Layer(
            SEQUENCES[name].title,
            subject.images[(*at, channel)],
            grey_range(subject.images[..., channel], brain),
        )
        for channel, name in enumerate(subject.sequences)
    ]
    first = subject.sequences.index(_leader(subject))
    images = [inputs.pop(first), Layer(_SYNTHETIC, flair[at], scale)]
    if subject.flair is not None:
        error = np.abs(flair - subject.flair)[at]
        top = float(np.percentile(error[brain[at]], 99.5))
        images += [
            Layer(_TRUE, subject.flair[at], scale),
            Layer("absolute error", error, (0.0, top), colours="inferno"),
        ]
    overlays = [_outline("outline of the brain", brain[at], "red")]
    leader = SEQUENCES[_leader(subject)].title
    edges = _edges(images[0].array, brain[at])
    overlays.append(Layer(f"edges of the {leader}", edges, (0.5, 1.0), "overlay", "green"))
    if subject.masks.lesion is not None and subject.masks.lesion.any():
        overlays.append(_outline("outline of the lesions", subject.masks.lesion[at], "blue"))
    if maps is not None:
        top = float(np.percentile(maps[brain], 99.5))
        overlays += [
            Layer(
                f"saliency of {SEQUENCES[name].title}",
                maps[(*at, m)],
                (0.1 * top, top),
                "overlay",
                "hot",
            )
            for m, name in enumerate(subject.sequences)
        ]
    return Scene(
        subject.name,
        geometry,
        (*images, *inputs, *overlays),
        tuple({**_describe(subject, flair), **(facts or {})}.items()),
        subject.warnings,
    )


def _leader(subject: Subject) -> str:
    """Returns the input that the others lie on, or else the one most like a FLAIR."""
    own = [name for name in subject.sequences if SEQUENCES[name].suffix == subject.space]
    return next(
        iter([*own, *(n for n in ("T2", "PD") if n in subject.sequences)]), subject.sequences[0]
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
        own, truth = score(subject, flair), score_truth(subject)
        facts["error"] = (
            f"MSE {own['mse']:.4g}, of the variance in the brain {own['nmse_brain']:.3f}; "
            f"PSNR {own['psnr']:.1f} dB; SSIM {own['ssim']:.3f}"
        )
        if np.isfinite(truth["ratio1"]):
            facts["lesion contrast"] = (
                f"Ratio 1 {own['ratio1']:.2f} (true {truth['ratio1']:.2f}), "
                f"Ratio 2 {own['ratio2']:.2f} (true {truth['ratio2']:.2f})"
            )
    return facts


def write_run_page(folder: Path, path: Path, participants: Collection[str] | None = None) -> None:
    """Writes the page of a finished run: its held-out subjects, with their true FLAIRs and P3S.

    Args:
      folder: given to `--workdir`.
      path: HTML to write.
      participants: labels, with or without `sub-`; None for those of the least, the middle and
        the largest error.

    Raises:
      InputError: it is no run, a participant was not predicted, or its data set is gone.
    """
    run = load_run(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    inputs = tuple(config["data"]["inputs"])
    root = folder / "derivative"
    scores = _scores(run)
    wanted = participants or _typical(scores)
    scenes = []
    for files in find_sessions(run.source, inputs, participants=wanted):
        subject = load_session(files)
        subject = extract_brain(subject) if config["data"]["region"] == "brain" else subject
        image = derivative.flair_path(root, subject)
        if not image.is_file():
            raise InputError(f"{image}: no such file; the run has not predicted {subject.name} yet")
        maps = [derivative.saliency_path(root, subject, name) for name in subject.sequences]
        read = (to_ras(read_volume(file)).array for file in maps)
        stacked = np.stack(list(read), axis=-1) if all(f.is_file() for f in maps) else None
        facts = {"held out in fold": str(run.fold_of(subject.participant))}
        flair = to_ras(read_volume(image)).array
        scenes.append(make_scene(subject, flair, maps=stacked, facts=facts))
    title = f"{folder.resolve().name}: {config['method']} from {', '.join(inputs)}"
    write_bytes(path, make_page(title, _LEAD, scenes).encode())


def _scores(run: Run) -> dict[str, float]:
    """Returns participant -> mean squared error of the run's own method."""
    found: dict[str, float] = {}
    for fold in range(len(run.heldout)):
        path = run.folder / f"fold-{fold}" / "scores.json"
        if path.is_file():
            said = json.loads(path.read_text(encoding="utf-8"))
            rows = next(iter(said["methods"].values()))
            found |= {
                name.split("_")[0]: row["mse"]
                for name, row in zip(said["heldout"], rows, strict=True)
            }
    if not found:
        raise InputError(f"{run.folder}: no fold of it is finished; train it first")
    return found


def _typical(scores: Mapping[str, float]) -> list[str]:
    order = sorted(scores, key=scores.__getitem__)
    picked = np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)
    return [order[number] for number in picked]


def write_session_page(folder: Path, path: Path) -> None:
    """Writes the page of a session that `predict` wrote.

    Args:
      folder: `OUT/sub-01` or `OUT/sub-01/ses-1`.
      path: HTML to write.

    Raises:
      InputError: it is no such folder, or the data set that it derives from is gone.
    """
    root = next((p for p in folder.resolve().parents if (p / _DESCRIPTION).is_file()), None)
    if root is None:
        raise InputError(f"{folder}: lies in no data set; give OUT/sub-01, or the folder of a run")
    parts = folder.resolve().relative_to(root).parts
    images = bids.find_images(root)
    own = [
        image
        for image in images
        if image.entities.get("desc") == "synth" and image.path.is_relative_to(folder.resolve())
    ]
    if not own:
        raise InputError(f"{folder}: holds no synthetic FLAIR; run `flaxflair predict` first")
    sidecar: dict[str, Any] = json.loads(bids.sidecar(own[0].path).read_text(encoding="utf-8"))
    inputs = tuple(sidecar["Model"]["Sequences"])
    prepared = any(image.sequence in inputs for image in images)
    source = root if prepared else _source(root)
    found = find_sessions(
        source,
        inputs,
        flair="welcome",
        participants=[parts[0]],
        sessions=None if own[0].session is None else [own[0].session],
    )
    subject = load_session(found[0])
    facts = {"model": ", ".join(f"{k} {v}" for k, v in sidecar["Model"].items())}
    write_page(path, subject, to_ras(read_volume(own[0].path)).array, facts)


_DESCRIPTION = "dataset_description.json"


def _source(root: Path) -> Path:
    """Returns the data set that a derivative of ours comes from."""
    said = json.loads((root / _DESCRIPTION).read_text(encoding="utf-8"))
    link = said.get("DatasetLinks", {}).get("source", "")
    source = Path(link.removeprefix("file://"))
    if not link.startswith("file://") or not source.is_dir():
        raise InputError(f"{root}: the data set that it derives from, {link or 'none'}, is gone")
    return source
