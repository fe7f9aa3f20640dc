"""Inspection: the files of a session, looked at before any computing.

Reads each file once, and says what would stop the session or make its FLAIR worthless. Knows files
and `checks`; knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError, Volume
from flaxflair.imaging.checks import check_volumes
from flaxflair.imaging.findings import Finding, refuse_or_warn
from flaxflair.io.bids import sidecar
from flaxflair.io.nifti import read_forms, read_volume
from flaxflair.io.nifti_header import Forms

# mm by which the two forms of a header may differ: rounding.
_LEAST_GAP = 0.1
# The size of a voxel by `pixdim` may differ from that by the affine this much: rounding.
_MOST_STRETCH = 1.01


@dataclass(frozen=True)
class Look:
    """One file, looked at.

    Attributes:
      path: of the file.
      volume: what it holds; None if it cannot be read.
      forms: what its header says; None if it cannot be read.
    """

    path: Path
    volume: Volume | None
    forms: Forms | None


@dataclass(frozen=True)
class Inspection:
    """The files of a session, looked at.

    Attributes:
      looks: sequence -> its file.
      findings: those that stop the session first.
    """

    looks: Mapping[str, Look]
    findings: tuple[Finding, ...]

    @property
    def stops(self) -> bool:
        """Whether the session cannot be used."""
        return any(finding.severity == "stop" for finding in self.findings)

    def volumes(self) -> dict[str, Volume]:
        """Returns sequence -> scan.

        Raises:
          InputError: the session cannot be used; the message is the first reason.
        """
        refuse_or_warn(self.findings, {name: look.path for name, look in self.looks.items()})
        return {n: look.volume for n, look in self.looks.items() if look.volume is not None}

    def warnings(self) -> tuple[str, ...]:
        """Returns what was found and does not stop the session, a sentence each."""
        return tuple(self.tell(f) for f in self.findings if f.severity == "warn")

    def tell(self, finding: Finding) -> str:
        """Returns a finding as a sentence that names its file."""
        return f"{self.looks[finding.sequence].path}: {finding.what}"


def inspect_files(
    paths: Mapping[str, Path], voxel_size: tuple[float, float, float] | None = None
) -> Inspection:
    """Reads the files of a session and looks at them, alone and together.

    Args:
      paths: sequence -> file.
      voxel_size: mm, of the model's training images; None if there is no model.
    """
    looks: dict[str, Look] = {}
    findings: list[Finding] = []
    for name, path in paths.items():
        try:
            volume, forms = read_volume(path), read_forms(path)
        except InputError as error:
            looks[name] = Look(path, None, None)
            findings.append(Finding("stop", name, str(error).removeprefix(f"{path}: ")))
            continue
        looks[name] = Look(path, volume, forms)
        if forms.mirrored:
            what = (
                "its qform and sform are mirror images of each other, so left and right are "
                "unknown; write its header anew, from DICOM"
            )
            findings.append(Finding("stop", name, what))
        findings += [Finding("warn", name, what) for what in _compare_forms(forms)]
        findings += [Finding("warn", name, what) for what in _read_sidecar(path)]
    readable = {name: look.volume for name, look in looks.items() if look.volume is not None}
    findings += check_volumes(readable, voxel_size)
    return Inspection(looks, tuple(sorted(findings, key=lambda f: f.severity != "stop")))


def _read_sidecar(path: Path) -> Iterator[str]:
    """Yields why the JSON file beside an image cannot be read, if there is one."""
    beside = sidecar(path)
    try:
        if beside.is_file():
            read_object(beside, "correct it")
    except InputError as error:
        yield f"what its sidecar says is not used: {error}"


def _compare_forms(forms: Forms) -> Iterator[str]:
    """Yields what a header says of the place in space that it contradicts elsewhere."""
    if np.isnan(forms.gap):
        yield "its qform cannot be read (quaternion or voxel size); the sform is used"
    elif forms.gap > _LEAST_GAP:
        yield f"its qform and sform put it {forms.gap:.1f} mm apart; the sform is used"
    elif not forms.stretch < _MOST_STRETCH:
        yield (
            f"its pixdim and its sform differ in the size of a voxel, {forms.stretch:.3g} times; "
            "the sform is used"
        )


COLUMNS = ("scan", "file", "voxels", "mm", "axes", "forms", "type", "values", "found")


def tabulate(inspection: Inspection) -> list[Sequence[str]]:
    """Returns a row of `COLUMNS` for each file."""
    rows = []
    for name, look in inspection.looks.items():
        worst = [f.severity for f in inspection.findings if f.sequence == name]
        verdict = "stop" if "stop" in worst else "warning" if worst else "good"
        rows.append((name, look.path.name, *_describe(look), verdict))
    return rows


def _describe(look: Look) -> tuple[str, ...]:
    if look.volume is None or look.forms is None:
        return ("",) * 6
    geometry, forms = look.volume.geometry, look.forms
    low, high = np.percentile(look.volume.array, (0.1, 99.9))
    return (
        "×".join(map(str, geometry.shape)),
        "×".join(f"{edge:.3g}" for edge in geometry.voxel_size),
        _axes(geometry.affine),
        f"q{forms.qform} s{forms.sform}",
        forms.dtype,
        f"{low:.4g} to {high:.4g}",
    )


def _axes(affine: np.ndarray) -> str:
    """Returns where the axes point (`LPS`), and how far they are turned away from there."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    onto = np.abs(direction).argmax(axis=0)
    letters = "".join(
        ("RL", "AP", "SI")[world][int(direction[world, axis] < 0)]
        for axis, world in enumerate(onto)
    )
    turned = np.degrees(np.arccos(np.clip(np.abs(direction).max(axis=0).min(), -1, 1)))
    return letters if turned < 0.5 else f"{letters}, {turned:.0f}°"
