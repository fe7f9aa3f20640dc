"""Preparation of one session: scans on different grids become images on one grid.

Brain extraction, registration, bias correction within the brain, and a single interpolation from
the scanned voxels to the final grid. In memory; independent of file names.

All coordinates are in the frame of the reference, whose axes run right, anterior and superior, so
the result does not depend on the axis order of the files or on rotations in the headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.contrasts import check_contrasts
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.orientation import ras_geometry
from flaxflair.imaging.resampling import coarsen, subsample
from flaxflair.preprocessing import hdbet
from flaxflair.preprocessing.alignment import (
    IDENTITY,
    align,
    edges_along,
    frame_of,
    map_scans,
    to_frame,
)
from flaxflair.preprocessing.anatomy_check import anatomy_ratios, anatomy_warnings
from flaxflair.preprocessing.brain_extraction import FoundBrain, find_brain
from flaxflair.preprocessing.final_grid import correct_scans, refine_mask
from flaxflair.preprocessing.options import DEFAULTS, Preparation, choose_reference
from flaxflair.preprocessing.session_bias import (
    TEMPLATE_SEQUENCE,
    SessionBias,
    correct_scan,
    estimate_bias,
)
from flaxflair.preprocessing.similarity import Comparison, Sampling, translation

# Limits beyond which a preparation is reported: fraction of the brain, mm, degrees, relative.
_MIN_COVERED = 0.97
_MAX_SHIFT, _MAX_ROTATION, _MAX_STRETCH = 20.0, 15.0, 0.08
# Minimum uncertainty coefficient of a scan and the reference, and its minimum ratio to the mean
# after shifts of _SHIFT mm. Nine real registrations had at least 0.087 and 1.9; four failed ones of
# a phantom at most 0.03 and 1.05.
_MIN_COEFFICIENT, _MIN_RATIO, _SHIFT = 0.04, 1.4, 12.0
_SAMPLING = Sampling(5.0, 3.0, 4.0)
_VOXEL = 2.0  # mm, to which images are subsampled
# Edge of the blocks, mm, over which scans with voxels of at most 0.5 mm are averaged for brain
# extraction, registration and bias estimation.
_WORKING_VOXEL = 1.0
_FINDERS: Mapping[str, Callable[[Volume], FoundBrain]] = {
    "template": find_brain,
    "hdbet": lambda volume: FoundBrain(hdbet.find_brain(volume), {}),
}


class Alignment(NamedTuple):
    """Similarity of a registered scan and the reference.

    Attributes:
      coefficient: uncertainty coefficient in the brain, 0 to 1.
      ratio: its ratio to the mean after shifts of 12 mm.
    """

    coefficient: float
    ratio: float


class Movement(NamedTuple):
    """Size of a registration's transform.

    Attributes:
      shift: of the grid's centre, mm.
      rotation: degrees.
      stretch: largest absolute logarithm of a stretch.
    """

    shift: float
    rotation: float
    stretch: float


_STILL = Movement(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Prepared:
    """One session on one grid.

    Attributes:
      reference: sequence that defines the grid.
      native: the grid in the axis order of the reference's file.
      sequences: names of the images.
      stacked: float32[m, x, y, z] on `geometry`, bias-corrected; zero outside the scan.
      brain: bool[x, y, z].
      transforms: sequence -> float64[4, 4], world mm of the reference to world mm of the sequence.
      covered: sequence -> fraction of the brain inside the scan, 0 to 1.
      scanned: sequence -> mm, edges of its scanned voxels along x, y, z of `geometry`, at least
        those of the grid.
      bias_weights: sequence -> sequence -> weight of the latter's field in the bias of the former;
        see `bias_field.bias_weights`.
      bias_spread: sequence -> SD in the brain of the logarithm of the bias that was removed.
      template: measures of the template's fit, see `template_fit.template_quality`; empty without
        a brain extraction by the template.
    """

    reference: str
    native: Geometry
    sequences: tuple[str, ...]
    stacked: Array
    brain: Array
    transforms: Mapping[str, Array]
    covered: Mapping[str, float]
    scanned: Mapping[str, tuple[float, float, float]]
    bias_weights: Mapping[str, Mapping[str, float]]
    bias_spread: Mapping[str, float]
    template: Mapping[str, float]

    @property
    def geometry(self) -> Geometry:
        """The same grid, its axes running closest to right, anterior, superior."""
        return ras_geometry(self.native)

    @cached_property
    def images(self) -> Mapping[str, Array]:
        """Sequence -> image, float32[x, y, z]."""
        return dict(zip(self.sequences, self.stacked, strict=True))

    def stack(self, names: tuple[str, ...]) -> Array:
        """Returns images of some sequences, float32[x, y, z, m]; a view if they are adjacent."""
        start = self.sequences.index(names[0])
        if self.sequences[start : start + len(names)] == names:
            return np.moveaxis(self.stacked[start : start + len(names)], 0, -1)
        return np.stack([self.images[name] for name in names], axis=-1)

    @cached_property
    def aligned(self) -> Mapping[str, Array]:
        """Images of the reference and of the scans aligned with it."""
        failed = {name for name, found in self.alignments.items() if not _is_aligned(found)}
        return {name: image for name, image in self.images.items() if name not in failed}

    @cached_property
    def alignments(self) -> Mapping[str, Alignment]:
        """Sequence -> similarity to the reference, of the other scans."""
        return {n: _compare_with_reference(self, n) for n in self.images if n != self.reference}

    @cached_property
    def anatomy(self) -> Mapping[str, float]:
        """Sequence -> ratio of `anatomy_check`, of the scans aligned with the reference."""
        return anatomy_ratios(self.aligned, self.reference, self.brain, self.geometry)

    @cached_property
    def movements(self) -> Mapping[str, Movement]:
        """Sequence -> size of its transform, of all scans but the reference."""
        transforms = {n: matrix for n, matrix in self.transforms.items() if n != self.reference}
        return {n: _measure_transform(m, self.geometry) for n, m in transforms.items()}


def prepare_session(
    volumes: Mapping[str, Volume],
    options: Preparation = DEFAULTS,
    *,
    brain: Volume | None = None,
) -> Prepared:
    """Prepares one session (Wei et al. 2019, section 2.2).

    Args:
      volumes: sequence -> scan, uncorrected.
      options: options of the preparation.
      brain: brain mask, aligned with the reference if on its grid, otherwise with the scan on whose
        grid it is; None for brain extraction.

    Raises:
      InputError: the reference is missing or contains no brain; the anatomy contradicts the
        headers; or HD-BET is requested and is not installed.
    """
    reference = choose_reference(volumes, options.reference)
    native = volumes[reference].geometry
    frame = frame_of(ras_geometry(native))
    scans = {name: to_frame(frame, volume) for name, volume in volumes.items()}
    del volumes  # `correct_scans` releases each scan
    given = None if brain is None else to_frame(frame, brain)
    estimate = _estimate(scans, reference, given, options)
    transforms, bias = estimate.transforms, estimate.bias
    grid = scans[reference].geometry
    scanned = {name: edges_along(scan.geometry, grid) for name, scan in scans.items()}
    biases = {name: bias.bias(name) for name in scans}
    images = correct_scans(scans, reference, transforms, biases, options.workers)
    back = np.linalg.inv(frame)
    inside = bias.brain.array > 0.5
    return Prepared(
        reference,
        native,
        tuple(transforms),
        images,
        _mask_on(grid, given, estimate.brain),
        {name: frame @ transform @ back for name, transform in transforms.items()},
        {name: float(part.mean()) for name, part in bias.coverage.items()},
        scanned,
        bias.weights,
        {name: float(field.array[inside].std()) for name, field in biases.items()},
        estimate.template,
    )


def _mask_on(grid: Geometry, given: Volume | None, brain: Volume) -> Array:
    """Returns the brain mask, bool[x, y, z]; a given one on the same grid is not changed."""
    if given is not None and given.geometry.matches(grid):
        return given.array > 0.5
    return refine_mask(brain, grid)


class _Estimate(NamedTuple):
    """What is estimated in averages of voxels; see `Prepared`.

    Attributes:
      transforms: sequence -> float64[4, 4], mm of the reference to mm of the scan.
      brain: float32 from 0 to 1, on the reference's grid or a coarser one.
      bias: bias of the scans.
      template: measures of the template's fit.
    """

    transforms: dict[str, Array]
    brain: Volume
    bias: SessionBias
    template: Mapping[str, float]


def _estimate(
    scans: Mapping[str, Volume], reference: str, given: Volume | None, options: Preparation
) -> _Estimate:
    """Returns transforms, brain and bias of a session, estimated in averages of voxels.

    Args:
      scans: sequence -> scan.
      reference: sequence that the others are registered onto.
      given: brain mask; None for brain extraction.
      options: options of the preparation.
    """
    working = {name: coarsen(scan, _WORKING_VOXEL) for name, scan in scans.items()}
    masked, mask, template = _find_brain(scans, working, reference, given, _FINDERS[options.finder])
    corrected = map_scans(lambda name: correct_scan(working[name], mask), scans, options.workers)
    transforms, brain = align(corrected, reference, masked, mask, options)
    t1 = corrected.get(TEMPLATE_SEQUENCE)
    bias = estimate_bias(working, transforms, brain, t1, options)
    return _Estimate(transforms, brain, bias, template)


def preparation_warnings(prepared: Prepared) -> tuple[str, ...]:
    """Returns warnings about a prepared session, one sentence each."""
    warnings = []
    for name in prepared.transforms:
        if (part := prepared.covered[name]) < _MIN_COVERED:
            warnings.append(f"the {name} covers {100 * part:.0f} % of the brain; the rest is empty")
        shift, rotation, stretch = prepared.movements.get(name, _STILL)
        if shift > _MAX_SHIFT or rotation > _MAX_ROTATION or stretch > _MAX_STRETCH:
            warnings.append(
                f"the {name} was moved by {shift:.0f} mm, rotated by {rotation:.0f}° and stretched "
                f"by {100 * stretch:.0f} % onto the {prepared.reference}; look at its outline"
            )
        if name not in prepared.aligned:
            warnings.append(
                f"the {name} seems misaligned with the {prepared.reference}: their mutual "
                "information after registration is too low; look at its outline"
            )
    return (*warnings, *anatomy_warnings(prepared.anatomy, prepared.reference))


def check_sequences(prepared: Prepared) -> list[Finding]:
    """Returns findings on images of another sequence than stated; see `check_contrasts`.

    Misaligned images are not compared.
    """
    return check_contrasts(prepared.aligned, prepared.brain, prepared.geometry.voxel_size)


def _is_aligned(found: Alignment) -> bool:
    """Whether a scan is aligned: shifts decrease its mutual information with the reference."""
    return found.coefficient >= _MIN_COEFFICIENT and found.ratio >= _MIN_RATIO


def _compare_with_reference(prepared: Prepared, name: str) -> Alignment:
    moving, fixed, brain = (
        subsample(Volume(array, prepared.geometry), _VOXEL)
        for array in (
            prepared.images[name],
            prepared.images[prepared.reference],
            prepared.brain,
        )
    )
    comparison = Comparison(moving, fixed, brain.array, _SAMPLING)
    aligned = comparison.uncertainty_coefficient(IDENTITY)
    shifted = [
        comparison.uncertainty_coefficient(translation(_SHIFT * step))
        for step in (*np.eye(3), *-np.eye(3))
    ]
    return Alignment(aligned, aligned / max(float(np.mean(shifted)), 1e-9))


def _measure_transform(matrix: Array, geometry: Geometry) -> Movement:
    centre = geometry.centre
    shift = np.linalg.norm(matrix[:3, :3] @ centre + matrix[:3, 3] - centre)
    sides, stretches, axes = np.linalg.svd(matrix[:3, :3])
    cosine = (np.trace(sides @ axes) - 1) / 2
    rotation = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return Movement(float(shift), float(rotation), float(np.abs(np.log(stretches)).max()))


def _find_brain(
    scans: Mapping[str, Volume],
    working: Mapping[str, Volume],
    reference: str,
    given: Volume | None,
    find: Callable[[Volume], FoundBrain],
) -> tuple[str, Volume, Mapping[str, float]]:
    """Returns the sequence that a brain mask is aligned with, the mask, and measures of its fit.

    The mask is float32 from 0 to 1.

    Args:
      scans: sequence -> scan.
      working: sequence -> the same, in voxels of about 1 mm or larger.
      reference: sequence that defines the grid.
      given: brain mask; None for brain extraction.
      find: brain extraction.
    """
    if given is not None:
        # The reference first: scans on one grid may differ by motion of the head.
        names = (reference, *scans)
        same_grid = (name for name in names if scans[name].geometry.matches(given.geometry))
        masked = next(same_grid, reference)
        return masked, Volume((given.array > 0.5).astype(np.float32), given.geometry), {}
    masked = TEMPLATE_SEQUENCE if TEMPLATE_SEQUENCE in scans else reference
    found = find(working[masked])
    return masked, Volume(found.mask.astype(np.float32), working[masked].geometry), found.quality
