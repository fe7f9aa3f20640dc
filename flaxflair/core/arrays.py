"""Named arrays: what a fitted method consists of, and whether they are those that it needs.

Knows nothing of files or of methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array, InputError


class Spec(NamedTuple):
    """What an array has to be.

    Attributes:
      shape: length of each axis; None for any length.
      dtypes: names of the types that will do, such as `float32`.
    """

    shape: Sequence[int | None]
    dtypes: Sequence[str]


def expect_arrays(arrays: Mapping[str, Array], wanted: Mapping[str, Spec]) -> None:
    """Refuses arrays of other names, shapes or types than are wanted, and values not finite.

    Raises:
      InputError: the message names the first array that differs.
    """
    if arrays.keys() != wanted.keys():
        found = [f"lacks {name!r}" for name in sorted(wanted.keys() - arrays.keys())[:1]]
        found += [f"has {name!r} too many" for name in sorted(arrays.keys() - wanted.keys())[:1]]
        raise InputError(
            f"{' and '.join(found)} ({len(arrays)} arrays are there, {len(wanted)} are needed)"
        )
    for name, spec in wanted.items():
        array = arrays[name]
        fits = len(spec.shape) == array.ndim and all(
            length in (None, own) for length, own in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.dtype.name not in spec.dtypes:
            shape = "×".join("any" if n is None else str(n) for n in spec.shape)
            found = "×".join(map(str, array.shape))
            raise InputError(
                f"array {name!r} is {array.dtype.name} of {found or 'no axis'}; "
                f"{' or '.join(spec.dtypes)} of {shape} is needed"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"array {name!r} holds values that are not finite")
