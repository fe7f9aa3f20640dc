"""What another sequence would bring: error, interval and lesions found, for each set of inputs.

Reads the table of the model in the package, which was measured on simulated heads that every
sequence exists of, and on real patients where they have the sequences. Independent of images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from flaxflair.core.json_objects import read_object
from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS

TABLE = Path(__file__).parent / "weights" / "subsets.json"
_REMEDY = "install the package again"


class Expected(NamedTuple):
    """What is expected of a set of inputs.

    Attributes:
      sequences: the inputs, in the order of `INPUTS`.
      nmse: mean squared error in the brain over the variance of the true FLAIR, simulated heads.
      width: mean width of the 90 % interval, relative to normal-appearing white matter, likewise.
      recall: share of the lesion voxels with a lesion probability of at least 1/2, likewise.
      precision: share of the voxels with such a probability that are lesion, likewise.
      observed: `nmse_fit`, mean of real patients; None if none was scanned with these inputs.
      patients: number of real patients.
    """

    sequences: tuple[str, ...]
    nmse: float
    width: float
    recall: float
    precision: float
    observed: float | None = None
    patients: int = 0


def expected_of(sequences: Collection[str], path: Path = TABLE) -> Expected:
    """Returns what is expected of a set of inputs.

    Args:
      sequences: one or more of `INPUTS`.
      path: table of all subsets.

    Raises:
      InputError: a name is not one of `INPUTS`, none is given, or the table is damaged.
    """
    expect_inputs(sequences)
    wanted = tuple(name for name in INPUTS if name in sequences)
    try:
        row = read_object(path, _REMEDY)["subsets"]["+".join(wanted)]
        return Expected(wanted, **row)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: has no valid row of {'+'.join(wanted)}; {_REMEDY}") from error


def compare(
    have: Collection[str], could: Sequence[str], path: Path = TABLE
) -> Iterator[tuple[tuple[str, ...], Expected]]:
    """Yields the added sequences and what is expected with them, none first.

    Args:
      have: sequences that there are.
      could: sequences that could be added; every subset of them is compared, the smallest first.
      path: table of all subsets.

    Raises:
      InputError: see `expected_of`; or a sequence is in both.
    """
    expect_inputs([*have, *could])
    if both := [name for name in could if name in have]:
        raise InputError(f"{both[0]} is among those that there are; name others to add")
    others = tuple(dict.fromkeys(could))
    for number in range(len(others) + 1):
        for added in combinations(others, number):
            yield added, expected_of([*have, *added], path)


def expect_inputs(names: Collection[str]) -> None:
    """Checks names of inputs.

    Raises:
      InputError: a name is unknown, or there is none.
    """
    unknown = [name for name in names if name not in INPUTS]
    if unknown or not names:
        raise InputError(
            f"{unknown[0] if unknown else 'nothing'} is not an input; choose from "
            f"{', '.join(INPUTS)}"
        )
