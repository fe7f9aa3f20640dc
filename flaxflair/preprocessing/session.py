"""Preparation: the scans of one session, each on its own grid, become images on one.

Registration, where the brain is, inhomogeneity correction within it, and one interpolation from the
scanned voxels to the final grid. In memory; knows no file names.

Everything happens in the reference's frame, in which its axes run right, anterior and superior: how
a file orders its axes, or a header turns them, makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flaxflair.core.records import Array, Geometry, Volume
from flaxflair.imaging.contrasts import check_contrasts
from flaxflair.imaging.findings import Finding
from flaxflair.imaging.orientation import ras_geometry
from flaxflair.imaging.resampling import subsample
from flaxflair.preprocessing import hdbet
from flaxflair.preprocessing.alignment import (
    HERE,
    align,
    edges_along,
    frame_of,
    map_scans,
    resample_volume,
    to_frame,
)
from flaxflair.preprocessing.anatomy_check import judge_anatomy
from flaxflair.preprocessing.brain_extraction import find_brain
from flaxflair.preprocessing.options import AS_USUAL, Preparation, choose_reference
from flaxflair.preprocessing.session_bias import TEMPLATE_SEQUENCE, correct_alone, estimate_bias
from flaxflair.preprocessing.similarity import Comparison, Look, shift_by

# Beyond these a preparation should be looked at: a share, mm, degrees, a share.
_LEAST_COVERED = 0.97
_MOST_SHIFT, _MOST_TURN, _MOST_STRETCH = 20.0, 15.0, 0.08
# A scan tells so much of the reference at least, and so many times as much as moved aside, mm: nine
# real registrations 0.087 and 1.9, four of a phantom that ended elsewhere at most 0.03 and 1.05.
_LEAST_SHARE, _LEAST_CONTRAST, _ASIDE = 0.04, 1.4, 12.0
_LOOK, _THIN = Look(5.0, 3.0, 4.0), 2.0
_FINDERS: Mapping[str, Callable[[Volume], Array]] = {
    "template": find_brain,
    "hdbet": hdbet.find_brain,
}


@dataclass(frozen=True)
class Prepared:
    """One session on one grid.

    Attributes:
      reference: the sequence whose grid it is.
      native: the grid in the order of the reference's file.
      images: sequence -> float32[x, y, z] on `geometry`, inhomogeneity-corrected; zero where it was
        not scanned.
      brain: bool[x, y, z].
      transforms: sequence -> float64[4, 4], world mm of the reference to world mm of the sequence.
      covered: sequence -> part of the brain that it was scanned in, 0 to 1.
      scanned: sequence -> mm, the edges of its scanned voxels along x, y, z of `geometry`, at least
        those of the grid.
      shared: sequence -> sequence -> weight with which the latter's field made the former's bias;
        see `bias_field.share`.
    """

    reference: str
    native: Geometry
    images: Mapping[str, Array]
    brain: Array
    transforms: Mapping[str, Array]
    covered: Mapping[str, float]
    scanned: Mapping[str, tuple[float, float, float]]
    shared: Mapping[str, Mapping[str, float]]

    @property
    def geometry(self) -> Geometry:
        """The same grid, its axes running closest to right, anterior, superior."""
        return ras_geometry(self.native)

    @cached_property
    def placed(self) -> Mapping[str, Array]:
        """The images of the reference and of the scans that lie on it."""
        reference = self.reference
        return {n: i for n, i in self.images.items() if n == reference or _fits(self, n)}


def prepare_session(
    volumes: Mapping[str, Volume],
    how: Preparation = AS_USUAL,
    *,
    brain: Volume | None = None,
) -> Prepared:
    """Prepares one session (Wei et al. 2019, section 2.2).

    Args:
      volumes: sequence -> scan, as the scanner left it.
      how: what is chosen.
      brain: a brain mask, lying over the reference, or else over the scan on whose grid it is; None
        to find the brain.

    Raises:
      InputError: the reference is not there, or the brain is nowhere in it; or HD-BET is to find
        it, and is not installed.
    """
    kept = choose_reference(volumes, how.reference)
    frame = frame_of(ras_geometry(volumes[kept].geometry))
    scans = {name: to_frame(frame, volume) for name, volume in volumes.items()}
    given = None if brain is None else to_frame(frame, brain)
    leader, mask = _find_brain(scans, kept, given, _FINDERS[how.finder])
    even = map_scans(lambda name: correct_alone(scans[name], mask), volumes, how.workers)
    transforms, inside = align(even, kept, leader, mask, how)
    estimate = estimate_bias(scans, transforms, inside, even.get(TEMPLATE_SEQUENCE), how)
    region = inside.array > 0.5

    def correct(name: str) -> Array:
        scan = scans[name]
        image = (
            scan.array if name == kept else resample_volume(scan, inside.geometry, transforms[name])
        )
        bias = estimate.bias(name)
        # What the field is on average is not known; so it changes nothing of the brain's.
        return (image / np.exp(bias - bias[region].mean())).astype(np.float32)

    images = map_scans(correct, volumes, how.workers)
    back = np.linalg.inv(frame)
    return Prepared(
        kept,
        volumes[kept].geometry,
        images,
        region,
        {name: frame @ transform @ back for name, transform in transforms.items()},
        {name: float(part.mean()) for name, part in estimate.seen.items()},
        {name: edges_along(scan.geometry, inside.geometry) for name, scan in scans.items()},
        estimate.weights,
    )


def judge(prepared: Prepared) -> tuple[str, ...]:
    """Returns what about a prepared session should be looked at before it is trusted."""
    found = []
    for name, matrix in prepared.transforms.items():
        if (part := prepared.covered[name]) < _LEAST_COVERED:
            found.append(f"the {name} shows {100 * part:.0f} % of the brain; the rest is empty")
        shift, turn, stretch = _size_of(matrix, prepared.geometry)
        if shift > _MOST_SHIFT or turn > _MOST_TURN or stretch > _MOST_STRETCH:
            found.append(
                f"the {name} was moved by {shift:.0f} mm, turned by {turn:.0f}° and stretched by "
                f"{100 * stretch:.0f} % to lie on the {prepared.reference}; look at its outline"
            )
        if name not in prepared.placed:
            found.append(
                f"the {name} and the {prepared.reference} hardly tell anything of each other where "
                "the one was laid on the other; look at its outline"
            )
    found += judge_anatomy(prepared.placed, prepared.reference, prepared.brain, prepared.geometry)
    return tuple(found)


def check_sequences(prepared: Prepared) -> list[Finding]:
    """Returns which images are other sequences than they are called; see `check_contrasts`.

    What does not lie on the reference is not compared.
    """
    return check_contrasts(prepared.placed, prepared.brain, prepared.geometry.voxel_size)


def _fits(prepared: Prepared, name: str) -> bool:
    """Tells whether a scan lies on the reference: it says more of it than moved aside."""
    laid, fixed, brain = (
        subsample(Volume(array, prepared.geometry), _THIN)
        for array in (
            prepared.images[name],
            prepared.images[prepared.reference],
            prepared.brain,
        )
    )
    comparison = Comparison(laid, fixed, brain.array, _LOOK)
    here = comparison.share(HERE)
    aside = [comparison.share(shift_by(_ASIDE * step)) for step in (*HERE[:3, :3], *-HERE[:3, :3])]
    return here >= _LEAST_SHARE and here >= _LEAST_CONTRAST * float(np.mean(aside))


def _size_of(matrix: Array, geometry: Geometry) -> tuple[float, float, float]:
    """Returns how far a transform moves the centre, mm, turns, degrees, and stretches, a share."""
    centre = geometry.centre
    shift = np.linalg.norm(matrix[:3, :3] @ centre + matrix[:3, 3] - centre)
    sides, stretches, axes = np.linalg.svd(matrix[:3, :3])
    cosine = (np.trace(sides @ axes) - 1) / 2
    turn = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return float(shift), float(turn), float(np.abs(np.log(stretches)).max())


def _find_brain(
    scans: Mapping[str, Volume],
    kept: str,
    given: Volume | None,
    find: Callable[[Volume], Array],
) -> tuple[str, Volume]:
    """Returns the sequence that a brain mask lies over, and the mask, float32 from 0 to 1."""
    if given is not None:
        # Two scans may share a grid, and between them the head has moved.
        own = (name for name in (kept, *scans) if scans[name].geometry.matches(given.geometry))
        leader = next(own, kept)
        mask = given.array > 0.5
    else:
        leader = TEMPLATE_SEQUENCE if TEMPLATE_SEQUENCE in scans else kept
        mask = find(scans[leader])
    geometry = given.geometry if given is not None else scans[leader].geometry
    return leader, Volume(mask.astype(np.float32), geometry)
