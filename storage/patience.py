"""Waiting for a store that is down: calls are repeated as long as the patience with the store lasts.

`lambdaml.storage.retry` gets a request past a disturbance of seconds. A request that is still refused after that is
repeated here after pauses that grow from half a second to five, until the store answers or the patience runs out; then
the store's last error is raised. The watcher is told once of the outage and once of its end.

Repeating a whole `create` is safe. If the first attempt wrote the object after all, it is read back and recognised by
its bytes, which carry the writer's token; see `lambdaml.storage.backend.settle`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Self, TypeVar

from lambdaml.storage.backend import Around
from lambdaml.storage.blocking import blocking, run_now
from lambdaml.storage.errors import StoreUnavailable
from lambdaml.storage.meter import Meter
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo, Store
from lambdaml.storage.retry import HASTY_S, Retrying

T = TypeVar("T")
_Tell = Callable[[StoreUnavailable | None, float], None]

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0


def outage_pause_s(failures: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds to wait before a call that has failed so many times, from 1, is repeated."""
    longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 1, 9))
    return uniform(longest_s / 2, longest_s)


class Patience:
    """The patience of one process's requests with their store, and what they have found out about it.

    Args:
        patience_s: The seconds of failing after which a call fails for good; 0 repeats nothing.
        now, uniform: A clock in seconds, and a function that draws a random number between two others.
        tell: A function that takes the store's last error and the patience in seconds when an outage begins and again
            after each further failure, and None and the outage's seconds when it is over. It may raise, which ends
            the call.
        hurried: A function that becomes true when nobody has time to wait any more.

    Attributes:
        recovered_at: The time, by `now`, at which the store last answered a call that had failed before.
    """

    def __init__(
        self,
        patience_s: float,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        tell: _Tell = lambda error, seconds: None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self.patience_s = patience_s
        self.recovered_at = float("-inf")
        self._now = now
        self._uniform = uniform
        self._tell = tell
        self._hurried = hurried
        self._failing: set[_Trial] = set()
        self._since = 0.0

    @property
    def failing(self) -> bool:
        """Whether the store currently refuses some call."""
        return bool(self._failing)

    async def keep(self, call: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[None]]) -> T:
        """Make an awaited call until the store answers it.

        Raises:
            StoreUnavailable: If the patience has run out, for this call or an earlier one.
        """
        with _Trial(self) as trial:
            while True:
                try:
                    answer = await call()
                except StoreUnavailable as error:
                    pause_s = trial.failed(error)
                else:
                    trial.answered()
                    return answer
                await sleep(pause_s)

    def keep_now(self, call: Callable[[], T]) -> T:
        """Make a blocking call until the store answers it; see `keep`."""
        return run_now(self.keep(blocking(call), blocking(time.sleep)))

    def give_up(self) -> None:
        """Let calls fail for good as soon as they fail from now on."""
        self.patience_s = 0.0


class _Trial:
    """One call, from its beginning to its answer."""

    __slots__ = ("_begun", "_failures", "_patience")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._begun = patience._now()
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._patience._failing.discard(self)

    def failed(self, error: StoreUnavailable) -> float:
        """Return the seconds to wait before the call is repeated.

        Raises:
            StoreUnavailable: If the call should not be repeated.
        """
        patience = self._patience
        now = patience._now()
        seconds = now - self._begun
        if patience.patience_s <= 0 or patience._hurried():
            raise error
        if seconds > patience.patience_s:
            patience.give_up()
            raise type(error)(
                f"{error}; it was tried for {seconds:.0f} s in vain: resume the run when the store answers again"
            ) from error
        if not patience._failing:
            patience._since = self._begun
        patience._failing.add(self)
        patience._tell(error, patience.patience_s)
        self._failures += 1
        return outage_pause_s(self._failures, patience._uniform)

    def answered(self) -> None:
        """Note that the store answered."""
        patience = self._patience
        if self not in patience._failing:
            return
        patience.recovered_at = patience._now()
        patience._failing.discard(self)
        if not patience._failing:
            patience._tell(None, round(patience.recovered_at - patience._since, 1))


def hasten(store: Store) -> None:
    """Make a store give up calls soon, since they are repeated here."""
    if isinstance(store, Retrying):
        store.within_s = HASTY_S


class Patient(Around):
    """A store that waits while the store inside it is down; see `Patience`."""

    def __init__(self, inner: Store, patience: Patience) -> None:
        super().__init__(inner)
        self.patience = patience

    @property
    def meter(self) -> Meter | None:
        """The meter that counts the requests, if the store inside has one."""
        return getattr(self.inner, "meter", None)

    def wait_for(self, patience_s: float) -> None:
        """Wait this many seconds for the store from now on."""
        self.patience.patience_s = patience_s
        hasten(self.inner)

    def get(self, key: str) -> Bytes | None:
        return self.patience.keep_now(lambda: self.inner.get(key))

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        return self.patience.keep_now(lambda: self.inner.get_range(key, start, length))

    def put(self, key: str, data: Data) -> None:
        return self.patience.keep_now(lambda: self.inner.put(key, data))

    def create(self, key: str, data: Data) -> Bytes | None:
        return self.patience.keep_now(lambda: self.inner.create(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        return self.patience.keep_now(lambda: self.inner.head(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        found = self.inner.list(prefix, after)

        def step() -> ObjectInfo | None:
            nonlocal found
            try:
                return next(found, None)
            except StoreUnavailable:
                found = self.inner.list(prefix, after)  # listing continues after the last object that came
                raise

        while (info := self.patience.keep_now(step)) is not None:
            after = info.key
            yield info

    def delete(self, keys: Iterable[str]) -> None:
        doomed = [*keys]
        self.patience.keep_now(lambda: self.inner.delete(doomed))

    def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        return self.patience.keep_now(lambda: self.inner.get_many(keys))

    def wait(self, key: str, timeout_s: float) -> bool:
        return self.patience.keep_now(lambda: self.inner.wait(key, timeout_s))
