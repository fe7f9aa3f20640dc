"""Reproduction: runs the missing studies and writes the report of all finished ones.

Interrupted studies resume and finished ones are skipped, so repeating the call always ends with the
same report.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flaxflair.core.atomic_files import with_nan, write_json
from flaxflair.core.records import InputError, Subject
from flaxflair.core.sequences import INPUTS
from flaxflair.evaluation.lesion_segmentation import SegmentationConfig
from flaxflair.io.datasets import extract_brain, load_cohort
from flaxflair.io.session_files import find_sessions
from flaxflair.models.model import load_run
from flaxflair.paper import published
from flaxflair.paper.outcomes import Outcome, read_flair, read_outcome
from flaxflair.paper.running import folder_of, is_done, run_studies
from flaxflair.paper.sections import make_section
from flaxflair.paper.sections.material import Material
from flaxflair.paper.segmentation import LesionSegmentation, segment_fold
from flaxflair.paper.studies import CONFIGS, PARTS, Scale, load_config, plan_studies
from flaxflair.paper.timing import count_fcn, time_fcn
from flaxflair.runtime.environment import describe_machine
from flaxflair.runtime.progress import format_seconds
from flaxflair.visualization.report import Report, Section, write_html, write_markdown


def reproduce(
    name: str,
    scale: Scale,
    workdir: Path,
    source: Path,
    *,
    root: str = "",
    parts: Sequence[str] = (),
    jobs: int | None = None,
    command: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Reproduces Wei et al. 2019 and returns the content of `paper.json`.

    Args:
      name: name of the scale, for the report.
      scale: size of the reproduction.
      workdir: created if missing. Afterwards it holds `paper.json`, `report.html`, `report.md`,
        `pictures/`, and a folder for each study in `runs/`.
      source: prepared BIDS data set.
      root: the same as in the configurations; empty for the embedded phantom.
      parts: keys of `PARTS` to run; empty for those of the scale. The report also has every other
        part whose studies are finished.
      jobs: parallel studies, each on its share of the cores; None for the number of the scale.
      command: command line, for the report.
      console: output of progress; None for no output.

    Raises:
      InputError: the data cannot be used, or lack the sequences of a part.
      Interrupted: SIGTERM or SIGINT was received during training; the state is saved.
    """
    console = console or Console(quiet=True)
    sequences = _shared_sequences(source)
    possible = _possible(sequences)
    selected = list(parts or [part for part in scale.parts if part in possible])
    if impossible := [part for part in selected if part not in possible]:
        raise InputError(
            f"{source}: has {', '.join(sequences)}, which do not suffice for {impossible[0]}; "
            f"choose from {', '.join(possible)}"
        )
    studies = plan_studies(scale, root=root, sequences=sequences, parts=selected)
    run_studies(studies, scale, workdir, source, jobs=jobs, console=console)
    material, ready = _gather(scale, workdir, source, root, sequences, console)
    with console.status("drawing the report"):
        content = _write(workdir, material, ready, _provenance(name, source, material, command))
    console.print(f"{workdir / 'report.html'}: {len(ready)} parts")
    return content


def _shared_sequences(source: Path) -> tuple[str, ...]:
    """Returns the input sequences that every session of a data set has."""
    found = find_sessions(source, (), flair="needed")
    present = [{image.sequence for image in session.images} for session in found]
    shared = tuple(name for name in INPUTS if all(name in names for names in present))
    if "T1" not in shared or len(shared) < 2:
        raise InputError(
            f"{source}: every session has {', '.join(shared) or 'no sequence'} in common; T1, one "
            "more sequence and FLAIR are needed"
        )
    return shared


def _possible(sequences: Sequence[str]) -> list[str]:
    """Returns the parts for which the sequences suffice."""
    five = set(sequences) == set(INPUTS)
    return [part for part in PARTS if five or part not in ("table4a", "table4b", "table4c", "fig7")]


def _gather(
    scale: Scale,
    workdir: Path,
    source: Path,
    root: str,
    sequences: Sequence[str],
    console: Console,
) -> tuple[Material, list[str]]:
    """Returns the results of all finished studies, and the parts for which they suffice."""
    with console.status("reading the data set"):
        subjects = load_cohort(source, sequences)
    if load_config("fcn", scale.variant).data.region == "brain":
        subjects = [extract_brain(subject) for subject in subjects]
    by_name = {subject.name: subject for subject in subjects}
    studies = plan_studies(scale, root=root, sequences=sequences, parts=_possible(sequences))
    outcomes = {
        study.name: read_outcome(folder_of(workdir, study), study.config.title)
        for study in studies
        if is_done(workdir, study, 0)
    }
    ready = [
        part
        for part in _possible(sequences)
        if all(study.name in outcomes for study in studies if part in study.parts)
    ]
    pictures = workdir / "pictures"
    pictures.mkdir(exist_ok=True)
    lesions = {}
    if "lesions" in ready:
        with console.status("segmenting lesions"):
            lesions = _segment(workdir, outcomes, by_name)
    timing = {}
    if "table1" in ready:
        with console.status("timing predictions"):
            timing = _time(workdir, len(sequences))
    material = Material(
        scale,
        {study.name: study for study in studies},
        outcomes,
        by_name,
        sequences,
        lesions,
        timing,
        pictures,
        phantom=not root,
    )
    return material, ready


def _write(
    workdir: Path,
    material: Material,
    ready: Sequence[str],
    provenance: Mapping[str, str],
) -> dict[str, Any]:
    """Writes the report and returns its numbers."""
    sections: list[Section] = []
    tables: dict[str, Any] = {}
    for part in ready:
        section, tables[part] = make_section(part, material)
        sections.append(section)
    report = Report(
        "FLAIR synthesis for multiple sclerosis: reproduction of Wei et al. 2019",
        _lead(material, ready),
        tuple(sections),
        tuple(provenance.items()),
    )
    content = {
        "provenance": provenance,
        "parts": tables,
        "studies": {
            name: {"folds": sorted(outcome.folds), "seconds": outcome.seconds}
            for name, outcome in material.outcomes.items()
        },
        "machine": describe_machine(),
    }
    write_html(report, workdir / "report.html")
    write_markdown(report, workdir / "report.md")
    write_json(workdir / "paper.json", content)
    return content


def _provenance(
    name: str, source: Path, material: Material, command: Sequence[str]
) -> dict[str, str]:
    """Returns the provenance of the numbers: title -> description."""
    machine = describe_machine()
    config = load_config("fcn", material.scale.variant)
    seconds = sum(outcome.seconds for outcome in material.outcomes.values())
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return {
        "Command": f"`{' '.join(shlex.quote(word) for word in command)}`",
        "Data": "the embedded phantom" if material.phantom else f"`{source.name}`",
        "Scale": f"{name}: configurations `:{material.scale.variant}`",
        "Seeds": f"phantom {config.data.phantom.seed}, folds and weights {config.folds.seed}",
        "Time": f"{format_seconds(seconds)}, the sum over {len(material.outcomes)} studies",
        "Machine": f"{machine['processor']}, {machine['cores']} cores; {machine['device']}",
        "Versions": f"Python {machine['python']}, {packages}",
        "Published": "Wei et al., J. Med. Imaging 6(1), 014005 (2019). Squared errors depend on "
        "intensity units: compare ratios, never values.",
    }


def _lead(material: Material, ready: Sequence[str]) -> str:
    missing = [PARTS[part] for part in material.scale.parts if part not in ready]
    people = len({subject.participant for subject in material.subjects.values()})
    lead = (
        f"{people} participants, {', '.join(material.sequences)} to FLAIR. Every table is shown "
        "beside the published one. Both are in different intensity units, so only each method's "
        "error relative to the FCN's is comparable."
    )
    return f"{lead} Not run yet: {'; '.join(missing)}." if missing else lead


def _segment(
    workdir: Path, outcomes: Mapping[str, Outcome], subjects: Mapping[str, Subject]
) -> dict[int, LesionSegmentation]:
    """Returns the lesions found in each fold, cached in `lesions.json`."""
    path = workdir / "lesions.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    methods = [name for name in CONFIGS if name in outcomes]
    heldout = load_run(outcomes["fcn"].folder).heldout
    found = {}
    for fold in sorted(set.intersection(*(set(outcomes[name].folds) for name in methods))):
        if str(fold) not in stored:
            training = [s for s in subjects.values() if s.participant not in heldout[fold]]
            held = [s for s in subjects.values() if s.participant in heldout[fold]]
            flairs = {
                name: lambda subject, name=name: read_flair(outcomes[name].folder, subject)
                for name in methods
            }
            found[fold] = segment_fold(training, held, flairs)
            stored[str(fold)] = {"config": vars(found[fold].config), "rows": found[fold].rows}
            write_json(path, stored)
            continue
        entry = stored[str(fold)]
        rows = {
            method: {name: with_nan(row) for name, row in by_subject.items()}
            for method, by_subject in entry["rows"].items()
        }
        found[fold] = LesionSegmentation(SegmentationConfig(**entry["config"]), rows)
    return found


def _time(workdir: Path, channels: int) -> dict[int, tuple[int, float]]:
    """Returns each width's parameters and seconds, cached in `timing.json`."""
    path = workdir / "timing.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for filters in published.WIDTHS:
        if str(filters) not in stored:
            stored[str(filters)] = [count_fcn(filters, channels), time_fcn(filters, channels)]
            write_json(path, stored)
    return {int(filters): (int(entry[0]), float(entry[1])) for filters, entry in stored.items()}
