"""Sums of which the bits do not depend on the machine.

NumPy's own sums are added up in an order that belongs to its build. These add the last half of the terms to the first,
number by number, until one term is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NARROW = 256
"""Rows that are no longer than this are added as columns, which is quicker."""


def row_sums(terms: NDArray[Any], room: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of each row. Both arrays are overwritten; `room` has as many rows, and half the columns or more."""
    count = terms.shape[1]
    while count > _NARROW:
        half = count // 2
        np.add(terms[:, :half], terms[:, count - half : count], out=room[:, :half])
        if count % 2:
            room[:, half] = terms[:, half]
        terms, room, count = room, terms, count - half
    columns = terms[:, :count].T.copy()
    while count > 1:
        half = count // 2
        columns[:half] += columns[count - half : count]
        count -= half
    total: NDArray[Any] = columns[0]
    return total
