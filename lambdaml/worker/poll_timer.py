"""When to look for an object that somebody else will write.

A look that comes too early costs a request (a 404 is billed) and its latency; one that comes too late costs time. So
a look is timed: writers say in each object how long they took, and the reader learns how far off its guesses were.
"""

from __future__ import annotations

from statistics import median

_WINDOW = 5
_MISS_STEP = 0.25
_HIT_STEP = 0.04
_MARGIN_LIMIT = 4


class PollTimer:
    """The expected time from when a writer may start until its object can be read.

    The guess is the median of what the writer said of its last few objects, plus a margin. The margin grows by a
    quarter of `scale_s` with every first look that misses and shrinks by a little with every one that hits, so in the
    long run about one first look in seven misses. It may become negative, because a read takes effect only when it
    reaches the store.
    """

    def __init__(self) -> None:
        self._said: list[float] = []
        self._usual_s = 0.0
        self._margin_s = 0.0
        self._jitter_s = 0.0

    def delay_s(self) -> float | None:
        """Seconds from the writer's start to the first look; None while nothing is known."""
        return max(0.0, self._usual_s + self._margin_s) if self._said else None

    def said(self, duration_s: float) -> None:
        """The writer took this long from its start until its object stood."""
        self._said = [*self._said[-(_WINDOW - 1) :], duration_s]
        self._usual_s = median(self._said)

    def scale_s(self, latency_s: float) -> float:
        """What a guess may be wrong by: what a look takes, or how late the writer usually is, whichever is more."""
        return max(latency_s, self._jitter_s)

    def looked(self, late_s: float | None, latency_s: float) -> None:
        """The first look found the object (None), or it was found this much later; a look takes `latency_s`.

        A writer that was restarted is later than any pace can tell, so that lateness counts only up to a limit.
        """
        limit_s = _MARGIN_LIMIT * latency_s + self._usual_s
        self._jitter_s += 0.1 * (min(late_s or 0.0, limit_s) - self._jitter_s)
        scale_s = self.scale_s(latency_s)
        step = -_HIT_STEP if late_s is None else _MISS_STEP
        self._margin_s = min(_MARGIN_LIMIT * scale_s, max(-latency_s, self._margin_s + step * scale_s))


class Backoff:
    """Pauses between further looks: from a fraction of what a guess is wrong by, growing by half, with jitter, capped.

    Args:
        scale_s: as `Pace.scale_s`.
        cap_s: the longest pause.
    """

    def __init__(self, scale_s: float, cap_s: float = 1.0) -> None:
        self._pause_s = min(cap_s, max(0.001, scale_s / 4))
        self._cap_s = cap_s

    def next_s(self, uniform: float) -> float:
        """The next pause, given a random number from [0, 1)."""
        pause = self._pause_s
        self._pause_s = min(self._cap_s, pause * 1.5)
        return pause * (0.75 + 0.5 * uniform)
