"""This module derives clock differences between functions from the order of events. It assumes no synchronised clock.

Each clock has an unknown offset from one scale. If an event on clock a came before an event on clock b, this bounds the
difference of their offsets from one side: an object is read after its put began, a log entry is applied after it was
made, and the store dates the first object that a function wrote between the begin and the return of its put. With
traffic in both directions each pair is bounded from both sides, as in NTP by the round trip of least delay. Bounds also
chain from clock to clock: the tightest are the shortest paths (difference constraints; Bellman 1958).

The estimate is the middle of the possible range; its uncertainty is half the width. All clocks are assumed to run at
one rate; if they drift so far apart that bounds contradict each other, all bounds are widened by the least amount (to a
factor of two) that reconciles them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STORE = ""
"""The store's clock, which dates objects, has this name."""

DATE_S = 0.01
"""A store's date may lag behind the truth by this much, since file systems take it from the last tick of the kernel. A
date in whole seconds, as on S3, is assumed to be rounded down, and may lag by one second."""

_ROUNDING_S = 2e-6  # the bucket holds times with six digits
_LEAST_WIDENING_S = 1e-4


@dataclass(frozen=True, slots=True)
class Offset:
    """Holds the difference between two clocks.

    Attributes:
        seconds: The seconds that must be added to one clock to get the other.
        uncertainty_s: The seconds that this number may be off, to either side.
    """

    seconds: float
    uncertainty_s: float


class Clocks:
    """Collects pairs of ordered events, and computes offsets from them.

    Args:
        names: The names of the functions.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._index = {name: number for number, name in enumerate([STORE, *names])}
        size = len(self._index)
        self._bounds: NDArray[np.float64] = np.full((size, size), math.inf)
        np.fill_diagonal(self._bounds, 0.0)
        self._closed: NDArray[np.float64] | None = None

    def order(self, first: str, first_s: float, second: str, second_s: float) -> None:
        """Note that an event at `first_s` on the clock `first` came before one at `second_s` on the clock `second`."""
        if first in self._index and second in self._index and first != second:
            pair = self._index[first], self._index[second]
            self._bounds[pair] = min(self._bounds[pair], second_s - first_s + _ROUNDING_S)
            self._closed = None

    def dated(self, name: str, before_s: float, after_s: float | None, date_s: float) -> None:
        """Note that the store gave `date_s` to an object that this function began to put at `before_s`, and whose put
        had returned at `after_s`."""
        self.order(name, before_s, STORE, date_s + (1.0 if date_s.is_integer() else DATE_S))
        if after_s is not None:
            self.order(STORE, date_s, name, after_s)

    def offset(self, name: str, to: str) -> Offset | None:
        """Return the offset from the clock of one function to that of another; None if nothing bounds it.

        If it is bounded from one side alone, that bound is the estimate, and the uncertainty is infinite.
        """
        if name == to:
            return Offset(0.0, 0.0)
        if name not in self._index or to not in self._index:
            return None
        if self._closed is None:
            self._closed = _close(self._bounds)
        a, b = self._index[name], self._index[to]
        most, least = float(self._closed[a, b]), -float(self._closed[b, a])
        if math.isfinite(most) and math.isfinite(least):
            return Offset((least + most) / 2, (most - least) / 2)
        known = [bound for bound in (most, least) if math.isfinite(bound)]
        return Offset(known[0], math.inf) if known else None


def _close(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the tightest bounds that follow from these, widened if they contradict each other."""
    widening = 0.0
    while True:
        closed = bounds + widening
        np.fill_diagonal(closed, 0.0)
        for middle in range(len(closed)):
            np.minimum(closed, closed[:, middle, None] + closed[None, middle, :], out=closed)
        if (np.diag(closed) >= 0).all():
            return closed
        widening = max(_LEAST_WIDENING_S, 2 * widening)
