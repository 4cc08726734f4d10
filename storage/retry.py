"""Retries in one place: the clients inside retry nothing, so that each request sent is counted.

Limits grow from 50 ms by doubling to 5 s, and each wait is drawn uniformly from 0 up to its limit ("full jitter",
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from lambdaml.storage.backend import Around, batches, check_key, check_prefix
from lambdaml.storage.blocking import blocking, run_now
from lambdaml.storage.errors import StoreUnavailable
from lambdaml.storage.meter import Meter, Metered
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.url import masked

T = TypeVar("T")

_logger = logging.getLogger(__name__)

BASE_S = 0.05
_CAP_S = 5.0
ATTEMPTS = 8

HASTY_S = 9.0
"""The `within_s` for a store whose calls are repeated (`lambdaml.storage.patience`). A server that accepts requests and
never answers is given up after one attempt, so that the user can be told of it."""


def pause_s(attempt: int, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds to wait after the failed attempt of this number, which counts from 1."""
    return uniform(0.0, min(_CAP_S, BASE_S * 2 ** (attempt - 1)))


async def retried(
    call: Callable[[], Awaitable[T]],
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    uniform: Callable[[float, float], float],
    attempts: int = ATTEMPTS,
    within_s: float = float("inf"),
) -> T:
    """Make a call until it is answered, in at most `attempts` attempts.

    No attempt begins more than `within_s` seconds after the first one.

    Raises:
        StoreUnavailable: If the last attempt was refused, too.
    """
    begin = now()
    for attempt in range(1, attempts + 1):
        try:
            return await call()
        except StoreUnavailable as error:
            elapsed = now() - begin
            if attempt == attempts or elapsed > within_s:
                times = f"{attempt} attempt{'' if attempt == 1 else 's'}"
                raise type(error)(f"{error}; gave up after {times} in {elapsed:.1f} s") from error
            _logger.debug("attempt %d failed: %s", attempt, masked(str(error)))
            await sleep(pause_s(attempt, uniform))
    raise AssertionError("unreachable: attempts is at least 1")


class Retrying(Around):
    """The store that `open_store` returns, which repeats requests that failed with `StoreUnavailable`.

    It makes at most `attempts` requests, none of which begins more than `within_s` seconds after the first one.

    Every other error passes through at once. When the attempts run out, the last error is raised, and says how many
    there were and how long they took. `meter` counts every request, repeated ones included.

    Warning:
        A repeated `put` may land after somebody else's later put. `create` has no such problem: see `Backend.create`.

    Args:
        inner: The counted backend.
        attempts: The most requests for one call.
        sleep, uniform: The functions that tests replace; `uniform(a, b)` draws the wait in seconds.
    """

    inner: Metered

    def __init__(
        self,
        inner: Metered,
        attempts: int = ATTEMPTS,
        *,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(inner)
        self.attempts = attempts
        self.within_s = float("inf")
        self._sleep = sleep
        self._uniform = uniform

    @property
    def meter(self) -> Meter:
        """The meter that counts the requests made through this object."""
        return self.inner.meter

    def get(self, key: str) -> Bytes | None:
        check_key(key)
        return self._try(lambda: self.inner.get(key))

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        check_key(key)
        if start < 0 or length < 0:
            raise ValueError(f"no such range: {length} bytes from {start}")
        return self._try(lambda: self.inner.get_range(key, start, length))

    def put(self, key: str, data: Data) -> None:
        check_key(key)
        return self._try(lambda: self.inner.put(key, data))

    def create(self, key: str, data: Data) -> Bytes | None:
        check_key(key)
        return self._try(lambda: self.inner.create(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        return self._try(lambda: self.inner.head(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        resume: str | None = after
        while resume is not None:
            infos, resume = self._try(lambda at=resume: self.inner.page(prefix, at))  # type: ignore[misc]
            yield from infos

    def delete(self, keys: Iterable[str]) -> None:
        for batch in batches(check_key(key) for key in keys):
            self._try(lambda batch=batch: self.inner.delete(batch))  # type: ignore[misc]

    def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        if not self.inner.one_call:
            return super().get_many(keys)
        for key in keys:
            check_key(key)
        return self._try(lambda: self.inner.get_many(keys))

    def wait(self, key: str, timeout_s: float) -> bool:
        check_key(key)
        if not self.inner.one_call:
            return super().wait(key, timeout_s)
        deadline = time.monotonic() + timeout_s
        return self._try(lambda: self.inner.wait(key, max(0.0, deadline - time.monotonic())))

    def _try(self, call: Callable[[], T]) -> T:
        how = (time.monotonic, blocking(self._sleep), self._uniform, self.attempts, self.within_s)
        return run_now(retried(blocking(call), *how))
