"""Quality checks of the files of a session before any computation.

Each file is read once. Findings are errors, which exclude the session, and warnings. Independent of
networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError, Volume
from flaxflair.imaging.findings import Finding, refuse_or_warn
from flaxflair.imaging.session_checks import check_volumes
from flaxflair.io.bids import sidecar
from flaxflair.io.nifti import read_forms, read_volume
from flaxflair.io.nifti_header import Forms
from flaxflair.io.provenance import check_provenance

# Tolerances for rounding: mm between the two forms of a header, and ratio of the voxel sizes by
# `pixdim` and by the affine.
_MAX_GAP = 0.1
_MAX_STRETCH = 1.01


@dataclass(frozen=True)
class InspectedFile:
    """One image file.

    Attributes:
      path: path of the file.
      volume: content; None if it cannot be read.
      forms: orientation fields of the header; None if it cannot be read.
    """

    path: Path
    volume: Volume | None
    forms: Forms | None


@dataclass(frozen=True)
class Inspection:
    """The files of a session and the findings on them.

    Attributes:
      files: sequence -> file.
      findings: errors first, then warnings.
    """

    files: Mapping[str, InspectedFile]
    findings: tuple[Finding, ...]

    @property
    def stops(self) -> bool:
        """Whether the session cannot be used."""
        return any(finding.severity == "stop" for finding in self.findings)

    def volumes(self) -> dict[str, Volume]:
        """Returns sequence -> scan.

        Raises:
          InputError: the session cannot be used; the message names the first reason.
        """
        refuse_or_warn(self.findings, {name: file.path for name, file in self.files.items()})
        return {n: file.volume for n, file in self.files.items() if file.volume is not None}

    def warnings(self) -> tuple[str, ...]:
        """Returns the warnings, one sentence each."""
        return tuple(self.describe(f) for f in self.findings if f.severity == "warn")

    def describe(self, finding: Finding) -> str:
        """Returns a finding as a sentence that names its file."""
        return f"{self.files[finding.sequence].path}: {finding.what}"


def inspect_files(
    paths: Mapping[str, Path],
    voxel_size: tuple[float, float, float] | None = None,
    *,
    truth: bool = False,
) -> Inspection:
    """Reads the files of a session and checks them, separately and together.

    Args:
      paths: sequence -> file.
      voxel_size: mm, of the model's training images; None if there is no model.
      truth: whether a FLAIR is a truth, so that a synthetic one is an error and not a warning.
    """
    files: dict[str, InspectedFile] = {}
    findings: list[Finding] = []
    for name, path in paths.items():
        try:
            volume, forms = read_volume(path), read_forms(path)
        except InputError as error:
            files[name] = InspectedFile(path, None, None)
            findings.append(Finding("stop", name, str(error).removeprefix(f"{path}: ")))
            continue
        files[name] = InspectedFile(path, volume, forms)
        findings += [Finding("warn", name, what) for what in _compare_forms(forms)]
        findings += [Finding("warn", name, what) for what in _read_sidecar(path)]
        findings += check_provenance({name: path}, truth=truth)
    readable = {name: file.volume for name, file in files.items() if file.volume is not None}
    findings += check_volumes(readable, voxel_size)
    return Inspection(files, tuple(sorted(findings, key=lambda f: f.severity != "stop")))


def _read_sidecar(path: Path) -> Iterator[str]:
    """Yields why the sidecar of an image cannot be read, if it exists."""
    json_path = sidecar(path)
    try:
        if json_path.is_file():
            read_object(json_path, "correct it")
    except InputError as error:
        yield f"its sidecar is not used: {error}"


def _compare_forms(forms: Forms) -> Iterator[str]:
    """Yields contradictions between the orientation fields of a header."""
    if np.isnan(forms.gap):
        yield "its qform cannot be read (quaternion or voxel size); the sform is used"
    elif forms.gap > _MAX_GAP:
        yield f"its qform and sform put it {forms.gap:.1f} mm apart; the sform is used"
    elif not forms.stretch < _MAX_STRETCH:
        yield (
            f"its pixdim and its sform differ in the size of a voxel, {forms.stretch:.3g} times; "
            "the sform is used"
        )


COLUMNS = ("scan", "file", "voxels", "mm", "axes", "forms", "type", "values", "found")


def tabulate(inspection: Inspection) -> list[Sequence[str]]:
    """Returns a row of `COLUMNS` for each file."""
    rows = []
    for name, file in inspection.files.items():
        worst = [f.severity for f in inspection.findings if f.sequence == name]
        verdict = "stop" if "stop" in worst else "warning" if worst else "good"
        rows.append((name, file.path.name, *_describe(file), verdict))
    return rows


def _describe(file: InspectedFile) -> tuple[str, ...]:
    if file.volume is None or file.forms is None:
        return ("",) * 6
    geometry, forms = file.volume.geometry, file.forms
    low, high = np.percentile(file.volume.array, (0.1, 99.9))
    return (
        "×".join(map(str, geometry.shape)),
        "×".join(f"{edge:.3g}" for edge in geometry.voxel_size),
        _axes(geometry.affine),
        f"q{forms.qform} s{forms.sform}",
        forms.dtype,
        f"{low:.4g} to {high:.4g}",
    )


def _axes(affine: np.ndarray) -> str:
    """Returns the directions of the axes (`LPS`) and their largest deviation, degrees."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    onto = np.abs(direction).argmax(axis=0)
    letters = "".join(
        ("RL", "AP", "SI")[world][int(direction[world, axis] < 0)]
        for axis, world in enumerate(onto)
    )
    tilt = np.degrees(np.arccos(np.clip(np.abs(direction).max(axis=0).min(), -1, 1)))
    return letters if tilt < 0.5 else f"{letters}, {tilt:.0f}°"
