"""When to look for an object that somebody else will write.

A look that comes too early costs a request (a 404 is billed) and its latency; one that comes too late costs time. So
a look is timed: writers say in each object how long they took, and the reader learns how far off its guesses were.
"""

from __future__ import annotations

from statistics import median

_WINDOW = 5
_MISS_STEP = 0.25
_HIT_STEP = 0.03


class Pace:
    """The expected time from when a writer may start until its object can be read.

    The guess is the median of what the writer said of its last few objects, plus a margin that grows by a quarter of
    the store's latency with every first look that misses and shrinks a little with every one that hits: in the long
    run about one first look in nine misses. The margin may become negative, because a read takes effect only when it
    reaches the store.
    """

    def __init__(self) -> None:
        self._said: list[float] = []
        self._margin_s = 0.0

    def delay_s(self) -> float | None:
        """Seconds from the writer's start to the first look; None while nothing is known."""
        return max(0.0, median(self._said) + self._margin_s) if self._said else None

    def said(self, duration_s: float) -> None:
        """The writer took this long from its start until its object stood."""
        self._said = [*self._said[-(_WINDOW - 1) :], duration_s]

    def looked(self, found: bool, latency_s: float) -> None:
        """The first look found the object, or did not; a look takes about `latency_s`."""
        limit = 4 * latency_s
        step = -_HIT_STEP if found else _MISS_STEP
        self._margin_s = min(limit, max(-latency_s, self._margin_s + step * latency_s))


class Backoff:
    """Pauses between further looks: from a fraction of the store's latency, growing by half, with jitter, capped.

    Args:
        latency_s: what a look takes.
        cap_s: the longest pause.
    """

    def __init__(self, latency_s: float, cap_s: float = 5.0) -> None:
        self._pause_s = max(0.001, latency_s / 4)
        self._cap_s = cap_s

    def next_s(self, uniform: float) -> float:
        """The next pause, given a random number from [0, 1)."""
        pause = self._pause_s
        self._pause_s = min(self._cap_s, pause * 1.5)
        return pause * (0.75 + 0.5 * uniform)
