"""Validation of named arrays, such as the parameters of a fitted method.

Independent of files and methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flaxflair.core.records import Array, InputError


class Spec(NamedTuple):
    """Expected shape and type of an array.

    Attributes:
      shape: length of each axis; None for any length.
      dtypes: names of the accepted types, such as `float32`.
    """

    shape: Sequence[int | None]
    dtypes: Sequence[str]


def expect_arrays(arrays: Mapping[str, Array], wanted: Mapping[str, Spec]) -> None:
    """Checks the names, shapes and types of arrays, and that their values are finite.

    Raises:
      InputError: the message names the first array that differs.
    """
    if arrays.keys() != wanted.keys():
        found = [f"lacks {name!r}" for name in sorted(wanted.keys() - arrays.keys())[:1]]
        found += [f"has unexpected {name!r}" for name in sorted(arrays.keys() - wanted.keys())[:1]]
        raise InputError(
            f"{' and '.join(found)} ({len(arrays)} arrays found, {len(wanted)} needed)"
        )
    for name, spec in wanted.items():
        array = arrays[name]
        fits = len(spec.shape) == array.ndim and all(
            length in (None, actual) for length, actual in zip(spec.shape, array.shape, strict=True)
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
