"""Sums of which the bits do not depend on the machine.

NumPy's own sums are added up in an order that belongs to its build. These halve the terms: the last half is added to the
first, number by number, until one term is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def row_sums(terms: NDArray[Any], room: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of each row. Both arrays are overwritten; `room` has as many rows, and half the columns or more."""
    count = terms.shape[1]
    while count > 1:
        half = count // 2
        np.add(terms[:, :half], terms[:, count - half : count], out=room[:, :half])
        room[:, half : count - half] = terms[:, half : count - half]
        terms, room, count = room, terms, count - half
    return terms[:, 0]


def column_sums(terms: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of each column. The terms are overwritten."""
    count = len(terms)
    while count > 1:
        half = count // 2
        np.add(terms[:half], terms[count - half : count], out=terms[:half])
        count -= half
    total: NDArray[Any] = terms[0]
    return total
