"""Decides when to look for an object that another function will write.

A look that comes too early costs a request (a 404 is billed) and its latency; one that comes too late costs time. So
looks are timed: writers say in each object how long they took, and the reader learns how far off its guesses were.

The rules are arithmetic on floats or arrays. A function at work uses floats and watches one writer with each timer;
`lambdaml.simulation` uses arrays, with which all functions watch all writers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

N = TypeVar("N", float, "NDArray[np.float64]")

_WINDOW = 5
_MISS_STEP = 0.25
_HIT_STEP = 0.04
_MARGIN_LIMIT = 4

OWN_UPDATE_FIRST_S = 2.0
"""A function that cannot time its looks yet waits this long for an update of its own before it looks for others'."""

BURST = 8
"""A reader that is behind reads at most this many log entries at once."""

_EARLY = 0.75
"""The first look for a log entry comes after this share of the writer's forecast. Workers that wait for a commit delay
the commits after it, so a reader that trusted the forecast in full would confirm its own lateness."""


@dataclass(frozen=True, slots=True)
class Numbers(Generic[N]):
    """The functions that arithmetic on floats, or on arrays, needs besides operators.

    Attributes:
        zero: The number zero.
        least, greatest: Functions that return the least, or the greatest, of their arguments.
        middle: A function that returns the median of a list.
        choose: A function of a condition, the number where it holds, and the number where it does not.
    """

    zero: N
    least: Callable[..., N]
    greatest: Callable[..., N]
    middle: Callable[[list[N]], N]
    choose: Callable[..., N]


FLOATS: Numbers[float] = Numbers(0.0, min, max, median, lambda holds, one, other: one if holds else other)


class PollTimer(Generic[N]):
    """The expected time from when a writer may start until its object can be read.

    The guess is the median of the times that the writer's last few objects say, plus a margin. The margin grows by a
    quarter of `scale_s` with every first look that misses and shrinks a little with every one that hits, so in the
    long run about one first look in seven misses. It may become negative, because a read takes effect only when it
    reaches the store.
    """

    def __init__(self, numbers: Numbers[N]) -> None:
        self._numbers: Numbers[N] = numbers
        self._said: list[N] = []
        self._usual_s: N = numbers.zero
        self._margin_s: N = numbers.zero
        self._jitter_s: N = numbers.zero

    def delay_s(self) -> N | None:
        """Return the seconds from the writer's start to the first look, or None while nothing is known."""
        if not self._said:
            return None
        delay_s: N = self._numbers.greatest(0.0, self._usual_s + self._margin_s)
        return delay_s

    def said(self, duration_s: N) -> None:
        """Note that the writer took this long from its start until its object existed."""
        self._said = self._said[-(_WINDOW - 1) :] + [duration_s]
        self._usual_s = self._numbers.middle(self._said)

    def scale_s(self, latency_s: N) -> N:
        """Return how far off a guess may be: the time of a look, or the writer's usual lateness, whichever is more."""
        return self._numbers.greatest(latency_s, self._jitter_s)

    def looked(self, late_s: N, latency_s: N) -> None:
        """Note that the first look found the object, or how much later it was found.

        A writer that was restarted is later than any timer can foresee, so lateness counts only up to a limit.

        Args:
            late_s: The seconds from the first look to the one that found the object; 0 if that was the first.
            latency_s: The seconds that a look takes.
        """
        numbers = self._numbers
        limit_s = _MARGIN_LIMIT * latency_s + self._usual_s
        self._jitter_s = self._jitter_s + 0.1 * (numbers.least(late_s, limit_s) - self._jitter_s)
        scale_s = self.scale_s(latency_s)
        moved_s = self._margin_s + numbers.choose(late_s > 0, _MISS_STEP, -_HIT_STEP) * scale_s
        self._margin_s = numbers.least(_MARGIN_LIMIT * scale_s, numbers.greatest(-latency_s, moved_s))


class Timer(Protocol):
    """Decides when to look for an object; see `PollTimer`."""

    def delay_s(self) -> float | None: ...

    def scale_s(self, latency_s: float) -> float: ...

    def said(self, duration_s: float) -> None: ...

    def looked(self, late_s: float, latency_s: float) -> None: ...


class RoundTimer:
    """One timer for objects of several writers that are needed together in each round.

    Whoever needs all of them gains nothing if it looks for the others before the last one is due, but pays for looks that
    miss. So all are looked for at once, and in the long run one round in seven misses any.
    """

    def __init__(self) -> None:
        self._timer = PollTimer(FLOATS)
        self._said: list[float] = []
        self._late_s: list[float] = []
        self._latency_s = 0.0

    def delay_s(self) -> float | None:
        """Return the seconds from the start of the round to the first look, or None while nothing is known."""
        return self._timer.delay_s()

    def scale_s(self, latency_s: float) -> float:
        """Return how far off a guess may be."""
        return self._timer.scale_s(latency_s)

    def said(self, duration_s: float) -> None:
        """Note how long one of the writers took."""
        self._said.append(duration_s)

    def looked(self, late_s: float, latency_s: float) -> None:
        """Note how late one of the objects was found."""
        self._late_s.append(late_s)
        self._latency_s = latency_s

    def close(self) -> None:
        """End the round."""
        if self._said:
            self._timer.said(max(self._said))
        if self._late_s:
            self._timer.looked(max(self._late_s), self._latency_s)
        self._said, self._late_s = [], []


class Backoff(Generic[N]):
    """The pauses between further looks. They begin at a quarter of `scale_s` and grow by half up to a cap, with jitter.

    Args:
        scale_s: How far off a guess may be, in seconds; see `PollTimer.scale_s`.
        cap_s: The longest pause, without its jitter.

    Attributes:
        pause_s: The next pause, without its jitter.
    """

    def __init__(self, numbers: Numbers[N], scale_s: N, cap_s: float = 1.0) -> None:
        self._numbers: Numbers[N] = numbers
        self._cap_s = cap_s
        self.pause_s: N = numbers.least(cap_s, numbers.greatest(0.001, scale_s / 4))

    def next_s(self, uniform: N) -> N:
        """Return the next pause in seconds, given a random number from [0, 1)."""
        pause = self.pause_s
        self.pause_s = self._numbers.least(self._cap_s, pause * 1.5)
        return pause * (0.75 + 0.5 * uniform)


def entry_due_s(found_s: N, latency_s: N, forecast_s: float) -> N:
    """Return when to look for a log entry, if the one before it was found at `found_s` and has the forecast
    `forecast_s` for this one."""
    return found_s - 2 * latency_s + _EARLY * forecast_s


def entry_scale_s(numbers: Numbers[N], latency_s: N, forecast_s: float) -> N:
    """Return how far off the guess of `entry_due_s` may be, for `Backoff`."""
    return numbers.greatest(latency_s, forecast_s / 2)
