"""Accuracy of tissue levels, and their robustness to disturbances of a scan or its mask.

Run as `python -m tests.benchmarks.bench_levels [--dataset DIR ...] [--phantom DIR] [--cores DIR]`.

`--phantom` is an output of `flaxflair phantom`: every subset of its sequences is compared with the
medians in its tissue labels. `--dataset` is a prepared data set, of which each session is disturbed
in eight ways and the levels compared with the undisturbed ones. `--cores` holds label images,
`sub-01_ses-1_dseg.nii.gz`: 1, 2, 3 for certain fluid, grey and white matter. Errors are percent of
the white matter's level (DIR: grey matter's). Independent of models.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import ndimage

from flaxflair.core.records import Array, InputError, Masks, Subject
from flaxflair.core.sequences import INPUTS, TARGET
from flaxflair.imaging.orientation import to_ras
from flaxflair.imaging.tissue_levels import (
    CONTRASTS,
    TISSUES,
    Levels,
    TissueLevels,
    fit_tissue_levels,
)
from flaxflair.io.bids import write_json
from flaxflair.io.datasets import load_cohort, load_session
from flaxflair.io.nifti import read_volume
from flaxflair.io.session_files import find_sessions
from tests.benchmarks.record import describe_run

Truth = Mapping[str, Levels]
Found = Mapping[tuple[str, ...], list[Array]]  # row of a table -> errors, [3] each
_IN_PLANE = ndimage.generate_binary_structure(3, 1)[:, :, 1:2]


def load(root: Path) -> list[Subject]:
    """Returns every session of a prepared data set with whichever of T1 and T2 it has."""
    sessions: dict[str, Subject] = {}
    for inputs in (("T1", "T2"), ("T1",), ("T2",)):
        for files in find_sessions(root, inputs, flair="welcome"):
            with suppress(InputError):  # it lacks one of them
                subject = load_session(files)
                sessions.setdefault(subject.name, subject)
    return list(sessions.values())


def images_of(subject: Subject) -> dict[str, Array]:
    """Returns sequence -> image, the FLAIR included."""
    images = {name: subject.images[..., m] for m, name in enumerate(subject.sequences)}
    return images if subject.flair is None else {**images, TARGET: subject.flair}


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields every subset of the inputs among names, and the FLAIR alone."""
    inputs = [name for name in INPUTS if name in names]
    for size in range(1, len(inputs) + 1):
        yield from combinations(inputs, size)
    if TARGET in names:
        yield (TARGET,)


def fit(
    subject: Subject, names: tuple[str, ...], images: Mapping[str, Array], brain: Array
) -> TissueLevels:
    """Returns the levels found in some sequences of a session."""
    stacked = np.stack([images[name] for name in names], axis=-1)
    return fit_tissue_levels(stacked, names, brain, subject.geometry.voxel_size)


def difference(own: Levels, true: Levels, sequence: str) -> Array:
    """Returns errors of fluid, grey and white in percent of the reference tissue's level."""
    reference = getattr(true, CONTRASTS[sequence].reference)
    return np.array([100 * (getattr(own, t) - getattr(true, t)) / reference for t in TISSUES])


def levels_in(labels: Array, images: Mapping[str, Array]) -> Truth:
    """Returns medians where labels are 1, 2, 3: fluid, grey and white matter."""
    return {
        name: Levels(*(float(np.median(image[labels == tissue])) for tissue in (1, 2, 3)))
        for name, image in images.items()
    }


def phantom_labels(root: Path, subject: Subject) -> Array:
    """Returns 1, 2, 3 in the in-plane cores of the phantom's fluid, cortex and white matter."""
    (path,) = (root / "derivatives" / "truth").rglob(f"{subject.name}_*dseg.nii.gz")
    found = to_ras(read_volume(path)).array
    labels = np.zeros(found.shape, np.uint8)
    for tissue, kinds in enumerate(((1, 5), (2,), (3,)), start=1):
        core = np.asarray(ndimage.binary_erosion(np.isin(found, kinds), _IN_PLANE), bool)
        labels[core] = tissue
    return labels


def compare(subjects: Sequence[Subject], labels: Callable[[Subject], Array]) -> Found:
    """Returns (sequence, `alone` or `joint`) -> errors against the medians in labels."""
    rows: dict[tuple[str, ...], list[Array]] = defaultdict(list)
    for subject in subjects:
        images = images_of(subject)
        truth = levels_in(labels(subject), images)
        for names in subsets(list(images)):
            found = fit(subject, names, images, subject.masks.brain)
            how = "alone" if len(names) == 1 else "joint"
            for name in names:
                rows[name, how].append(difference(found[name], truth[name], name))
    return rows


def crop(subject: Subject) -> Subject:
    """Returns a subject whose arrays end four voxels beyond the brain."""
    masks = subject.masks
    (where,) = ndimage.find_objects(masks.brain.astype(np.uint8))
    at = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in where)
    white = None if masks.white_matter is None else masks.white_matter[at]
    return replace(
        subject,
        images=subject.images[at],
        flair=None if subject.flair is None else subject.flair[at],
        masks=Masks(masks.brain[at], white_matter=white),
    )


Disturbance = Callable[[Array, Subject, int], Array]


def _noise(image: Array, subject: Subject, seed: int) -> Array:
    sd = 0.07 * float(np.median(image[subject.masks.brain]))
    first, second = np.random.default_rng(seed).standard_normal((2, *image.shape), np.float32)
    return np.where(image == 0, 0, np.hypot(image + sd * first, sd * second))


def _bias(image: Array, subject: Subject, seed: int) -> Array:
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    a, b, c, d = np.random.default_rng(seed).uniform(-1, 1, 4)
    field = a * x + b * y + c * z + d * (x * x + y * y)
    return image * np.exp(0.15 * field / np.abs(field).max())


def _resample(edges: tuple[float, float, float]) -> Disturbance:
    def disturb(image: Array, subject: Subject, seed: int) -> Array:
        ratios = np.array(edges) / np.array(subject.geometry.voxel_size)
        thick = np.maximum(1, ratios)
        blurred = ndimage.gaussian_filter(image, np.where(thick > 1, 0.42 * thick, 0))
        shape = [max(2, int(n / r + 0.5)) for n, r in zip(image.shape, thick, strict=True)]
        small = ndimage.zoom(
            blurred, np.array(shape) / np.array(image.shape), order=1, grid_mode=False
        )
        back = np.array(image.shape) / np.array(small.shape)
        restored = np.asarray(ndimage.zoom(small, back, order=1, grid_mode=False))
        return np.where(image == 0, 0, restored)

    return disturb


def _lesions(image: Array, subject: Subject, seed: int) -> Array:
    """Plants 50 mL into deep white matter: grey matter's level, and half as much again on T2."""
    names = list(images_of(subject))
    name = names[seed]
    size = subject.geometry.voxel_size
    depth = np.asarray(ndimage.distance_transform_edt(subject.masks.brain, sampling=size))
    rng = np.random.default_rng(7)
    drawn = rng.standard_normal(image.shape, np.float32)
    smooth = np.asarray(ndimage.gaussian_filter(drawn, [4 / edge for edge in size]))
    white = subject.masks.white_matter
    where = (depth > 15) & (subject.masks.brain if white is None else white)
    count = min(int(50_000 / np.prod(size)), int(where.sum() // 2))
    lesion = where & (smooth >= np.sort(smooth[where])[-count])
    factor = {"T1": 0.7, "T2": 2.0, TARGET: 1.5}[name]
    return np.where(lesion, image * factor, image)


IMAGES: Mapping[str, Disturbance] = {
    "noise of 7 %": _noise,
    "bias of ±15 %": _bias,
    "1×1×6 mm": _resample((1, 1, 6)),
    "0.7×0.7×3 mm": _resample((0.7, 0.7, 3)),
    "lesions of 50 mL": _lesions,
}


def disturb_mask(subject: Subject, voxels: int) -> Array:
    """Returns a brain that is dilated, or eroded, in every slice."""
    change = ndimage.binary_dilation if voxels > 0 else ndimage.binary_erosion
    return np.asarray(change(subject.masks.brain, _IN_PLANE, iterations=abs(voxels)))


def disturb(subjects: Sequence[Subject]) -> Found:
    """Returns (disturbance, sequence, `alone` or `joint`) -> changes of the levels."""
    rows: dict[tuple[str, ...], list[Array]] = defaultdict(list)
    for whole in subjects:
        subject = crop(whole)
        images = images_of(subject)
        brain = subject.masks.brain
        before = {names: fit(subject, names, images, brain) for names in subsets(list(images))}
        cases = {
            label: ({n: change(i, subject, m) for m, (n, i) in enumerate(images.items())}, brain)
            for label, change in IMAGES.items()
        }
        for voxels in (2, -2):
            label = f"mask {'dilated' if voxels > 0 else 'eroded'} by 2 voxels"
            cases[label] = (images, disturb_mask(subject, voxels))
        for label, (changed, mask) in cases.items():
            for names, old in before.items():
                new = fit(subject, names, changed, mask)
                how = "alone" if len(names) == 1 else "joint"
                for name in names:
                    rows[label, name, how].append(difference(new[name], old[name], name))
        most = max(before, key=len)
        for names, old in before.items():
            for name in names if len(names) < len(most) and TARGET not in names else ():
                change = difference(old[name], before[most][name], name)
                rows["other sequence missing", name, "alone"].append(change)
    return rows


def measure_seconds(voxel_counts: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """Returns seconds of processor time of fits to five sequences, by grid."""
    seconds = {}
    for shape in voxel_counts:
        rng = np.random.default_rng(0)
        brain = np.zeros(shape, bool)
        brain[tuple(slice(n // 6, -(n // 6)) for n in shape)] = True
        tissue = rng.integers(0, 3, shape)
        levels = np.array([[getattr(CONTRASTS[n].standard, t) for n in INPUTS] for t in TISSUES])
        images = (levels[tissue] + rng.normal(0, 0.05, (*shape, 5))).astype(np.float32)
        started = time.process_time()
        fit_tissue_levels(np.abs(images), INPUTS, brain, (1.0, 1.0, 1.0))
        seconds["×".join(map(str, shape))] = round(time.process_time() - started, 2)
    return seconds


def print_rows(title: str, rows: Found) -> list[dict[str, object]]:
    """Prints a table, and returns its rows for a record."""
    print(f"\n{title}\n\n| | n | fluid | grey | white |\n| --- | --- | --- | --- | --- |")
    record = []
    for key, errors in rows.items():
        mean, worst = np.abs(errors).mean(axis=0), np.abs(errors).max(axis=0)
        shown = [f"{a:.1f} ({b:.1f})" for a, b in zip(mean, worst, strict=True)]
        print(f"| {', '.join(key)} | {len(errors)} | {' | '.join(shown)} |")
        parts = {
            tissue: {"mean": round(float(a), 2), "worst": round(float(b), 2)}
            for tissue, a, b in zip(TISSUES, mean, worst, strict=True)
        }
        record.append({"row": list(key), "n": len(errors), **parts})
    return record


def main() -> None:
    """Measures, prints tables and writes them with where they come from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, action="append", default=[])
    parser.add_argument("--phantom", type=Path)
    parser.add_argument("--cores", type=Path)
    parser.add_argument("--disturb", nargs="*", default=None, help="these sessions only")
    parser.add_argument("--json", type=Path, help="where to write it all")
    options = parser.parse_args()
    record: dict[str, object] = {"machine": describe_run("tests.benchmarks.bench_levels")}
    if options.phantom:
        cohort, root = load_cohort(options.phantom, INPUTS), options.phantom
        rows = compare(cohort, lambda subject: phantom_labels(root, subject))
        record["phantom"] = print_rows("Phantom: mean (worst) error, %", rows)
    sessions = [subject for root in options.dataset for subject in load(root)]
    if options.cores:

        def read(subject: Subject) -> Array:
            path = options.cores / f"{subject.name}_dseg.nii.gz"
            return to_ras(read_volume(path)).array

        named = [s for s in sessions if (options.cores / f"{s.name}_dseg.nii.gz").is_file()]
        record["cores"] = print_rows("Segmentation: mean (worst) error, %", compare(named, read))
    chosen = [s for s in sessions if options.disturb is None or s.name in options.disturb]
    if chosen:
        record["disturbed"] = print_rows("Disturbed: mean (worst) change, %", disturb(chosen))
    record["seconds"] = measure_seconds([(208, 256, 40), (192, 192, 192)])
    print(record["seconds"])
    if options.json:
        write_json(options.json, record)


if __name__ == "__main__":
    main()
