"""A store's limit on reads or writes, for many requests at once: requests above it are refused and tried again.

As in a `lambdaml.simulation.channel.TokenBucket`, a second's worth may come at once, and room for more comes evenly. But
what was served is known for whole seconds only, so that moments may come in any order. A *coarse* limit has the room of a
second at its beginning.

The limit holds for all keys together. S3's limits hold for a partition, by prefix; a bucket begins with one partition,
and S3 splits busy ones only after a while (https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html).
So this is what a run meets in a new bucket, and the least that it meets in any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lambdaml.simulation.draws import Floats, Ints, Latency
from lambdaml.storage.patience import outage_pause_s
from lambdaml.storage.retry import ATTEMPTS, pause_s

_SECONDS = 1000
"""The requests served are remembered for this many seconds, or up to twice as many: they are forgotten together."""

_FOLLOWED = 512
"""At most this many requests of one moment are followed by `serve`; each represents an equal share of all."""

_MANY, _FEWER = 100_000, 128
"""Of so many requests, only this many are followed."""

_TURN_S = 0.02
"""The length of a turn: no request that is refused comes back much sooner."""

_HEAVY_S = 8.0
"""Requests that the store needs longer for are followed by `serve`."""

_TRIALS = 12
"""The pauses between attempts are the same from this many calls of `ATTEMPTS` attempts on."""


class Limit:
    """Serves requests as the store does, and repeats refused ones as its clients do.

    The pauses are those of `lambdaml.storage.retry` and `lambdaml.storage.patience`.

    Args:
        op: The operation, by whose name refusals are counted in `errors`, as a meter does.
        rate_per_s: The number of requests that the store serves in a second; None for no limit.
        latency: Draws the latency of a refused request.
        uniform: Draws this many numbers in [0, 1).
        errors: The counter of refusals.
        coarse: Whether the limit is coarse.
    """

    def __init__(
        self,
        op: str,
        rate_per_s: float | None,
        latency: Latency,
        uniform: Callable[[int], Floats],
        errors: Counter[str],
        coarse: bool = False,
    ) -> None:
        self.coarse = coarse
        self._room = None if rate_per_s is None else _Room(rate_per_s, coarse)
        self._latency, self._uniform = latency, uniform
        self._errors, self._name = errors, f"{op}/Throttled"

    def in_turns(self, count: float) -> bool:
        """Return whether so many requests are best served in turns. If it takes long, few looks come too early."""
        return not self.coarse and (self._room is None or count < _HEAVY_S * self._room.rate_per_s)

    def serve_one(self, now: float) -> float:
        """Return when a request that reaches the store at this moment is served."""
        lows, widths = _pauses()
        attempt = 0
        while self._room is not None and not self._room.take(now, 1.0):
            self._errors[self._name] += 1
            pause = min(attempt, len(lows) - ATTEMPTS + attempt % ATTEMPTS)
            now += self._latency.next() + float(lows[pause] + widths[pause] * self._uniform(1)[0])
            attempt += 1
        return now

    def serve(self, at: Floats, each: float = 1.0) -> Floats:
        """Return when requests that reach the store at these moments are served. Each represents `each` requests."""
        if self._room is None or not at.size or self._room.take(float(at.min()), at.size * each):
            return at
        most = _FOLLOWED if at.size * each < _MANY else _FEWER
        order, stride = np.argsort(at), -(-at.size // most)
        followed = at[order[::stride]]
        delay_s = self._follow(self._room, followed, each * at.size / followed.size) - followed
        late = np.empty(at.size)
        late[order] = np.repeat(delay_s, stride)[: at.size]
        return at + late

    def turn(self, at: Floats, each: float = 1.0) -> tuple[Ints, NDArray[np.bool_]]:
        """Let the store decide about the first of some requests, or about all if it has room for them.

        Args:
            at: The moments at which the requests reach the store.
            each: The number of requests that each represents.

        Returns:
            The places in `at` of the requests that it decides about, and which of these it serves. The others are
            refused; `again` repeats them.
        """
        room, first_s = self._room, float(at.min())
        if room is None or room.take(first_s, at.size * each):
            return np.arange(at.size), np.ones(at.size, np.bool_)
        second = int(first_s)
        due = np.flatnonzero(at < min(first_s + _TURN_S, second + 1))
        due = due[np.argsort(at[due], kind="stable")]
        return due, room.admit(at[due], each)

    def again(self, at: Floats, attempts: Ints, each: float = 1.0) -> Floats:
        """Return when requests reach the store again that were refused at these moments, after so many attempts."""
        self._errors[self._name] += round(each) * at.size
        return at + self._wait_s(attempts - 1)

    def _follow(self, room: _Room, at: Floats, share: float) -> Floats:
        """Return when requests that reach the store at these moments are served, each for a share of all."""
        served, now, place = np.empty(at.size), at.copy(), np.arange(at.size)
        attempts = np.zeros(at.size, np.int64)
        while place.size:
            second = room.opens(int(now.min()))
            self._pass(np.flatnonzero(now < second), now, attempts, second, share)
            due = np.flatnonzero(now < second + 1)
            if not due.size:
                continue
            due = due[np.argsort(now[due], kind="stable")]
            taken = room.admit(now[due], share)
            first, refused = due[taken], due[~taken]
            served[place[first]] = now[first]
            if refused.size and room.opens(second) > second:
                self._pass(refused, now, attempts, second + 1, share)
            elif refused.size:
                attempts[refused] += 1
                now[refused] = self.again(now[refused], attempts[refused], share)
            left = np.ones(place.size, np.bool_)
            left[first] = False
            now, place, attempts = now[left], place[left], attempts[left]
        return served

    def _pass(self, refused: Ints, now: Floats, attempts: Ints, until_s: int, share: float) -> None:
        """Repeat these requests until they reach the store at the moment `until_s` or later.

        Some attempts of all of them are drawn at once, whether or not all these are made.
        """
        while refused.size:
            failed = attempts[refused, None] + np.arange(ATTEMPTS)
            reached = now[refused, None] + np.cumsum(self._wait_s(failed), axis=1)
            waits = reached < until_s
            made = np.minimum(waits.sum(axis=1) + 1, ATTEMPTS)
            self._errors[self._name] += round(share) * int(made.sum())
            attempts[refused] += made
            now[refused] = reached[np.arange(refused.size), made - 1]
            refused = refused[waits[:, -1]]

    def _wait_s(self, failed: Ints) -> Floats:
        """Draw the seconds from one attempt to the next, after so many failed attempts and one more."""
        lows, widths = _pauses()
        pause = np.minimum(failed, len(lows) - ATTEMPTS + failed % ATTEMPTS)
        drawn = self._latency.many(failed.size) + widths[pause].ravel() * self._uniform(failed.size)
        wait_s: Floats = lows[pause] + drawn.reshape(failed.shape)
        return wait_s


class _Room:
    """The room that a store has in each second.

    Args:
        rate_per_s: The number of requests that it serves in a second.
        coarse: Whether it has the room of a second at its beginning.
    """

    def __init__(self, rate_per_s: float, coarse: bool) -> None:
        self.rate_per_s, self._grows = rate_per_s, 0.0 if coarse else rate_per_s
        self._served: Counter[int] = Counter()  # the number of requests in each second
        self._left: dict[int, float] = {}  # the room that each second has from the time before it
        self._full: dict[int, int] = {}  # for a second without room, a later one before which none has room

    def take(self, now: float, count: float) -> bool:
        """Count this many requests at this moment and return True, unless there is no room for them."""
        second = int(now)
        self._begin(second, now)
        if self._of(second) - self._grows * (second + 1 - now) < count:
            return False
        self._count(second, count)
        return True

    def admit(self, at: Floats, share: float) -> NDArray[np.bool_]:
        """Count the requests that are served of those that come at these rising moments of one second.

        Args:
            at: The moments.
            share: The number of requests that each represents. It is served if there is room for one.

        Returns:
            Which of them are served.
        """
        second = int(at[0])
        self._begin(second, float(at[0]))
        free = (self._of(second) - 1 - self._grows * (second + 1 - at)) / share
        most, number = np.maximum(np.floor(free) + 1, 0), np.arange(at.size)
        count = number + np.minimum(np.minimum.accumulate(most - number), 1)  # of those served up to each
        self._count(second, float(count[-1]) * share)
        served: NDArray[np.bool_] = count > np.concatenate(([0.0], count[:-1]))
        return served

    def opens(self, second: int) -> int:
        """Return the first second with room, from this one on. A second that is full stays full."""
        passed, full = [], self._full
        while second in full or self._of(second) < 1:
            passed.append(second)
            if second not in full and self._end(second) < 0:
                self._begin(second + 1, second + 1)
            second = full.get(second, second + 1)
        for each in passed:
            full[each] = second
        return second

    def _begin(self, second: int, now: float) -> None:
        """Note that the first request of this second comes now. Room grows up to a second's worth."""
        if second not in self._left:
            before = self._end(second - 1) if second - 1 in self._left else self.rate_per_s
            self._left[second] = min(before, self.rate_per_s - self._grows * (now - second))

    def _end(self, second: int) -> float:
        """Return the room that this second leaves. It is less than 0 if a share was served that is greater than it."""
        return self._left.get(second, self.rate_per_s) + self.rate_per_s - self._served[second]

    def _of(self, second: int) -> float:
        """Return the room at the end of this second, as far as seconds after it have not taken of what it left."""
        left, spare, room = self._left, 0.0, self._end(second)
        while room >= 1 and second + 1 in left:
            spare += self._end(second) - left[second + 1]
            if spare >= room:
                break
            second += 1
            room = min(room, spare + self._end(second))
        return room

    def _count(self, second: int, count: float) -> None:
        """Count requests of a second that has begun. What they take is not left for the seconds after it."""
        self._served[second] += count  # type: ignore[assignment]
        left = self._left
        while second + 1 in left and left[second + 1] > (room := self._end(second)):
            second += 1
            left[second] = room
        if len(left) > 2 * _SECONDS:
            for oldest in sorted(left)[:-_SECONDS]:
                del left[oldest], self._served[oldest]
                self._full.pop(oldest, None)


@lru_cache(maxsize=1)
def _pauses() -> tuple[Floats, Floats]:
    """Return the least pause after each failed attempt of a request, in order, and how much longer it may be."""
    bounds = []
    for attempt in range(1, _TRIALS * ATTEMPTS + 1):
        failures, trial = divmod(attempt, ATTEMPTS)
        between = (lambda low, high: low), (lambda low, high: high)
        bounds.append([pause_s(trial, draw) if trial else outage_pause_s(failures, draw) for draw in between])
    lows, highs = np.array(bounds).T
    return lows, highs - lows
