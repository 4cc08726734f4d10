"""Random numbers by the thousand: the latencies of a channel, singly, in arrays, or as the largest of many at once.

A latency is drawn by its quantile (`Channel.latency_s`). Here it is looked up in a table over x = -log(1 - quantile),
which is an exponential variate. The largest of k draws has the quantile unit**(1/k), which takes one variate as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lambdaml.simulation.channel import Channel
from lambdaml.worker.poll_timer import Numbers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ARRAYS: Numbers[Floats] = Numbers(
    np.zeros(()), np.minimum, np.maximum, lambda several: np.median(several, axis=0), np.where
)
"""The arithmetic of `lambdaml.worker.poll_timer` on arrays."""

_END, _PER_UNIT = 36, 64  # the table goes to the quantile 1 - 2e-16, in steps of 1/64
_BLOCK = 2048


class Latency:
    """The latencies of one kind of request, in seconds, within 0.1 % of those of `Channel.latency_s`."""

    def __init__(self, channel: Channel, kind: str, rng: np.random.Generator) -> None:
        self._values = _table(channel, kind)
        self._slopes = np.diff(self._values, append=self._values[-1])
        self._rng = rng
        self.constant = bool(self._values[0] == self._values[-1])
        self.next: Callable[[], float] = _stream(self.many).__next__

    @property
    def mean_s(self) -> float:
        """The mean of a single draw, in seconds."""
        return float(self._at(-np.log1p(-(np.arange(1000) + 0.5) / 1000)).mean())

    def many(self, count: int) -> Floats:
        """Return this many independent draws."""
        if self.constant:
            return np.full(count, self._values[0])
        return self._at(self._rng.standard_exponential(count))

    def largest(self, counts: Floats) -> Floats:
        """Return, for each of these counts (at least 1), the largest of as many draws."""
        if self.constant:
            return np.full(len(counts), self._values[0])
        return self._at(-np.log(-np.expm1(-self._rng.standard_exponential(len(counts)) / counts)))

    def _at(self, x: Floats) -> Floats:
        place = np.minimum(x * _PER_UNIT, len(self._values) - 1.0)
        low = place.astype(np.int64)
        values: Floats = self._values[low] + (place - low) * self._slopes[low]
        return values


@lru_cache(maxsize=64)
def _table(channel: Channel, kind: str) -> Floats:
    units = -np.expm1(-np.arange(_END * _PER_UNIT + 1) / _PER_UNIT)
    return np.array([channel.latency_s(kind, unit) for unit in units.tolist()])


def uniforms(rng: np.random.Generator) -> Callable[[], float]:
    """Return a function that gives uniform numbers in [0, 1), one by one."""
    return _stream(rng.random).__next__


def _stream(draw: Callable[[int], Floats]) -> Iterator[float]:
    while True:
        yield from draw(_BLOCK).tolist()
