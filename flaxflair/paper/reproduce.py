"""Reproduction: runs the studies that are missing, and writes the report of those that are done.

Every study goes on where it was cut off, and what is done is left alone, so the same call always
ends with the same report.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flaxflair.cohort import extract_brain, find_sessions, load_cohort
from flaxflair.files import with_nan, write_json
from flaxflair.lesions import SegmentationConfig
from flaxflair.machine import describe_machine
from flaxflair.model import load_run
from flaxflair.paper import published
from flaxflair.paper.outcomes import Outcome, read_flair, read_outcome
from flaxflair.paper.running import folder_of, is_done, run_studies
from flaxflair.paper.sections import Material, make_section
from flaxflair.paper.segmentation import Found, segment_fold
from flaxflair.paper.studies import CONFIGS, PARTS, Scale, load_config, plan_studies
from flaxflair.paper.timing import count_fcn, time_fcn
from flaxflair.report import Report, Section, write_html, write_markdown
from flaxflair.screen import say_seconds
from flaxflair.sequences import INPUTS
from flaxflair.volume import InputError, Subject


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
    """Reproduces Wei et al. 2019 and returns what `paper.json` holds.

    Args:
      name: of the scale, for the report.
      scale: how large.
      workdir: made if missing. Afterwards it holds `paper.json`, `report.html`, `report.md`,
        `pictures/`, and a folder a study in `runs/`.
      source: prepared BIDS data set.
      root: as the configurations name it; empty for the embedded phantom.
      parts: keys of `PARTS` to run; none for the scale's own. The report also has every other part
        whose studies are done.
      jobs: studies side by side, each on its share of the cores; None for the scale's own number.
      command: what was called, for the report.
      console: prints progress; None prints nothing.

    Raises:
      InputError: the data cannot be used, or no part can be made of them.
      Interrupted: SIGTERM or SIGINT came while training; everything is saved.
    """
    console = console or Console(quiet=True)
    sequences = _shared_sequences(source)
    possible = _possible(sequences)
    asked = list(parts or [part for part in scale.parts if part in possible])
    if impossible := [part for part in asked if part not in possible]:
        raise InputError(
            f"{source}: has {', '.join(sequences)}, of which {impossible[0]} cannot be made; "
            f"choose from {', '.join(possible)}"
        )
    studies = plan_studies(scale, root=root, sequences=sequences, parts=asked)
    run_studies(studies, scale, workdir, source, jobs=jobs, console=console)
    material, ready = _gather(scale, workdir, source, root, sequences, console)
    with console.status("drawing the report"):
        content = _write(workdir, material, ready, _trace(name, source, material, command))
    console.print(f"{workdir / 'report.html'}: {len(ready)} parts")
    return content


def _shared_sequences(source: Path) -> tuple[str, ...]:
    """Returns the input sequences that every session of a data set has."""
    found = find_sessions(source, (), flair="needed")
    held = [{image.sequence for image in session.images} for session in found]
    shared = tuple(name for name in INPUTS if all(name in own for own in held))
    if "T1" not in shared or len(shared) < 2:
        raise InputError(
            f"{source}: every session has {', '.join(shared) or 'no sequence'} in common; T1, one "
            "more sequence and FLAIR are needed"
        )
    return shared


def _possible(sequences: Sequence[str]) -> list[str]:
    """Returns the parts that can be made of some sequences."""
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
    """Returns what is known of everything that is done, and the parts that it is enough for."""
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
    """Writes the report, and returns its numbers."""
    sections: list[Section] = []
    tables: dict[str, Any] = {}
    for part in ready:
        section, tables[part] = make_section(part, material)
        sections.append(section)
    report = Report(
        "FLAIR synthesis for multiple sclerosis: Wei et al. 2019, once more",
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


def _trace(name: str, source: Path, material: Material, command: Sequence[str]) -> dict[str, str]:
    """Returns what a reader needs to get the same numbers: title -> what it was."""
    machine = describe_machine()
    config = load_config("fcn", material.scale.variant)
    seconds = sum(outcome.seconds for outcome in material.outcomes.values())
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return {
        "Command": f"`{' '.join(shlex.quote(word) for word in command)}`",
        "Data": "the embedded phantom" if material.phantom else f"`{source.name}`",
        "Scale": f"{name}: configurations `:{material.scale.variant}`",
        "Seeds": f"phantom {config.data.phantom.seed}, folds and weights {config.folds.seed}",
        "Time": f"{say_seconds(seconds)}, the sum over {len(material.outcomes)} studies",
        "Machine": f"{machine['processor']}, {machine['cores']} cores; {machine['device']}",
        "Versions": f"Python {machine['python']}, {packages}",
        "Published": "Wei et al., J. Med. Imaging 6(1), 014005 (2019). Squared errors depend on "
        "intensity units: compare ratios, never values.",
    }


def _lead(material: Material, ready: Sequence[str]) -> str:
    missing = [PARTS[part] for part in material.scale.parts if part not in ready]
    people = len({subject.participant for subject in material.subjects.values()})
    said = (
        f"{people} participants, {', '.join(material.sequences)} to FLAIR. Every table stands "
        "beside its published twin. Ours and theirs are in different units, so what can be "
        "compared is each method's error relative to the FCN's."
    )
    return f"{said} Not run yet: {'; '.join(missing)}." if missing else said


def _segment(
    workdir: Path, outcomes: Mapping[str, Outcome], subjects: Mapping[str, Subject]
) -> dict[int, Found]:
    """Returns the lesions found in each fold, from `lesions.json` where they are there already."""
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
        own = stored[str(fold)]
        rows = {
            method: {name: with_nan(row) for name, row in by_subject.items()}
            for method, by_subject in own["rows"].items()
        }
        found[fold] = Found(SegmentationConfig(**own["config"]), rows)
    return found


def _time(workdir: Path, channels: int) -> dict[int, tuple[int, float]]:
    """Returns each width's parameters and seconds, from `timing.json` if they are there."""
    path = workdir / "timing.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for filters in published.WIDTHS:
        if str(filters) not in stored:
            stored[str(filters)] = [count_fcn(filters, channels), time_fcn(filters, channels)]
            write_json(path, stored)
    return {int(filters): (int(own[0]), float(own[1])) for filters, own in stored.items()}
