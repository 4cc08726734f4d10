"""Selection of the numbers of the largest magnitude.

Magnitudes are compared as integers, and of equal ones the first are taken, so that the choice is a function of the
vector alone, on every machine. Quick partial sorts leave it to chance among equals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Vector

_BLOCK = 2**18
"""Vectors are processed in blocks of this many numbers, so that no intermediate value has the vector's size."""

_SAMPLE = 2**16
"""At least this many numbers of a longer vector are looked at to guess a magnitude that few others exceed."""


def index_dtype(size: int) -> np.dtype[Any]:
    """Return the dtype of the indices of a vector, which also holds its size, for that is where its last slice ends."""
    return np.dtype(np.int32 if size < 2**31 else np.int64)


def largest(vector: Vector, count: int) -> NDArray[Any]:
    """Return the rising indices of the `count` largest magnitudes; of equal ones the first.

    A sample gives a magnitude that probably not many more than `count` numbers exceed, and only those are compared with
    each other. The result does not depend on that guess, which is not worth its time where a quarter is sent.
    """
    if 4 * count > len(vector):
        return _from(vector, magnitude_at(magnitudes(vector), count), count)
    sample = magnitudes(vector[:: max(1, len(vector) // _SAMPLE)])
    expected = count * len(sample) / len(vector)
    rank = int(expected + 4 * expected**0.5) + 8
    guess = magnitude_at(sample, rank) if rank < len(sample) else 0
    above = where(np.greater, vector, guess)
    if len(above) >= count:
        few = vector[above]
        rising: NDArray[Any] = above[_from(few, magnitude_at(magnitudes(few), count), count)]
        return rising
    found = _with_ties(vector, above, guess, count)
    return found if len(found) == count else _from(vector, magnitude_at(magnitudes(vector), count), count)


def _from(vector: Vector, least: int, count: int) -> NDArray[Any]:
    """Return the rising indices of `count` numbers, of which the least has the magnitude `least`."""
    return _with_ties(vector, where(np.greater, vector, least), least, count)


def _with_ties(vector: Vector, above: NDArray[Any], least: int, count: int) -> NDArray[Any]:
    """Return the rising indices of all numbers above the magnitude `least`, and of the first that are equal to it, to
    make `count`; fewer if there are no more."""
    equal = where(np.equal, vector, least, count - len(above))
    return np.sort(np.concatenate([above, equal]), kind="stable")  # two rising runs, which a stable sort only merges


def where(compare: np.ufunc, vector: Vector, magnitude: int, most: int | None = None) -> NDArray[Any]:
    """Return the rising indices of the numbers whose magnitude compares so; the first `most` of them."""
    dtype = index_dtype(len(vector))
    found, lacking = [np.empty(0, dtype)], len(vector) if most is None else most
    for start in range(0, len(vector), _BLOCK):
        if lacking <= 0:
            break
        here = np.flatnonzero(compare(magnitudes(vector[start : start + _BLOCK]), magnitude))[:lacking].astype(dtype)
        here += dtype.type(start)
        found.append(here)
        lacking -= len(here)
    return np.concatenate(found)


def magnitude_at(found: NDArray[Any], rank: int) -> int:
    """Return the magnitude of this rank, where 1 is that of the largest. The array is rearranged."""
    at = len(found) - rank
    found.partition(at)
    return int(found[at])


def magnitudes(vector: Vector) -> NDArray[Any]:
    """Return the bits of each number without its sign. As integers they have the order of the magnitudes, with NaN
    above infinity."""
    bits: NDArray[Any] = vector.view(f"u{vector.itemsize}")
    unsigned: NDArray[Any] = np.bitwise_and(bits, np.iinfo(bits.dtype).max >> 1)
    return unsigned
