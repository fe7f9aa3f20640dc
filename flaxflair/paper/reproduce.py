"""Reproduction: runs the studies that are missing, and writes the report of those that are done.

Every study goes on where it was cut off, and what is done is left alone, so the same call always
ends with the same report.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from flaxflair import crossval, program
from flaxflair.cohort import extract_brain, find_sessions, load_cohort
from flaxflair.config import Config
from flaxflair.files import with_nan, write_json
from flaxflair.lesions import SegmentationConfig
from flaxflair.machine import describe_machine
from flaxflair.model import load_run
from flaxflair.paper import published
from flaxflair.paper.outcomes import Outcome, read_flair, read_outcome
from flaxflair.paper.sections import Material, make_section
from flaxflair.paper.segmentation import Found, segment_fold
from flaxflair.paper.studies import CONFIGS, PARTS, Scale, Study, load_config, plan_studies
from flaxflair.paper.timing import count_fcn, time_fcn
from flaxflair.report import Report, Section, write_html, write_markdown
from flaxflair.screen import say_seconds
from flaxflair.sequences import INPUTS
from flaxflair.volume import InputError, Subject
from flaxflair.workers import run_side_by_side


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
    (workdir / "runs").mkdir(parents=True, exist_ok=True)
    _run_studies(studies, scale, workdir, source, jobs, console)
    return _write(name, scale, workdir, source, root, sequences, command, console)


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


def _run_studies(
    studies: Sequence[Study],
    scale: Scale,
    workdir: Path,
    source: Path,
    jobs: int | None,
    console: Console,
) -> None:
    """Runs what is missing, one study after the other or side by side."""
    jobs = (scale.jobs if jobs is None else jobs) or len(os.sched_getaffinity(0))
    missing = [study for study in studies if not _is_complete(workdir, study, scale)]
    console.print(f"{len(studies)} studies, {len(studies) - len(missing)} of them done")
    if jobs == 1:
        for study in missing:
            console.rule(study.name, align="left")
            folder = _folder(workdir, study)
            crossval.run(study.config, folder, source, folds=_folds(study, scale), console=console)
        return
    left = len(missing)

    def tell(name: str, seconds: float) -> None:
        nonlocal left
        left -= 1
        console.print(f"{name}: {say_seconds(seconds)}; {left} to do")

    console.print(f"{jobs} at a time, each telling its progress in {workdir}/runs/*/output.txt")
    calls = {
        study.name: partial(
            _run_study, study.config, _folder(workdir, study), source, _folds(study, scale)
        )
        for study in missing
    }
    run_side_by_side(calls, jobs, tell)


def _run_study(config: Config, folder: Path, source: Path, folds: Sequence[int] | None) -> None:
    """Runs one study in a process of its own."""
    program.prepare()
    folder.mkdir(exist_ok=True)
    with open(folder / "output.txt", "a", encoding="utf-8") as stream:
        console = Console(file=stream, width=120)
        crossval.run(config, folder, source, folds=folds, console=console)


def _is_complete(workdir: Path, study: Study, scale: Scale) -> bool:
    path = _folder(workdir, study) / "folds.json"
    if not path.is_file():
        return False
    folds = _folds(study, scale)
    if folds is None:
        folds = range(len(json.loads(path.read_text(encoding="utf-8"))["heldout"]))
    return all(_is_done(workdir, study, fold) for fold in folds)


def _folds(study: Study, scale: Scale) -> list[int] | None:
    return list(range(scale.few)) if study.few and scale.few else None


def _folder(workdir: Path, study: Study) -> Path:
    return workdir / "runs" / study.name


def _is_done(workdir: Path, study: Study, fold: int) -> bool:
    return (_folder(workdir, study) / f"fold-{fold}" / "scores.json").is_file()


def _write(
    name: str,
    scale: Scale,
    workdir: Path,
    source: Path,
    root: str,
    sequences: Sequence[str],
    command: Sequence[str],
    console: Console,
) -> dict[str, Any]:
    """Writes the report of everything that is done."""
    with console.status("reading the data set"):
        loaded = load_cohort(source, sequences)
    if load_config("fcn", scale.variant).data.region == "brain":
        loaded = [extract_brain(subject) for subject in loaded]
    subjects = {subject.name: subject for subject in loaded}
    studies = plan_studies(scale, root=root, sequences=sequences, parts=_possible(sequences))
    outcomes = {
        study.name: read_outcome(_folder(workdir, study), study.config.title)
        for study in studies
        if _is_done(workdir, study, 0)
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
            lesions = _segment(workdir, outcomes, subjects)
    timing = {}
    if "table1" in ready:
        with console.status("timing predictions"):
            timing = _time(workdir, len(sequences))
    material = Material(
        scale,
        {study.name: study for study in studies},
        outcomes,
        subjects,
        sequences,
        lesions,
        timing,
        pictures,
        phantom=not root,
    )
    sections: list[Section] = []
    tables: dict[str, Any] = {}
    with console.status("drawing the report"):
        for part in ready:
            section, tables[part] = make_section(part, material)
            sections.append(section)
    machine = describe_machine()
    said = " ".join(shlex.quote(word) for word in command)
    config = load_config("fcn", scale.variant)
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    report = Report(
        "FLAIR synthesis for multiple sclerosis: Wei et al. 2019, once more",
        _lead(material, ready),
        tuple(sections),
        (
            ("Command", f"`{said}`"),
            ("Data", "the embedded phantom" if not root else f"`{source.name}`"),
            ("Scale", f"{name}: configurations `:{scale.variant}`"),
            ("Seeds", f"phantom {config.data.phantom.seed}, folds and weights {config.folds.seed}"),
            ("Time", f"{say_seconds(seconds)}, the sum over {len(outcomes)} studies"),
            ("Machine", f"{machine['processor']}, {machine['cores']} cores; {machine['device']}"),
            ("Versions", _versions(machine)),
            (
                "Published",
                "Wei et al., J. Med. Imaging 6(1), 014005 (2019). Squared errors depend on "
                "intensity units: compare ratios, never values.",
            ),
        ),
    )
    content = {
        "scale": name,
        "parts": tables,
        "studies": {
            study.name: {
                "folds": sorted(outcomes[study.name].folds),
                "seconds": outcomes[study.name].seconds,
            }
            for study in studies
            if study.name in outcomes
        },
        "seconds": seconds,
        "command": said,
        "machine": machine,
    }
    write_html(report, workdir / "report.html")
    write_markdown(report, workdir / "report.md")
    write_json(workdir / "paper.json", content)
    console.print(f"{workdir / 'report.html'}: {len(sections)} parts")
    return content


def _versions(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"Python {machine['python']}, {packages}"


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
