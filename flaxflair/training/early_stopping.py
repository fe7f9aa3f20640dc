"""Early stopping by Prechelt's STOP_p, as in the paper. Independent of networks.

Source: Wei et al. 2019, section 2.3; Prechelt, *Early Stopping: But When?* (1998), criterion UP_s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def should_stop(errors: Sequence[float], strips: int, strip_length: int) -> bool:
    """Whether STOP_p ends training after the last epoch of `errors`.

    STOP_1 stops after the first end-of-strip epoch t with E(t) > E(t - q); STOP_p stops after t if
    STOP_(p-1) stops after t - q and E(t) > E(t - q). The error must therefore have risen over each
    of the last p strips, compared at their ends; errors inside a strip are ignored.

    Args:
      errors: generalisation error after epochs 1, 2, …, t.
      strips: p; 0 disables early stopping.
      strip_length: q, in epochs.

    Returns:
      True if t ends a strip and the error rose over p consecutive strips. NaN is not a rise.
    """
    epochs = len(errors)
    if strips < 1 or epochs % strip_length or epochs < (strips + 1) * strip_length:
        return False
    ends = [errors[epochs - 1 - back * strip_length] for back in range(strips + 1)]
    return all(later > earlier for later, earlier in pairwise(ends))
