"""The codec `topk:DENSITY` sends only the numbers of the largest magnitude, each with its index.

Of d numbers it sends k = max(floor(d * density), 1), as in Shi et al. (arXiv 1911.08772). What it leaves out is lost
unless the worker keeps it and sends it later (error feedback). An index takes 4 bytes (8 if the vector has 2^31 numbers
or more), so a density of 0.001 takes 0.2 % of the bytes of `fp32`.

Which numbers are sent is a function of the vector alone, on every machine: magnitudes are compared as integers, and of
equal ones the first are sent. Quick partial sorts leave that choice among equals to chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Vector
from lambdaml.log.records import Body

_BLOCK = 2**18
"""Vectors are processed in blocks of this many numbers, so that no intermediate value has the vector's size."""

_SAMPLE = 2**16
"""At least this many numbers of a longer vector are looked at to guess a magnitude that few others exceed."""


class TopK:
    """Sends the part of the numbers that has the largest magnitudes; all others are decoded as zeros.

    Args:
        density: The part of the numbers that is sent, above 0 and at most 1.
    """

    record = None

    def __init__(self, density: float) -> None:
        if not 0.0 < density <= 1.0:
            raise ValueError(f"density must be above 0 and at most 1, not {density}")
        self.density = density
        self.exact = density == 1.0
        self.feedback = not self.exact

    def encode(self, vector: Vector, seed: int) -> Body:
        size = len(vector)
        if self._count(size) == size:
            return {"index": np.arange(size, dtype=_index_dtype(size)), "value": vector}
        index = _largest(vector, self._count(size))
        return {"index": index.astype(_index_dtype(size), copy=False), "value": vector[index]}

    def check(self, body: Body, elements: slice) -> str:
        if set(body) != {"index", "value"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where an index and a value are due"
        index, value, size = body["index"], body["value"], elements.stop - elements.start
        count, dtype = self._count(size), _index_dtype(size)
        if index.shape != (count,) or index.dtype != dtype:
            return f"has an index of shape {index.shape} {index.dtype.name}, not ({count},) {dtype.name}"
        if value.shape != (count,) or value.dtype.name not in ("float32", "float64"):
            return f"has a value of shape {value.shape} {value.dtype.name}, not ({count},) float32"
        if count and (index[0] < 0 or index[-1] >= size or not (index[1:] > index[:-1]).all()):
            return f"has an index that does not rise from number to number within a vector of {size}"
        return ""

    def values(self, body: Body) -> Vector:
        return body["value"]

    def add(self, body: Body, weight: float, out: Vector, elements: slice, *, fresh: bool = False) -> None:
        index = body["index"]
        if fresh:
            out.fill(0.0 * weight)
        first, last = np.searchsorted(index, np.array([elements.start, elements.stop], index.dtype)).tolist()
        for start in range(first, last, _BLOCK):
            block = slice(start, min(start + _BLOCK, last))
            places, values = index[block] - elements.start, body["value"][block]
            if fresh and weight == 1.0:
                out[places] = values  # a product would quieten a NaN
            elif fresh:
                out[places] = values * weight
            else:
                out[places] += values * weight  # no place occurs twice

    def _count(self, size: int) -> int:
        """Return how many of this many numbers are sent, k."""
        return min(max(int(size * self.density), 1), size)


def variants() -> list[str]:
    """Return the variants worth trying: none yet, because plans take every codec to converge as `fp32` does."""
    return []


def _index_dtype(size: int) -> np.dtype[Any]:
    """Return the dtype of the indices of a vector, which also holds its size, for that is where its last slice ends."""
    return np.dtype(np.int32 if size < 2**31 else np.int64)


def _largest(vector: Vector, count: int) -> NDArray[Any]:
    """Return the rising indices of the `count` largest magnitudes; of equal ones the first.

    A sample gives a magnitude that probably not many more than `count` numbers exceed, and only those are compared with
    each other. The result does not depend on that guess, which is not worth its time where a quarter is sent.
    """
    if 4 * count > len(vector):
        return _from(vector, _ranked(_magnitudes(vector), count), count)
    sample = _magnitudes(vector[:: max(1, len(vector) // _SAMPLE)])
    expected = count * len(sample) / len(vector)
    rank = int(expected + 4 * expected**0.5) + 8
    guess = _ranked(sample, rank) if rank < len(sample) else 0
    above = _where(np.greater, vector, guess)
    if len(above) >= count:
        few = vector[above]
        rising: NDArray[Any] = above[_from(few, _ranked(_magnitudes(few), count), count)]
        return rising
    found = _with_ties(vector, above, guess, count)
    return found if len(found) == count else _from(vector, _ranked(_magnitudes(vector), count), count)


def _from(vector: Vector, least: int, count: int) -> NDArray[Any]:
    """Return the rising indices of `count` numbers, of which the least has the magnitude `least`."""
    return _with_ties(vector, _where(np.greater, vector, least), least, count)


def _with_ties(vector: Vector, above: NDArray[Any], least: int, count: int) -> NDArray[Any]:
    """Return the rising indices of all numbers above the magnitude `least`, and of the first that are equal to it, to
    make `count`; fewer if there are no more."""
    equal = _where(np.equal, vector, least, count - len(above))
    return np.sort(np.concatenate([above, equal]), kind="stable")  # two rising runs, which a stable sort only merges


def _where(compare: np.ufunc, vector: Vector, magnitude: int, most: int | None = None) -> NDArray[Any]:
    """Return the rising indices of the numbers whose magnitude compares so; the first `most` of them."""
    dtype = _index_dtype(len(vector))
    found, lacking = [np.empty(0, dtype)], len(vector) if most is None else most
    for start in range(0, len(vector), _BLOCK):
        if lacking <= 0:
            break
        here = np.flatnonzero(compare(_magnitudes(vector[start : start + _BLOCK]), magnitude))[:lacking].astype(dtype)
        here += dtype.type(start)
        found.append(here)
        lacking -= len(here)
    return np.concatenate(found)


def _ranked(magnitudes: NDArray[Any], rank: int) -> int:
    """Return the magnitude of this rank, where 1 is that of the largest. The array is rearranged."""
    at = len(magnitudes) - rank
    magnitudes.partition(at)
    return int(magnitudes[at])


def _magnitudes(vector: Vector) -> NDArray[Any]:
    """Return the bits of each number without its sign. As integers they have the order of the magnitudes, with NaN
    above infinity."""
    bits: NDArray[Any] = vector.view(f"u{vector.itemsize}")
    magnitudes: NDArray[Any] = np.bitwise_and(bits, np.iinfo(bits.dtype).max >> 1)
    return magnitudes
