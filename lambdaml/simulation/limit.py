"""A store's limit on reads or writes, for many requests at once: requests above it are refused and tried again."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable

import numpy as np

from lambdaml.simulation.draws import Floats, Latency
from lambdaml.storage.patience import outage_pause_s
from lambdaml.storage.retry import ATTEMPTS, pause_s

_SECONDS = 1000
"""The requests served are remembered for this many seconds."""

_FOLLOWED = 512
"""At most this many requests of one moment are followed; each represents an equal share of all."""


class Limit:
    """Serves requests as the store does, and repeats refused ones as its clients do.

    The pauses are those of `lambdaml.storage.retry` and `lambdaml.storage.patience`.

    Args:
        op: The operation, by whose name refusals are counted in `errors`, as a meter does.
        rate_per_s: The number of requests that the store serves in a second; None for no limit.
        latency: Draws the latency of a refused request.
        uniform: Draws a number in [0, 1).
        errors: The counter of refusals.
    """

    def __init__(
        self,
        op: str,
        rate_per_s: float | None,
        latency: Latency,
        uniform: Callable[[], float],
        errors: Counter[str],
    ) -> None:
        self._rate_per_s = rate_per_s
        self._served: Counter[int] = Counter()  # the number of requests in each second
        self._latency_s, self._uniform = latency.next, uniform
        self._errors, self._name = errors, f"{op}/Throttled"

    def serve_one(self, now: float) -> float:
        """Return when a request that reaches the store at this moment is served."""
        return now if self._take(now, 1.0, 1.0) else float(self.serve(np.array([now]))[0])

    def serve(self, at: Floats, each: float = 1.0) -> Floats:
        """Return when requests that reach the store at these moments are served. Each represents `each` requests."""
        if not at.size or self._take(float(at.min()), at.size * each, at.size * each):
            return at
        order, stride = np.argsort(at), -(-at.size // _FOLLOWED)
        followed = at[order[::stride]]
        served, share = np.empty(followed.size), each * at.size / followed.size
        heap = [(moment, 1, place) for place, moment in enumerate(followed.tolist())]
        while heap:
            now, attempt, place = heapq.heappop(heap)
            if self._take(now, share, 1.0):
                served[place] = now
            else:
                self._errors[self._name] += round(share)
                heapq.heappush(heap, (now + self._latency_s() + self._pause_s(attempt), attempt + 1, place))
        late = np.empty(at.size)
        late[order] = np.repeat(served - followed, stride)[: at.size]
        return at + late

    def _take(self, now: float, count: float, room: float) -> bool:
        """Count `count` requests in this second and return True, unless it has no room for `room` requests.

        The room that the second before left is available too, as in a `TokenBucket`, but moments may come in any order.
        """
        if self._rate_per_s is None:
            return True
        second, served = int(now), self._served
        if served[second] + room > 2 * self._rate_per_s - min(self._rate_per_s, served[second - 1]):
            return False
        served[second] += count  # type: ignore[assignment]
        if len(served) > _SECONDS:
            del served[min(served)]
        return True

    def _pause_s(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt. Attempts are counted from 1."""
        trial = attempt % ATTEMPTS
        return pause_s(trial, self._between) if trial else outage_pause_s(attempt // ATTEMPTS, self._between)

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._uniform()
